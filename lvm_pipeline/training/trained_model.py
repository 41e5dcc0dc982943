"""Trained models on disk: safetensors for numbers, JSON for everything else, never pickle.

A trained model is a folder with `model.safetensors` and `trained_model.json`. The weights carry the identity of what
they belong to in their own header, so that another class, config or space that happens to have the same keys and shapes
is refused. An ensemble also has the folder `members`, with the trained model of each; its own weights are those of the
mean.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import LatentVectorModel, ModelConfig, config_with, count_parameters
from lvm_pipeline.architectures._ensemble import Ensemble, EnsembleConfig, EnsembleMember
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.concepts.schema import ConceptsMetadata
from lvm_pipeline.concepts.store import explain_full_disk
from lvm_pipeline.errors import LvmError, first_line
from lvm_pipeline.files import read_json, restore_dir, staged_dir, staged_file, usual_mode, write_json
from lvm_pipeline.training.config import problems_in_words
from lvm_pipeline.training.strategies import content_kinds, extended
from lvm_pipeline.training.trial import Trial

SCHEMA_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
INFO_FILE = "trained_model.json"
MEMBERS_DIR = "members"  # in an ensemble's folder: the trained model of each member, under its trial id
IDENTITY_KEY = "lvm_identity"
PACKAGE = __name__.partition(".")[0]
# Names of weights and classes in files of earlier versions, and their present names.
EARLIER_WEIGHTS = {"enter": "input_projection", "leave": "output_projection"}
EARLIER_CLASSES = {"._denoiser.SelfAlone": "._denoiser.PointwiseAttention"}


@dataclass(frozen=True, kw_only=True)
class Member:
    trial_id: str  # its trial; its files are in the folder of this name
    architecture: str  # its architecture
    preset: str  # its preset
    mode: str  # `windows` or `articles`: what it reads, in the ensemble too
    weight: float  # its part of the mean
    score: float  # its own validation cosine
    weights_fingerprint: str  # hash of its weights
    # which of the concept table's texts, codes and negatives its training read
    content: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TrainedModelInfo:
    """Record of a trained model, kept beside its weights."""

    architecture: str  # name of the architecture
    preset: str  # preset that the config started from
    model_class: str  # class that the weights belong to, and the classes of its parts
    config: dict[str, Any]  # the model's config
    num_params: int  # learned values
    space_id: str  # space of the vectors it reads and predicts
    trial: dict[str, Any]  # the options that tell its trial from others
    training: dict[str, Any]  # every training option, with all defaults settled
    mode: str  # `windows` or `articles`: the contexts that the scores were measured with
    seed: int  # random seed
    code_version: str  # of the sources that decide what a training computes
    packages: dict[str, str]  # versions of Python and packages
    fingerprints: dict[str, str]  # fingerprint of each data product read
    context_length: int  # context concepts of a sequence
    split: dict[str, Any]  # rule, seed and counts of the split
    is_leaking: bool  # whether the sequences leak, so that the scores say nothing about unseen articles
    arithmetic: dict[str, float]  # decay and article weight that the residual head started from
    selection_metric: str  # validation metric that chose the checkpoint
    score: float  # its value for these weights
    start_score: float  # its value before the first step
    best_epoch: int  # epoch whose weights these are; 0 is the start
    history: list[dict[str, float]]  # metrics of each epoch
    training_seconds: float  # time in optimiser steps and validation
    trained_on: str  # the device, in words
    # what each strategy did with the data, one sentence each
    strategy_notes: dict[str, str] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)  # the members of an ensemble; empty for any other model
    # whether it reads something of its targets, so that it cannot predict what is not known yet
    is_oracle: bool = False
    # fingerprint of the texts, codes and negatives, if its training, or that of a member, read any of them and their
    # table had one
    content_fingerprint: str | None = None
    # fingerprints of what its strategies read beside the tables, such as a trained text decoder, by name
    strategy_fingerprints: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def trial_id(self) -> str:
        return Trial(**self.trial).trial_id

    def content_in(self, concepts: ConceptsMetadata) -> str | None:
        """Return what `content_fingerprint` has to be for this model to be of the table with this metadata."""
        return concepts.content(content_kinds(Trial(**self.trial)).union(*(each.content for each in self.members)))

    @property
    def built_from(self) -> list[tuple[str, str]]:
        """Architecture and preset of the model, or of each member of an ensemble."""
        return [(each.architecture, each.preset) for each in self.members] or [(self.architecture, self.preset)]

    @property
    def identity(self) -> str:
        """Identity that must match before weights are loaded."""
        return identity_of(self.architecture, self.model_class, self.config, self.space_id)


def identity_of(architecture: str, model_class: str, config: Mapping[str, Any], space_id: str) -> str:
    """Return architecture, class, config and space as one text that can be compared."""
    values = {"architecture": architecture, "model_class": model_class, "config": dict(config), "space_id": space_id}
    return json.dumps(values, sort_keys=True)


def class_name(model: LatentVectorModel) -> str:
    """Return the class of a model with its module, and those of all parts that this project wrote.

    The frame is shared by architectures, so its class alone would not tell one from another with equal keys and shapes.
    """
    own, *parts = (f"{each.__module__}.{each.__qualname__}" for each in map(_written_class, model.modules()))
    written_here = sorted({part for part in parts if part.startswith(f"{PACKAGE}.")})
    return f"{own} of {', '.join(written_here)}" if written_here else own


def _written_class(module: nn.Module) -> type:
    """Return the class of a module; for a sharded one, the class that FSDP2 made a subclass of."""
    found = type(module)
    return found.__bases__[1] if found.__bases__[0].__name__ == "FSDPModule" else found


def save_trained_model(model_dir: Path, weights: Mapping[str, Tensor], info: TrainedModelInfo) -> None:
    """Write a trained model whole, in place of an earlier one at the same path, or not at all."""
    with explain_full_disk(model_dir.parent), staged_dir(model_dir) as staged:
        save_tensors(staged / WEIGHTS_FILE, weights, {IDENTITY_KEY: info.identity})
        write_json(staged / INFO_FILE, info.as_json())


def read_trained_model_info(model_dir: Path) -> TrainedModelInfo:
    """Read the record of a trained model. Raises LvmError if there is no trained model, or it is not readable."""
    path = model_dir / INFO_FILE
    restore_dir(model_dir)
    if not path.is_file():
        raise LvmError(f"There is no trained model in {model_dir}; train one with `lvm train` or `lvm run`.")
    values = read_json(path, remedy="train the model again.")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise LvmError(f"{path} is not a record of schema version {SCHEMA_VERSION}; train the model again.")
    required = {f.name for f in fields(TrainedModelInfo) if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(required - {"trial"} - set(values))  # earlier versions wrote no trial
    if missing:
        raise LvmError(f"{path} lacks {', '.join(missing)}; train the model again.")
    try:
        _adapter().validate_python({"trial": {}, **values})
        trial = trial_in(values)
    except ValidationError as error:
        raise LvmError(f"{path} cannot be read ({problems_in_words(error)}); train the model again.") from None
    values["trial"] = trial.identity()
    values["model_class"] = _present_classes(values["model_class"])
    values["members"] = [Member(**each) for each in values.get("members", [])]
    return TrainedModelInfo(**{f.name: values[f.name] for f in fields(TrainedModelInfo) if f.name in values})


@functools.cache
def _adapter() -> TypeAdapter[TrainedModelInfo]:
    return TypeAdapter(TrainedModelInfo)


def _present_classes(text: str) -> str:
    for earlier, present in EARLIER_CLASSES.items():
        text = text.replace(earlier, present)
    return text


def _present_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = ((name.split("."), tensor) for name, tensor in tensors.items())
    return {".".join(EARLIER_WEIGHTS.get(part, part) for part in name): tensor for name, tensor in parts}


def trial_in(values: Mapping[str, Any]) -> Trial:
    """Return the trial of a record; records of earlier versions hold every option of their training instead."""
    options = values.get("trial", values["training"])
    return Trial(**{name: value for name, value in options.items() if name in Trial.model_fields})


def load_trained_model(
    model_dir: Path, *, architecture: str | None = None, space_id: str | None = None, device: str = "cpu"
) -> tuple[LatentVectorModel, TrainedModelInfo]:
    """Load a trained model for prediction, in evaluation mode, with its record.

    Raises:
        LvmError: If there is no readable model, it is of another `architecture` or `space_id` than asked for, or its
            weights belong to another class, config or space.
    """
    info = read_trained_model_info(model_dir)
    for wanted, found, what in ((architecture, info.architecture, "architecture"), (space_id, info.space_id, "space")):
        if wanted is not None and wanted != found:
            raise LvmError(
                f"The model in {model_dir} is of {what} {found}, not {wanted}; use the model that belongs here."
            )
    neighbours = bool(info.config.get("neighbours", False))
    model = ensemble_from(model_dir, info.members, neighbours=neighbours) if info.members else _built(info)
    _refuse_other_class(model_dir, model, info)
    path = model_dir / WEIGHTS_FILE
    identity = _present_classes(read_header(path).get(IDENTITY_KEY, ""))
    if identity != info.identity:
        raise LvmError(
            f"The weights {path} do not belong to the record beside them: they are of {identity or 'unknown origin'}; "
            "restore the folder or train the model again."
        )
    try:
        from_members = model.members.state_dict(prefix="members.") if isinstance(model, Ensemble) else {}
        model.load_state_dict({**from_members, **_present_weights(load_tensors(path))}, strict=True)
    except RuntimeError as error:
        raise LvmError(
            f"The weights {path} do not fit the model ({first_line(error)}); train the model again."
        ) from None
    return model.to(device).eval(), info


def ensemble_from(model_dir: Path, members: Sequence[Member], *, neighbours: bool = False) -> Ensemble:
    """Build the ensemble of the members in a folder, with a correction by neighbours that is not fitted yet or none.

    Raises:
        LvmError: If a member is missing, cannot be loaded, or is not the one that was recorded.
    """
    parts, config = [], None
    for member in members:
        folder = model_dir / MEMBERS_DIR / member.trial_id
        model, info = load_trained_model(folder)
        if weights_fingerprint(folder) != member.weights_fingerprint:
            raise LvmError(
                f"The weights of {member.trial_id} in {folder} are not those that the ensemble was made from; restore "
                "them or make the ensemble again with `lvm ensemble`."
            )
        window = info.context_length if info.mode == "windows" else None
        parts.append(EnsembleMember(model=model, weight=member.weight, window=window))
        config = EnsembleConfig(
            vector_dim=model.config.vector_dim,
            unit_length=model.config.unit_length,
            condition_dim=max(model.config.condition_dim, config.condition_dim if config else 0),
            neighbours=neighbours,
        )
    assert config is not None
    return Ensemble(config, parts)


def weights_fingerprint(model_dir: Path) -> str:
    """Return a hash of the weights file."""
    with (model_dir / WEIGHTS_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _built(info: TrainedModelInfo) -> LatentVectorModel:
    architecture = load_architecture(info.architecture)
    config = config_from_json(architecture.config_class, info.config)
    return extended(architecture.build(config), Trial(**info.trial))


def _refuse_other_class(model_dir: Path, model: LatentVectorModel, info: TrainedModelInfo) -> None:
    if class_name(model) != info.model_class or count_parameters(model) != info.num_params:
        raise LvmError(
            f"The model in {model_dir} was a {info.model_class} with {info.num_params:,} parameters and would now be a "
            f"{class_name(model)} with {count_parameters(model):,}; train the model again."
        )


def config_from_json(config_class: type[ModelConfig], values: Mapping[str, Any]) -> ModelConfig:
    """Make a config from its JSON values, all of which must be there.

    Raises:
        LvmError: If a field is missing or unknown.
    """
    if "residual_head" in values:  # as earlier versions recorded the head
        has_head = values["residual_head"]
        values = {name: value for name, value in values.items() if name != "residual_head"}
        values |= {"head": "means" if has_head else "none"}
    missing = sorted({f.name for f in fields(config_class)} - set(values))
    if missing:
        raise LvmError(f"A recorded {config_class.__name__} lacks {', '.join(missing)}; train the model again.")
    return config_with(config_class(), {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write tensors and texts to one file, whole or not at all."""
    with explain_full_disk(path.parent), staged_file(path) as staged:
        try:
            with usual_mode(staged):
                whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
                save_file(whole, staged, metadata=header)
        except SafetensorError as error:
            raise OSError(_errno_in(error), str(error)) from error


def _errno_in(error: SafetensorError) -> int:
    """Return the operating system's error number, which safetensors only gives as text."""
    text = str(error)
    return int(text.split("os error ")[1].split(")")[0]) if "os error " in text else 0


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file. Raises LvmError if the file is damaged or missing."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise LvmError(f"{path} cannot be read ({first_line(error)}); restore it or train the model again.") from None


def read_header(path: Path) -> dict[str, str]:
    """Read the texts of a file of tensors. Raises LvmError if the file is damaged or missing."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise LvmError(f"{path} cannot be read ({first_line(error)}); restore it or train the model again.") from None
