"""One thing that failed, and how it reads as a message."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

PASSWORD_IN_URL = re.compile(r"(?<=://)([^\s/@:]*):[^\s/@]+(?=@)")
HIDDEN = "***"
MIN_SECRET_LENGTH = 4  # shorter ones are words like `db`, which hide nothing and would blank out the sentence


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Something that failed.

    Attributes:
        alert_id: The same for the same failure, however often it is found: a check's execution, a run, a silence.
        happened_at: When, in seconds since 1970.
        title: What failed, in a few words.
        message: One sentence, for a person.
        remedy: What to do about it.
        is_warning: It stops nothing.
        asset: Whose check or materialization failed.
        partition: Of that asset.
        check: Name of the check.
        observed: What the check measured.
        allowed: What it would have accepted.
        dagster_run_id: The Dagster run in which it happened.
        link: Page of the Dagster web UI.
        repeats_by_itself: A schedule or sensor tries again, so that the same failure may soon come back.
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
        """What is the same for the same failure at every try; nothing where each is a failure of its own."""
        if not self.repeats_by_itself:
            return None
        return hashlib.sha256(f"{self.title}\n{self.message}".encode()).hexdigest()[:16]

    def body(self) -> str:
        """Return the text of the message: the sentence, what to do, then one line for each thing that is known."""
        known = {
            "asset": self.asset,
            "partition": self.partition,
            "check": self.check,
            "observed": _number(self.observed),
            "allowed": _number(self.allowed),
            "Dagster run": self.dagster_run_id,
            "alert": self.alert_id,
            "link": self.link,
        }
        sentences = [self.message] if self.remedy is None else [self.message, f"What to do: {self.remedy}"]
        return "\n".join([*sentences, "", *(f"{name}: {value}" for name, value in known.items() if value)])


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return a text with its secrets, and the passwords of every URL in it, hidden."""
    text = PASSWORD_IN_URL.sub(rf"\1:{HIDDEN}", text)
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_LENGTH:
            text = text.replace(secret, HIDDEN)
    return text


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"
