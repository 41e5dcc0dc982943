"""A training part-way through, and the checkpoint from which it resumes as if nothing had happened.

One file of tensors (weights, their average, optimiser moments, best weights, random states) whose header holds counters
and metrics.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import promote
from lvm_pipeline.training.averaging import WeightAverage
from lvm_pipeline.training.trained_model import load_tensors, read_header, save_tensors

IDENTITY_KEY, PROGRESS_KEY, HASH_KEY = "lvm_training", "lvm_progress", "lvm_hash"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
MAX_NAMED = 3  # differences between a checkpoint and a training that a message lists
logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Progress:
    """Counters and metrics of a training."""

    phase: int = 0  # index of the phase under way
    first_epoch_of_phase: int = 0  # last epoch before the phase
    # for each phase so far, what each term of its objective is divided by
    objective_scales: list[dict[str, float]] = field(default_factory=list)
    epoch: int = 0  # the epoch under way, from 1 over all phases; 0 before the first
    step_in_epoch: int = 0  # steps done in it
    step: int = 0  # steps done in total
    seconds: float = 0.0  # time spent in steps and validation
    epoch_started_seconds: float = 0.0  # `seconds` when the epoch began
    best_epoch: int = 0  # epoch of the best weights
    best_score: float = float("nan")  # their validation metric
    # metrics of each finished epoch, before training first
    history: list[dict[str, float]] = field(default_factory=list)
    # metrics by step since the last report
    unreported: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    targets_in_epoch: int = 0  # targets seen in this epoch

    @property
    def last_epoch(self) -> int:
        return len(self.history) - 1

    @property
    def epochs_in_phase(self) -> int:
        """Finished epochs of the phase under way."""
        return self.last_epoch - self.first_epoch_of_phase

    def note(self, name: str, value: float) -> None:
        self.unreported.setdefault(name, []).append((self.step, value))


@dataclass(kw_only=True)
class TrainingState:
    """Everything that a checkpoint has to hold."""

    model: LatentVectorModel
    optimiser: torch.optim.Optimizer
    progress: Progress
    best_weights: dict[str, Tensor]
    terms: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    average: WeightAverage | None = None

    def learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter that the optimiser changes, those of the model first."""
        yield from self.model.named_parameters()
        yield from self.terms.named_parameters(prefix="terms")


