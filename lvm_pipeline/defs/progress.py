"""Progress of the stages: one small file per stage and partition in `LVM_HOME/progress`.

Stages run in other processes than the one that draws the progress bars, so they report through files. Each is replaced
whole, since it may be read at any time. Nothing else depends on them.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lvm_pipeline.settings import Settings

MIN_SECONDS = 0.2  # between two writes of a file, and two reads

StageState = Literal["running", "done", "failed"]


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """Progress of a stage; `note` is a few words, such as the epoch and the score so far."""

    stage: str
    partition: str | None = None
    done_fraction: float = 0.0
    note: str = ""
    state: StageState = "running"


OnProgress = Callable[[StageProgress], None]


class ProgressFile:
    """The progress file of one stage."""

    def __init__(self, settings: Settings, stage: str, partition: str | None = None):
        self._stage = stage
        self._partition = partition
        self._path = _folder(settings) / f"{stage}{'' if partition is None else f'-{partition}'}.json"
        self._written_at = 0.0

    def report(self, done_fraction: float, note: str = "", *, state: StageState = "running") -> None:
        """Write the progress. Reports that follow too soon are dropped, but never the end of a stage."""
        if state == "running" and time.monotonic() - self._written_at < MIN_SECONDS:
            return
        self._written_at = time.monotonic()
        progress = StageProgress(
            stage=self._stage, partition=self._partition, done_fraction=done_fraction, note=note, state=state
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        staged = self._path.with_suffix(f".{os.getpid()}")
        staged.write_text(json.dumps(asdict(progress)), encoding="utf-8")
        staged.replace(self._path)

    def count(self, done: int, total: int) -> None:
        self.report(done / total if total else 1.0)


@contextmanager
def stage_shown(settings: Settings, stage: str, partition: str | None = None) -> Iterator[ProgressFile]:
    """Show that a stage runs, and how it ended."""
    progress = ProgressFile(settings, stage, partition)
    progress.report(0.0)
    try:
        yield progress
    except BaseException:
        progress.report(1.0, state="failed")
        raise
    progress.report(1.0, state="done")


@contextmanager
def watched(settings: Settings, on_progress: OnProgress | None) -> Iterator[None]:
    """Call back with every change while the block runs, from a thread of its own."""
    if on_progress is None:
        yield
        return
    for path in _folder(settings).glob("*.json"):
        path.unlink(missing_ok=True)
    seen: dict[Path, StageProgress] = {}
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(MIN_SECONDS):
            _report_changes(settings, seen, on_progress)

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        _report_changes(settings, seen, on_progress)


def _report_changes(settings: Settings, seen: dict[Path, StageProgress], on_progress: OnProgress) -> None:
    for path in sorted(_folder(settings).glob("*.json"), key=_age):
        try:
            progress = StageProgress(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue  # replaced or removed meanwhile: the next look sees it
        if seen.get(path) != progress:
            seen[path] = progress
            on_progress(progress)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _folder(settings: Settings) -> Path:
    return settings.home / "progress"
