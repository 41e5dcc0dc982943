"""What an invariant found: the record that asset checks, the command line and tests share."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from lvm_pipeline.errors import LvmError

MAX_LISTED = 20  # offenders named in one finding; the count is always exact


class Severity(StrEnum):
    """What a failed invariant does: `BLOCKING` stops everything downstream, `WARNING` is only shown."""

    BLOCKING = "blocking"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One invariant's result.

    `name` is the invariant as a full statement (`articles_are_contiguous`). `message` is one
    sentence that names rows, articles or ids. `observed` and `allowed` are the numbers compared,
    so that Dagster can plot them. `details` holds JSON-able evidence, such as up to `MAX_LISTED`
    offenders. `was_checked` is False where the evidence was not at hand (for instance canaries
    without their encoder): such a finding passes but is shown as not checked.
    """

    name: str
    passed: bool
    severity: Severity
    message: str
    observed: float | None = None
    allowed: float | None = None
    was_checked: bool = True
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return asdict(self)

    @property
    def outcome(self) -> str:
        """What became of the invariant: `passed`, `failed` (it blocks), `warning` or `not checked`."""
        if self.passed:
            return "passed" if self.was_checked else "not checked"
        return "failed" if self.severity is Severity.BLOCKING else "warning"

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Finding":
        """Return the finding that `as_json` wrote, whatever a report added to it."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{**known, "severity": Severity(values["severity"])})


def blocking_failures(findings: Iterable[Finding]) -> list[Finding]:
    """Keep the findings that must stop everything downstream."""
    return [f for f in findings if not f.passed and f.severity is Severity.BLOCKING]


class InvariantError(LvmError):
    """Data broke a blocking invariant; `findings` holds every finding, passed ones too."""

    def __init__(self, findings: Iterable[Finding]):
        """Make the sentence from the blocking failures among the findings."""
        self.findings = list(findings)
        super().__init__("; ".join(f"{f.name}: {f.message}" for f in blocking_failures(self.findings)))


def raise_on_blocking(findings: Iterable[Finding]) -> None:
    """Raise if a blocking invariant failed.

    Raises:
        InvariantError: If any blocking finding did not pass.
    """
    findings = list(findings)
    if blocking_failures(findings):
        raise InvariantError(findings)
