"""Score a trained model on its validation split in a process of its own.

    python -m lvm_pipeline.training.rescore

reads one JSON line per model from stdin (model folder, concept table, sequence table, folder of vectors) and answers
each with one line. Scoring shares no state with the process that trained the model.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from lvm_pipeline.concepts.content_kinds import CONTENT
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.imports import end_without_search
from lvm_pipeline.measures.metrics import Spread, spread_of
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline.training.batches import condition_on_device, vectors_on_device
from lvm_pipeline.training.data import TrainingData, load_training_data
from lvm_pipeline.training.predictions import predict_spans, selection_metric
from lvm_pipeline.training.strategies import condition_of
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline.training.trial import Trial

MODULE = "lvm_pipeline.training.rescore"
ERROR = "error"  # key of an answer that holds no scores


@dataclass(frozen=True, kw_only=True)
class Rescore:
    """A model's validation metric and spread, measured again; `is_same_device`: on the device of its training."""

    score: float
    spread: Spread
    is_same_device: bool


Rescorer = Callable[[Path, Path, Path, Path], Rescore]  # folder of the model, concepts, sequences, folder of vectors


def rescore(
    model_dir: Path, concepts_path: Path, sequences_path: Path, vectors_dir: Path, *, data: TrainingData | None = None
) -> Rescore:
    """Load a trained model and score it on the validation split it was selected on.

    `data` are the tables, if they are open already.

    Raises:
        LvmError: If the model cannot be loaded, or was trained on other data.
    """
    data = data or load_training_data(concepts_path, sequences_path, vectors_dir)
    model, info = load_trained_model(model_dir, space_id=data.concepts.space_id)
    trial = Trial(**info.trial)
    if info.fingerprints != data.fingerprints or info.content_fingerprint != info.content_in(data.concepts):
        raise LvmError(f"The model in {model_dir} was trained on other data than {sequences_path}; train it again.")
    wanted = info.training["device"]
    is_same_device = _is_here(wanted)
    device = wanted if is_same_device else "cpu"
    torch.set_num_threads(info.training["num_threads"])
    spans = data.scored_spans("validation", mode=info.mode)
    condition = condition_on_device(condition_of(trial, data, condition_dim=model.config.condition_dim), device)
    predictions = predict_spans(model.to(device), vectors_on_device(data.vectors, device), spans, condition=condition)
    targets, mean = np.asarray(data.vectors[spans.target_rows()]), data.train_sample().mean(axis=0)
    return Rescore(
        score=selection_metric(info.selection_metric).measure(predictions, targets, mean),
        spread=spread_of(predictions, targets, mean),
        is_same_device=is_same_device,
    )


def _is_here(device: str) -> bool:
    """Whether this machine has a device, such as `cpu`, `cuda` or `cuda:1`."""
    kind, _, index = device.partition(":")
    return kind != "cuda" or int(index or 0) < torch.cuda.device_count()


def rescore_in_fresh_process(model_dir: Path, concepts_path: Path, sequences_path: Path, vectors_dir: Path) -> Rescore:
    """Score one model in the process of the `RescoringProcess` block around the call, or in one of its own.

    Raises:
        LvmError: If the model cannot be loaded and scored there.
    """
    shared = _shared.get()
    if shared is not None:
        return shared(model_dir, concepts_path, sequences_path, vectors_dir)
    with RescoringProcess() as score:
        return score(model_dir, concepts_path, sequences_path, vectors_dir)


class RescoringProcess:
    """One process that scores all models of a `with` block, each as in a process of its own.

    It starts with `start` or with the first model and ends with the block, so Python and torch are started once, and
    the tables are read once for each sequence table. Trainings inside the block use it automatically, also those that
    Dagster runs in this process. A nested block uses the process of the outer one.
    """

    def __enter__(self) -> "RescoringProcess":
        self._process: subprocess.Popen[str] | None = None
        self._outer = _shared.get()
        self._token: Token[RescoringProcess | None] = _shared.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _shared.reset(self._token)
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def start(self) -> None:
        """Start the process without waiting for it: it imports PyTorch while the caller does something else."""
        if self._outer is None:
            self._running()
        else:
            self._outer.start()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            command = [sys.executable, "-m", MODULE]
            # a process group of its own: Ctrl-C is for the caller, who ends the process
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
            )
        return self._process

    def __call__(self, model_dir: Path, concepts_path: Path, sequences_path: Path, vectors_dir: Path) -> Rescore:
        """Return the scores of one model. Raises LvmError if the model cannot be loaded and scored there."""
        if self._outer is not None:
            return self._outer(model_dir, concepts_path, sequences_path, vectors_dir)
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        paths = (model_dir, concepts_path, sequences_path, vectors_dir)
        try:
            process.stdin.write(json.dumps([str(path) for path in paths]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        values: dict[str, Any] = (
            json.loads(answer) if answer else {ERROR: f"the process ended with code {process.wait()}"}
        )
        if ERROR in values:
            raise LvmError(f"The model in {model_dir} could not be scored in a fresh process: {values[ERROR]}")
        return Rescore(**{**values, "spread": Spread(**values["spread"])})


# The process of the block that this thread is in.
_shared: ContextVar[RescoringProcess | None] = ContextVar("rescoring_process", default=None)


def serve() -> None:
    """Answer every line of stdin, until it is closed."""
    loaded: dict[tuple[str, str | None], TrainingData] = {}
    for line in sys.stdin:
        model_dir, *tables = map(Path, json.loads(line))
        try:
            content = read_concepts_metadata(tables[0]).content(CONTENT)
            key = read_sequences_metadata(tables[1]).fingerprint, content
            if key not in loaded:
                loaded = {key: load_training_data(*tables)}
            answer = asdict(rescore(model_dir, *tables, data=loaded[key]))
        except LvmError as error:
            answer = {ERROR: str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    end_without_search()
    serve()
