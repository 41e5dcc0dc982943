"""Progress goes through files, so a stage in another process is seen too."""

import threading

import pytest

from lvm_pipeline.defs import progress
from lvm_pipeline.defs.progress import ProgressFile, StageProgress, stage_shown, watched
from lvm_pipeline.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


def test_watcher_sees_stages_begin_advance_and_end(settings, monkeypatch):
    monkeypatch.setattr(progress, "MIN_SECONDS", 0.0)
    seen, has_advanced = [], threading.Event()

    def on_progress(stage):
        seen.append(stage)
        if stage.done_fraction == 0.5:
            has_advanced.set()

    with watched(settings, on_progress):
        with stage_shown(settings, "trained_model", "lstm") as file:
            file.report(0.5, "epoch 3/6")
            assert has_advanced.wait(10)
        with stage_shown(settings, "leaderboard"):
            pass

    assert StageProgress(stage="trained_model", partition="lstm", done_fraction=0.5, note="epoch 3/6") in seen
    ended = [stage.stage for stage in seen if stage.state == "done"]
    assert ended == ["trained_model", "leaderboard"]


def test_a_stage_that_fails_says_so(settings):
    seen = []
    with watched(settings, seen.append), pytest.raises(ValueError, match="broken"), stage_shown(settings, "concepts"):
        raise ValueError("broken")

    assert seen[-1].state == "failed"


def test_earlier_progress_is_not_reported_again(settings):
    ProgressFile(settings, "concepts").report(1.0, state="done")
    seen = []

    with watched(settings, seen.append):
        pass

    assert seen == []


def test_frequent_reports_are_dropped_but_never_the_end(settings):
    file = ProgressFile(settings, "concepts")
    for done in range(1000):
        file.count(done, 1000)
    path = settings.home / "progress" / "concepts.json"
    assert '"done_fraction": 0.0' in path.read_text()

    file.report(1.0, state="done")

    assert '"state": "done"' in path.read_text()
