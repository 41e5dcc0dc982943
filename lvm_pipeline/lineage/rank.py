"""One of the processes that train a trial together.

    python -m torch.distributed.run --nproc-per-node=2 -m lvm_pipeline.lineage.rank FOLDER

The first tracks, checks and promotes the model, and writes the result; the others only train. Settings are read from
the environment, the trial from `request.json` in the folder.
"""

import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lvm_pipeline import files
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import InvariantError
from lvm_pipeline.lineage.launching import Exchange
from lvm_pipeline.lineage.models import follow_trial, train_trial
from lvm_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from lvm_pipeline.training.config import TrainingConfig
    from lvm_pipeline.training.progress import ProgressReport
    from lvm_pipeline.training.ranks import Ranks
    from lvm_pipeline.training.tracking import Tracker


def main(exchange: Exchange) -> None:
    """Train, unless the first rank has written the result before."""
    from lvm_pipeline.training.config import TrainingConfig
    from lvm_pipeline.training.ranks import joined_ranks
    from lvm_pipeline.training.settle import find_device

    if exchange.record.exists():
        return
    settings = load_settings()
    request = json.loads(exchange.request.read_text(encoding="utf-8"))
    config = TrainingConfig(**request["config"])
    try:
        with joined_ranks(find_device(config.device)) as ranks:
            config = config.with_options(device=ranks.device)
            if ranks.is_first:
                files.write_json(exchange.record, record_of(settings, config, request, ranks, exchange))
            else:
                follow_trial(settings, config, again=request["again"], ranks=ranks)
    except LvmError as error:  # every rank meets the same one
        if os.environ.get("RANK", "0") == "0":
            files.write_json(exchange.record, {"error": str(error), "findings": []})


def record_of(
    settings: Settings, config: "TrainingConfig", request: dict[str, Any], ranks: "Ranks", exchange: Exchange
) -> dict[str, Any]:
    """Train as the first rank and return the result."""

    def show(report: "ProgressReport") -> None:
        files.write_json(exchange.progress, asdict(report))

    tracker = opened_tracker(settings) if request["tracks"] else None
    record: dict[str, Any] = {"error": None, "findings": [], "was_trained": False, "tracking_problem": None}
    try:
        trained = train_trial(settings, config, tracker=tracker, progress=show, again=request["again"], ranks=ranks)
    except LvmError as error:
        findings = error.findings if isinstance(error, InvariantError) else []
        return {**record, "error": str(error), "findings": [finding.as_json() for finding in findings]}
    return {**record, "was_trained": trained.was_trained, "tracking_problem": trained.tracking_problem}


def opened_tracker(settings: Settings) -> "Tracker":
    """Return a tracker; after a restart, the run of the process before is closed."""
    from lvm_pipeline.adapters import mlflow_store
    from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker

    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        mlflow_store.close_abandoned_runs(settings)
    return MlflowTracker(settings)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    if threading.current_thread() is threading.main_thread():  # not in a worker of Ray Train
        signal.signal(signal.SIGTERM, _interrupt)
    main(Exchange(Path(sys.argv[1])))
