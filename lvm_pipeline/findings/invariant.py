"""The declaration of an invariant, made once, beside the function that checks it.

    @invariant(severity=Severity.WARNING, remedy="Load the missing concepts.")
    def positions_have_no_gap(facts: ConceptFacts) -> Finding:
        \"\"\"Positions in an article count 0, 1, 2 and so on.\"\"\"
        gaps = ...
        return positions_have_no_gap.finding(passed=not gaps, message=f"{gaps} articles have gaps")

The name of the function is the name of the invariant, its docstring the meaning. Asset checks, alerts, reports and
`docs/checks.md` take their texts and severities from the declaration.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, ParamSpec, TypedDict, Unpack

from lvm_pipeline.findings.finding import Finding, Severity

P = ParamSpec("P")


class _Fields(TypedDict, total=False):
    observed: float | None
    allowed: float | None
    severity: Severity | None
    details: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Invariant:
    """A statement about data or a model that must hold."""

    name: str  # the statement as an identifier (`positions_have_no_gap`); the name of the Dagster check
    severity: Severity = Severity.BLOCKING  # what a failure does, unless a finding says otherwise
    meaning: str  # what holds if the check passes, and why it matters
    remedy: str  # what to do if it fails

    def finding(
        self,
        *,
        passed: bool,
        message: str,
        observed: float | None = None,
        allowed: float | None = None,
        severity: Severity | None = None,
        details: dict[str, Any] | None = None,
    ) -> Finding:
        """Return the result of a check; `severity` overrides the declared one for this finding."""
        return Finding(
            name=self.name,
            passed=bool(passed),
            severity=severity or self.severity,
            message=message,
            observed=None if observed is None else float(observed),
            allowed=None if allowed is None else float(allowed),
            remedy=self.remedy,
            details=details or {},
        )

    def from_problems(self, problems: Iterable[str], *, otherwise: str, **fields: Unpack[_Fields]) -> Finding:
        """Return a failure whose message lists the problems, or, without any, a pass with the message `otherwise`."""
        message = "; ".join(problems)
        return self.finding(passed=not message, message=message or otherwise, **{"allowed": 0, **fields})

    def from_count(self, num_bad: int, problem: str, *, otherwise: str, **fields: Unpack[_Fields]) -> Finding:
        """Return a failure with the message `problem` if `num_bad` is not 0, else a pass with `otherwise`."""
        return self.from_problems([problem] * bool(num_bad), otherwise=otherwise, **{"observed": num_bad, **fields})

    def not_checked(self, reason: str, *, details: dict[str, Any] | None = None) -> Finding:
        """Return a finding that passes but is reported as not checked."""
        return replace(self.finding(passed=True, message=reason, details=details), was_checked=False)


@dataclass(frozen=True, kw_only=True)
class InvariantCheck(Invariant, Generic[P]):
    """An invariant with the function that checks it. Calling it runs the check."""

    function: Callable[P, Finding]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Finding:
        return self.function(*args, **kwargs)


def invariant(
    *, remedy: str, severity: Severity = Severity.BLOCKING
) -> Callable[[Callable[P, Finding]], InvariantCheck[P]]:
    """Declare the decorated function as the check of an invariant; its docstring is the meaning."""

    def declare(function: Callable[P, Finding]) -> InvariantCheck[P]:
        meaning = " ".join((inspect.getdoc(function) or "").split())
        return InvariantCheck(
            name=function.__name__, severity=severity, meaning=meaning, remedy=remedy, function=function
        )

    return declare


def declared_in(*namespaces: Mapping[str, object]) -> tuple[InvariantCheck[...], ...]:
    """Return the checks declared in modules, given by their `vars()` or `globals()`, in the order of their lines."""
    found = [value for each in namespaces for value in each.values() if isinstance(value, InvariantCheck)]
    return tuple({each.name: each for each in found}.values())
