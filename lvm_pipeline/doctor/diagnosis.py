"""One line of `lvm doctor`: what was looked at, how it is, and the fix where something is wrong."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from lvm_pipeline.errors import LvmError


class State(StrEnum):
    """How something is: a `WARNING` can be lived with, a `PROBLEM` stops work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found of one subject; `fix` is one sentence, there for every warning and problem."""

    area: str
    subject: str
    state: State
    found: str
    fix: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the diagnosis as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """What is looked at; its methods say how it is."""

    area: str
    name: str

    def ok(self, found: str) -> Diagnosis:
        """Nothing has to be done."""
        return self._diagnosis(State.OK, found, None)

    def warning(self, found: str, fix: str) -> Diagnosis:
        """Something that can be lived with."""
        return self._diagnosis(State.WARNING, found, fix)

    def problem(self, found: str, fix: str) -> Diagnosis:
        """Something that stops work."""
        return self._diagnosis(State.PROBLEM, found, fix)

    def refused(self, refusal: LvmError | str, *, fix: str) -> Diagnosis:
        """The library's own refusal, whose sentence ends with what to do; `fix` is for one that does not."""
        found, _, what_to_do = str(refusal).rpartition("; ")
        return self.problem(found, _sentence(what_to_do)) if found else self.problem(what_to_do, fix)

    def _diagnosis(self, state: State, found: str, fix: str | None) -> Diagnosis:
        return Diagnosis(area=self.area, subject=self.name, state=state, found=found.removesuffix("."), fix=fix)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].removesuffix('.')}."
