"""A training part-way through, and the checkpoint from which it goes on as if nothing had happened.

One file of tensors (weights, optimiser moments, best weights, random state) whose header holds the
counters and metrics, written whole or not at all.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.trained_model import load_tensors, read_header, save_tensors

RUN_KEY, PROGRESS_KEY = "lvm_training", "lvm_progress"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(kw_only=True)
class Progress:
    """Counters and metrics of a training.

    Attributes:
        epoch: The epoch under way, from 1; 0 before the start.
        step_in_epoch: Steps done in it.
        step: Steps done in all.
        seconds: Time spent in steps and validation.
        epoch_started_seconds: `seconds` when the epoch began.
        best_epoch: Epoch of the best weights.
        best_score: Their validation metric.
        history: Metrics of each finished epoch, the start first.
        unreported: Metrics by step since the last report.
        targets_in_epoch: Targets seen in this epoch.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_started_seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = float("nan")
    history: list[dict[str, float]] = field(default_factory=list)
    unreported: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    targets_in_epoch: int = 0

    def note(self, name: str, value: float) -> None:
        """Keep a metric of the present step until it is reported."""
        self.unreported.setdefault(name, []).append((self.step, value))


@dataclass(kw_only=True)
class TrainingState:
    """Everything that decides how a training goes on."""

    model: LatentVectorModel
    optimiser: torch.optim.Optimizer
    progress: Progress
    best_weights: dict[str, Tensor]


def copied_weights(model: LatentVectorModel) -> dict[str, Tensor]:
    """Copy the weights as they are now to the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def save_state(path: Path, state: TrainingState, run: Mapping[str, Any]) -> None:
    """Write a checkpoint of the training that `run` identifies."""
    tensors = {f"model.{name}": tensor for name, tensor in copied_weights(state.model).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best_weights.items()}
    for name, parameter in state.model.named_parameters():
        moments = state.optimiser.state.get(parameter, {})
        tensors |= {f"optimiser.{key}.{name}": moments[key].to("cpu", copy=True) for key in MOMENTS if key in moments}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors |= {f"random.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    header = {RUN_KEY: json.dumps(run, sort_keys=True), PROGRESS_KEY: json.dumps(asdict(state.progress))}
    save_tensors(path, tensors, header)


def load_state(path: Path, state: TrainingState, run: Mapping[str, Any]) -> bool:
    """Go on from a checkpoint if there is a readable one of the very same training.

    Args:
        path: The checkpoint.
        state: Overwritten in place.
        run: What identifies the training.

    Returns:
        Whether the state was restored; a checkpoint of another training, or a damaged one, is not used.
    """
    if not path.is_file():
        return False
    try:
        header, tensors = read_header(path), load_tensors(path)
    except LvmError:
        return False
    if header.get(RUN_KEY) != json.dumps(run, sort_keys=True):
        return False
    state.model.load_state_dict(_with_prefix(tensors, "model."))
    state.best_weights = {name: tensor.clone() for name, tensor in _with_prefix(tensors, "best.").items()}
    for name, parameter in state.model.named_parameters():
        found = {key: tensors[f"optimiser.{key}.{name}"] for key in MOMENTS if f"optimiser.{key}.{name}" in tensors}
        if found:
            state.optimiser.state[parameter] = {
                key: tensor.to(parameter.device, copy=True) for key, tensor in found.items()
            }
    torch.set_rng_state(tensors["random.cpu"].clone())
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        torch.cuda.set_rng_state(tensors[f"random.cuda.{index}"].clone(), index)
    state.progress = Progress(**json.loads(header[PROGRESS_KEY]))
    return True


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
