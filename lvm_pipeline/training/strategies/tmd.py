"""TMD-conditional training: the TMD vector of the last context concept scales and shifts the hidden states (FiLM).

A concept whose code is zero or missing has a learned vector instead. With `tmd_of: target` the model reads the code of
the concept it has to predict: an upper bound for what codes can add; such a model is never promoted.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.content_kinds import CODES
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.tmd_labels import read_assignment
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.strategies._contract import Staging, Strategy, strategy_option
from lvm_pipeline.training.tmd_vectors import CONDITION_DIM, read_tmd_codes, read_tmd_vectors
from lvm_pipeline.training.trial import Trial


@dataclass(frozen=True, kw_only=True)
class TmdOptions:
    tmd_from: Literal["auto", "tmd_dense", "codes"] = strategy_option(
        "auto", "Source of the 16 numbers: tmd_dense, or the bits of the packed codes. auto: tmd_dense where it is set."
    )
    tmd_packing: Literal["11-6-0", "12-7-1"] = strategy_option(
        "11-6-0", "Packing of the codes: 11-6-0 (domain << 11 | task << 6 | modifier) or 12-7-1, one bit higher."
    )
    tmd_of: Literal["context", "target"] = strategy_option(
        "context", "Whose code the model reads: the last context concept's. target: an oracle, for study only."
    )


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: TmdOptions) -> Staging:
    """Give the model a condition. Raises LvmError if the concepts have no TMD codes."""
    found, source = _vectors(data, options)
    known = (found[data.train_rows()] != 0).any(axis=1)
    if (assigned := _assignment(data)) is not None:
        source = f"{source} ({assigned})"
    note = f"Condition: {source}, of the last context concept; {known.mean():.1%} of train concepts have a code."
    if options.tmd_of == "target":
        note = f"Oracle: the model reads the TMD code of its own target ({source}), so its scores cannot be reached."
    return replace(
        staging,
        model={**staging.model, "condition_dim": CONDITION_DIM},
        notes={**staging.notes, STRATEGY.name: note},
        is_oracle=staging.is_oracle or options.tmd_of == "target",
    )


def _assignment(data: TrainingData) -> str | None:
    """Say where the codes come from, if this project assigned them."""
    if data.concepts_path is None:
        return None
    found = read_assignment(data.concepts_path, data.concepts.dataset_source)
    return None if found is None else found.in_words()


def condition(data: TrainingData, options: TmdOptions) -> NDArray[np.float32]:
    """Return the 16 numbers that the model reads with each concept, (N, 16)."""
    found, _ = _vectors(data, options)
    return found if options.tmd_of == "context" else np.roll(found, -1, axis=0)  # a target is the row after


def _vectors(data: TrainingData, options: TmdOptions) -> tuple[NDArray[np.float32], str]:
    path = data.concepts_path
    if path is not None and options.tmd_from != "codes" and (found := read_tmd_vectors(path)) is not None:
        return found, "column tmd_dense"
    if path is not None and options.tmd_from != "tmd_dense":
        found = read_tmd_codes(path, packing=options.tmd_packing)
        if found is not None:
            return found, f"bits of the TMD codes, packed {options.tmd_packing}"
    missing = {"auto": "TMD codes", "codes": "TMD codes", "tmd_dense": "TMD vectors (column tmd_dense)"}
    raise LvmError(
        f"The strategy tmd needs TMD codes, but the concepts have no {missing[options.tmd_from]}; assign them with "
        "`lvm tmd assign`, or leave the strategy out."
    )


def refused(trial: Trial, options: TmdOptions) -> str | None:
    """Refuse a model whose condition has another width."""
    width = trial.model.get("condition_dim", CONDITION_DIM)
    return None if width == CONDITION_DIM else f"model.condition_dim is {width}, and a TMD vector has {CONDITION_DIM}"


STRATEGY = Strategy(
    name="tmd",
    summary="The TMD code of the last context concept scales and shifts the hidden states",
    affects="model",
    stage=stage,
    options=TmdOptions,
    refused=refused,
    condition=condition,
    reads_content=lambda options: (CODES,),
)
