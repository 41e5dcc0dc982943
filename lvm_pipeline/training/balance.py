"""Balance of the terms of an objective: scaled at the start of a phase, measured after every epoch.

Shapes: S = targets, D = vector width.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.training.batches import group_spans
from lvm_pipeline.training.invariants import GRADIENT_SHARE, VALUE_SHARE
from lvm_pipeline.training.objectives import OBJECTIVES, SumOfTerms, objective_named
from lvm_pipeline.training.phases import Phase
from lvm_pipeline.training.predictions import predict_spans

BATCHES_COMPARED = 4


def objective_at_start(
    phase: Phase,
    model: LatentVectorModel,
    vectors: Tensor,
    *,
    condition: Tensor | None = None,
    scales: Mapping[str, float] | None = None,
    in_threads: bool = True,
) -> SumOfTerms:
    """Return the phase's objective, each term of a sum divided by its value at the start of the phase.

    A single term stays as it is. `vectors` are all vectors (N, D), `condition` that of all concepts (N, C); `scales`
    are the values, if they are known from a checkpoint; `in_threads` as in `predict_spans`.
    """
    objective = objective_named(phase.objective)
    if not objective.is_mixed:
        return objective
    if scales is not None:
        return objective.scaled_by(scales)
    groups = group_spans(phase.spans, phase.batch_size)
    found = []
    for indices in groups[:: -(-len(groups) // BATCHES_COMPARED)]:
        spans = phase.spans.take(indices)
        predictions = torch.from_numpy(predict_spans(model, vectors, spans, condition=condition, in_threads=in_threads))
        targets = vectors[torch.from_numpy(spans.target_rows()).to(vectors.device)].cpu()
        found.append([float(OBJECTIVES[term.name](predictions, targets)) for term in objective.terms])
    means = np.mean(found, axis=0).tolist()
    return objective.scaled_by({term.name: mean for term, mean in zip(objective.terms, means, strict=True)})


def share_metrics(
    objective: SumOfTerms,
    predictions: NDArray[np.float32],
    targets: NDArray[np.float32],
    *,
    batch_size: int | None,
    is_unit: bool,
) -> dict[str, float]:
    """Return each term's share of gradient and loss, averaged over some batches, as metrics by name.

    Predictions and targets are (S, D) each.

    Nothing for an objective of one term. The gradients are those at the predictions, through which all terms reach
    the weights.
    """
    if not objective.is_mixed:
        return {}
    assert batch_size is not None
    found = [
        objective.shares(torch.from_numpy(predictions[part]), torch.from_numpy(targets[part]), is_unit=is_unit)
        for part in _parts(len(predictions), batch_size)
    ]
    metrics = {}
    for term in objective.terms:
        metrics[f"{GRADIENT_SHARE}{term.name}"] = float(np.mean([shares[term.name].of_gradient for shares in found]))
        metrics[f"{VALUE_SHARE}{term.name}"] = float(np.mean([shares[term.name].of_value for shares in found]))
    return metrics


def _parts(num_targets: int, batch_size: int) -> Iterator[slice]:
    starts = range(0, num_targets, batch_size)
    for start in starts[:: -(-len(starts) // BATCHES_COMPARED)]:
        yield slice(start, start + batch_size)
