"""Trained models are scored again in the process of the test, since another starts longer than such models train."""

import pytest

from lvm_pipeline.training import rescore


def rescored_here(patch: pytest.MonkeyPatch) -> None:
    """Start no process that scores again."""
    patch.setattr(rescore, "rescore_in_fresh_process", rescore.rescore)
    patch.setattr(rescore.RescoringProcess, "start", lambda self: None)
