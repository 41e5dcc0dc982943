"""An alert and its text."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

PASSWORD_IN_URL = re.compile(r"(?<=://)([^\s/@:]*):[^\s/@]+(?=@)")
HIDDEN = "***"
MIN_SECRET_LENGTH = 4  # shorter ones are words like `db`


@dataclass(frozen=True, kw_only=True)
class Alert:
    """A failure to report.

    Attributes:
        alert_id: Identifies the failure: a check execution, a run or a silence.
        happened_at: In seconds since 1970.
        title: What failed, in a few words.
        message: One sentence.
        remedy: What to do about it.
        is_warning: Whether the pipeline goes on.
        asset: The asset whose check or materialization failed.
        partition: Its partition.
        check: Name of the check.
        observed: What the check measured.
        allowed: The limit of the check.
        dagster_run_id: The Dagster run in which it happened.
        link: Page of the Dagster web UI.
        repeats_by_itself: Whether a schedule or sensor retries, so that the same failure may come back.
    """

    alert_id: str
    happened_at: float
    title: str
    message: str
    remedy: str | None = None
    is_warning: bool = False
    asset: str | None = None
    partition: str | None = None
    check: str | None = None
    observed: float | None = None
    allowed: float | None = None
    dagster_run_id: str | None = None
    link: str | None = None
    repeats_by_itself: bool = False

    @property
    def series(self) -> str | None:
        """Identifies retries with the same failure; None if nothing retries."""
        text = f"{self.title}\n{self.message}"
        return hashlib.sha256(text.encode()).hexdigest()[:16] if self.repeats_by_itself else None

    def body(self) -> str:
        """Return the text of the message: the sentence, what to do, then one line for each known field."""
        known = {
            "asset": self.asset,
            "partition": self.partition,
            "check": self.check,
            "observed": None if self.observed is None else f"{self.observed:g}",
            "allowed": None if self.allowed is None else f"{self.allowed:g}",
            "Dagster run": self.dagster_run_id,
            "alert": self.alert_id,
            "link": self.link,
        }
        sentences = [self.message] if self.remedy is None else [self.message, f"What to do: {self.remedy}"]
        return "\n".join([*sentences, "", *(f"{name}: {value}" for name, value in known.items() if value)])


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Hide secrets and the passwords of URLs in a text."""
    text = PASSWORD_IN_URL.sub(rf"\1:{HIDDEN}", text)
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_LENGTH:
            text = text.replace(secret, HIDDEN)
    return text
