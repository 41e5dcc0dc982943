"""Sections of a report that need something that is not always there."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NotRun:
    """Stands in a report for a section that was not run."""

    not_run: str  # what is missing


NO_SMOOTHING = NotRun(
    not_run="No language model has rewritten the decoded predictions; set LVM_CHAT_URL and LVM_CHAT_MODEL, and run "
    "`lvm smooth`."
)
NO_PREFERENCE = NotRun(
    not_run="No rater has compared the texts; run `lvm smooth`, then `lvm preference create --rater NAME`."
)
NO_TEXT = NotRun(not_run="Predictions were not decoded to text.")
