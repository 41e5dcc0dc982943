"""One line of `lvm doctor`: a subject, its state, and the fix for a problem."""

from dataclasses import dataclass
from enum import StrEnum

from lvm_pipeline.errors import LvmError


class State(StrEnum):
    """State of a subject; only a `PROBLEM` must be fixed."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Result for one subject; every warning and problem has a `fix`, one sentence."""

    area: str
    subject: str
    state: State
    found: str
    fix: str | None = None


@dataclass(frozen=True)
class Subject:
    """What is examined; its methods make diagnoses."""

    area: str
    name: str

    def ok(self, found: str) -> Diagnosis:
        return self._diagnosis(State.OK, found, None)

    def warning(self, found: str, fix: str) -> Diagnosis:
        return self._diagnosis(State.WARNING, found, fix)

    def problem(self, found: str, fix: str) -> Diagnosis:
        return self._diagnosis(State.PROBLEM, found, fix)

    def refused(self, refusal: LvmError | str, *, fix: str) -> Diagnosis:
        """Return a problem from an error message that ends with what to do; else `fix` says it."""
        found, _, what_to_do = str(refusal).rpartition("; ")
        return self.problem(found, _sentence(what_to_do)) if found else self.problem(what_to_do, fix)

    def _diagnosis(self, state: State, found: str, fix: str | None) -> Diagnosis:
        return Diagnosis(area=self.area, subject=self.name, state=state, found=found.removesuffix("."), fix=fix)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].removesuffix('.')}."
