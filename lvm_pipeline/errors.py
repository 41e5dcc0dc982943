"""Errors that are shown to users as one sentence, without a traceback."""

import difflib
from collections.abc import Iterable


class LvmError(Exception):
    """Something the user can fix: one sentence, what happened and what to do.

    The command line prints only this sentence and exits with code 1; Dagster shows it as the failure of the step. It
    never contains secrets.
    """


class ServiceError(LvmError):
    """Something that all work needs is missing, such as a database or space on the disk: trying the next fails too."""


def first_line(error: Exception | str) -> str:
    """Return the first line of an error, or of its text, without the full stop.

    An error without a text gives the name of its type, an empty text the empty string.
    """
    without_text = "" if isinstance(error, str) else type(error).__name__
    return (str(error).strip().splitlines() or [without_text])[0].rstrip(".")


def nearest_or_all(name: str, known: Iterable[str]) -> str:
    """Return a hint for a name that does not exist: the most similar known name, or else all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}."
