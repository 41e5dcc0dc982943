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
    """A failure to report."""

    alert_id: str  # identifies the failure: a check execution, a run or a silence
    happened_at: float  # in seconds since 1970
    title: str  # what failed, in a few words
    message: str  # one sentence
    remedy: str | None = None  # what to do about it
    is_warning: bool = False  # whether the pipeline goes on
    asset: str | None = None  # the asset whose check or materialization failed
    partition: str | None = None  # its partition
    check: str | None = None  # name of the check
    observed: float | None = None  # what the check measured
    allowed: float | None = None  # the limit of the check
    dagster_run_id: str | None = None  # the Dagster run in which it happened
    link: str | None = None  # page of the Dagster web UI
    repeats_by_itself: bool = False  # whether a schedule or sensor retries, so that the same failure may come back

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