def copied_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy the whole weights to the CPU; if they are sharded, every rank has to call it."""
    return {name: _copied(tensor) for name, tensor in model.state_dict().items()}


def _copied(tensor: Tensor) -> Tensor:
    gather = getattr(tensor, "full_tensor", None)  # of a DTensor, where FSDP2 has split it
    return (tensor if gather is None else gather()).detach().to("cpu", copy=True)


def save_checkpoint(
    path: Path, tensors: dict[str, Tensor], progress: Progress, identity: Mapping[str, Any], *, num_kept: int = 2
) -> None:
    """Write a checkpoint of the training with this identity and keep the latest `num_kept`, this one included.

    A process killed at any moment leaves at least one whole checkpoint if there was one before.
    """
    header = {IDENTITY_KEY: json.dumps(identity, sort_keys=True), PROGRESS_KEY: json.dumps(asdict(progress))}
    header[HASH_KEY] = content_hash(tensors, header)
    staged = path.with_name(f".{path.name}.new")
    save_tensors(staged, tensors, header)
    _make_room(path, num_kept)
    promote(staged, path)


def checkpoint_tensors(state: TrainingState) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint, whole and on the CPU; see `copied_weights`."""
    tensors = {f"model.{name}": tensor for name, tensor in copied_weights(state.model).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best_weights.items()}
    tensors |= {f"terms.{name}": tensor for name, tensor in copied_weights(state.terms).items()}
    if state.average is not None:
        tensors |= {f"average.{name}": _copied(tensor) for name, tensor in state.average.weights.items()}
    for name, parameter in state.learned():
        moments = state.optimiser.state.get(parameter, {})
        tensors |= {f"optimiser.{key}.{name}": _copied(moments[key]) for key in MOMENTS if key in moments}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors |= {f"random.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return tensors


def find_checkpoint(path: Path, identity: Mapping[str, Any], *, again: bool = False) -> Path | None:
    """Return the newest whole checkpoint of this training at or before `path`; None to start from the beginning.

    A damaged one is skipped, with a warning, if there is an earlier one. A checkpoint of other data is set aside, with
    a warning, and training starts afresh. With `again`, so is any checkpoint that cannot be resumed. What is set aside
    stays in the folder of the checkpoint, which is deleted when the training has ended.

    Raises:
        LvmError: If all checkpoints are damaged, or the newest is of other options or code; it stays where it is.
    """
    delete_staged(path)
    kept = kept_checkpoints(path)
    problems = {each: problem for each in kept if (problem := _damage(each)) is not None}
    whole = [each for each in kept if each not in problems]
    for each in problems if whole else ():
        logger.warning("The checkpoint %s is skipped: it is damaged (%s).", each.name, problems[each])
    if not kept:
        return None
    newest = whole[0] if whole else kept[0]
    found = json.loads(read_header(newest)[IDENTITY_KEY]) if whole else {}
    wanted = json.loads(json.dumps(identity))
    problem = _difference_in_words(found, wanted) if whole else f"it is damaged ({problems[newest]})"
    if problem is None:
        return newest
    is_of_other_data = bool(found) and found.get("data") != identity["data"]
    if not (again or is_of_other_data):
        raise LvmError(
            f"The checkpoint {newest} cannot be resumed: {problem}. Train with --again (launchpad: again) to start "
            "from the beginning; the checkpoint is set aside until that training has ended."
        )
    logger.warning(
        "Training starts from the beginning, since the checkpoint cannot be resumed: %s. It is set aside as %s until "
        "the training has ended.",
        problem,
        _set_aside(newest),
    )
    for each in kept:
        each.unlink(missing_ok=True)
    return None


def restore_checkpoint(path: Path | None, state: TrainingState) -> bool:
    """Load a checkpoint into the state, if `path` is not None; return whether it was loaded."""
    if path is None:
        return False
    _restore(state, read_header(path), load_tensors(path))
    return True


def kept_checkpoints(path: Path) -> list[Path]:
    """Return the checkpoint at `path` and those before it, newest first."""
    earlier = [
        (int(found[1]), each)
        for each in path.parent.glob(f"{path.stem}.*{path.suffix}")
        if (found := re.fullmatch(rf"{re.escape(path.stem)}\.(\d+){re.escape(path.suffix)}", each.name))
    ]
    return [each for each in (path, *(each for _, each in sorted(earlier))) if each.is_file()]


def delete_staged(path: Path) -> None:
    """Delete what killed trainings left half-written."""
    for staged in path.parent.glob(f".*{path.name}*"):
        staged.unlink(missing_ok=True)


def _make_room(path: Path, num_kept: int) -> None:
    """Rename the checkpoint at `path` to number 1, increment earlier numbers, and delete what exceeds `num_kept`."""
    kept = kept_checkpoints(path)
    for each in kept[max(0, num_kept - 1) :]:
        if each != path:  # which is replaced in one step
            each.unlink()
    for number, each in reversed(list(enumerate(kept[: num_kept - 1], start=1))):
        each.replace(path.with_name(f"{path.stem}.{number}{path.suffix}"))


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint file; None if its content has the hash that its header states."""
    try:
        header, tensors = read_header(path), load_tensors(path)
        json.loads(header[IDENTITY_KEY])
        hash_stated = header.pop(HASH_KEY)
    except (LvmError, KeyError, ValueError) as error:
        return str(error).split(";")[0]
    return None if hash_stated == content_hash(tensors, header) else "its content does not match its hash"


def content_hash(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Hash names, types, shapes and bytes of tensors on the CPU, and the texts of the header."""
    digest = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _restore(state: TrainingState, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    state.model.load_state_dict(_with_prefix(tensors, "model."))
    state.best_weights = {name: tensor.clone() for name, tensor in _with_prefix(tensors, "best.").items()}
    state.terms.load_state_dict(_with_prefix(tensors, "terms."))
    if state.average is not None:
        state.average.restore(_with_prefix(tensors, "average."))
    for name, parameter in state.learned():
        found = {key: tensors[f"optimiser.{key}.{name}"] for key in MOMENTS if f"optimiser.{key}.{name}" in tensors}
        if found:
            state.optimiser.state[parameter] = {
                key: tensor.to(parameter.device, copy=True) for key, tensor in found.items()
            }
    torch.set_rng_state(tensors["random.cpu"].clone())
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"random.cuda.{index}" in tensors:  # written by a machine with fewer GPUs, or none
            torch.cuda.set_rng_state(tensors[f"random.cuda.{index}"].clone(), index)
    state.progress = Progress(**json.loads(header[PROGRESS_KEY]))


def _difference_in_words(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Describe how a checkpoint and a training differ; None if they agree."""
    pairs, own = dict(_leaves(found)), dict(_leaves(wanted))
    names = [name for name in sorted({*pairs, *own}) if pairs.get(name) != own.get(name)]
    if not names:
        return None
    listed = [f"{name} was {pairs.get(name)!r} and is {own.get(name)!r}" for name in names[:MAX_NAMED]]
    return "; ".join(listed) + (f"; and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _set_aside(path: Path) -> Path:
    """Rename a checkpoint, so that it is not among those of the training; return where it is now."""
    number = 1
    while (aside := path.with_name(f"unusable-checkpoint-{number}{path.suffix}")).exists():
        number += 1
    return path.replace(aside)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
