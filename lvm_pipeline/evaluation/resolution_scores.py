"""A model that predicts at several widths, scored at each."""

import numpy as np

from lvm_pipeline.evaluation.report_parts import ResolutionScores
from lvm_pipeline.evaluation.scoring import ScoredModel
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.training.batches import condition_on_device, vectors_on_device
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.strategies._resolutions import MODULE, AtWidth, ResolutionHeads


def resolution_scores(scored: ScoredModel) -> tuple[ResolutionScores, ...] | None:
    """Score every width of a model with resolution heads, the full one first; None for any other model."""
    heads = dict(scored.model.named_children()).get(MODULE)
    if not isinstance(heads, ResolutionHeads):
        return None
    basis = heads.basis.cpu().numpy()
    spans = scored.data.scored_spans(scored.split, mode=scored.targets.context_mode)
    vectors = vectors_on_device(scored.data.vectors, scored.device)
    condition = condition_on_device(scored.condition, scored.device)
    targets = np.asarray(scored.data.vectors[spans.target_rows()]) @ basis
    full = scored.predictions @ basis
    found = [ResolutionScores(width=len(basis), cosine=_mean(full, targets), full_cosine=_mean(full, targets))]
    for width in heads.widths:
        low = predict_spans(AtWidth(scored.model, width), vectors, spans, condition=condition)[:, :width]
        own, given = _mean(low, targets[:, :width]), _mean(full[:, :width], targets[:, :width])
        found.append(ResolutionScores(width=width, cosine=own, full_cosine=given))
    return tuple(found)


def _mean(predictions: np.ndarray, targets: np.ndarray) -> float:
    return float(cosines(predictions, targets).mean(dtype=np.float64))
