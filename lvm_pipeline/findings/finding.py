"""A finding: the result of checking one invariant. Asset checks, reports, the command line and tests share it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from lvm_pipeline.errors import LvmError

MAX_LISTED = 20  # offenders listed in one finding; the count is always exact


class Severity(StrEnum):
    """What a failed check does: `BLOCKING` stops everything downstream, `WARNING` is only reported."""

    BLOCKING = "blocking"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of checking one invariant. Made by `Invariant.finding`, which fills in name, severity and remedy."""

    name: str  # the invariant, as a full statement (`articles_are_contiguous`)
    passed: bool  # whether the invariant holds. True where it could not be checked
    severity: Severity  # what a failure does
    message: str  # one sentence that names rows, articles or ids
    observed: float | None = None  # the measured number, which Dagster plots
    allowed: float | None = None  # the number it was compared with
    was_checked: bool = True  # false where the evidence was missing, such as an encoder that is not installed
    remedy: str = ""  # what to do if the check failed
    details: dict[str, Any] = field(default_factory=dict)  # JSON values, such as up to `MAX_LISTED` offenders

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "outcome": self.outcome}

    @property
    def outcome(self) -> str:
        if self.passed:
            return "passed" if self.was_checked else "not checked"
        return "failed" if self.severity is Severity.BLOCKING else "warning"

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Finding":
        """Return the finding that `as_json` wrote; keys that a report added are ignored."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{**known, "severity": Severity(values["severity"])})


def blocking_failures(findings: Iterable[Finding]) -> list[Finding]:
    """Return the failed findings whose severity is `BLOCKING`."""
    return [f for f in findings if not f.passed and f.severity is Severity.BLOCKING]


class InvariantError(LvmError):
    """A blocking check failed. `findings` holds all findings, passed ones too."""

    def __init__(self, findings: Iterable[Finding]):
        self.findings = list(findings)
        failed = blocking_failures(self.findings)
        super().__init__(" ".join(f"{f.name}: {f.message.rstrip('.')}. {f.remedy}".rstrip() for f in failed))


def raise_on_blocking(findings: Iterable[Finding]) -> None:
    findings = list(findings)
    if blocking_failures(findings):
        raise InvariantError(findings)


def listed(items: Sequence[object], total: int | None = None) -> str:
    """Join the first `MAX_LISTED` items with commas, and say how many more there are of `total`."""
    num_more = (len(items) if total is None else total) - min(len(items), MAX_LISTED)
    return ", ".join(str(item) for item in items[:MAX_LISTED]) + (f" and {num_more:,} more" if num_more else "")
