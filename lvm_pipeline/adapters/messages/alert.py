"""An alert and its text."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

PASSWORD_IN_URL = re.compile(r"(?<=://)([^\s/@:]*):[^\s/@]+(?=@)")
HIDDEN = "***"
MIN_SECRET_LENGTH = 4  # shorter ones are words like `db`

Level = Literal["info", "warning", "failure"]
LEVELS: tuple[Level, ...] = ("info", "warning", "failure")
Repeat = Literal["if_worse", "daily", "always"]


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Something to report: a failure, its end, or the summary of a retraining."""

    alert_id: str  # identifies the event: a check execution, a run, a silence or a retraining
    happened_at: float  # in seconds since 1970
    title: str  # what happened, in a few words
    message: str  # one sentence, or one line for each part of a summary
    remedy: str | None = None  # what to do about it
    level: Level = "failure"  # `warning` if the pipeline goes on, `info` if nothing is wrong
    asset: str | None = None  # the asset whose check or materialization failed
    partition: str | None = None  # its partition
    check: str | None = None  # name of the check
    observed: float | None = None  # what the check measured
    allowed: float | None = None  # the limit of the check
    dagster_run_id: str | None = None  # the Dagster run in which it happened
    link: str | None = None  # page of the Dagster web UI
    report: str | None = None  # page of the report with more about it
    state: str | None = None  # key of the failing check or run; None for an alert that is sent once
    is_over: bool = False  # it works again; reported only if its failure was
    repeat: Repeat = "always"  # when a failure that was reported is reported again
    is_summed_up: bool = False  # the summary of a retraining reports it

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
            "report": self.report,
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
