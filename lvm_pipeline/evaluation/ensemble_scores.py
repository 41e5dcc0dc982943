"""An ensemble beside its members, on the same targets."""

from dataclasses import dataclass

import numpy as np

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._ensemble import Ensemble
from lvm_pipeline.evaluation.scoring import ScoredModel
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.uncertainty import Interval, paired_gain
from lvm_pipeline.training.batches import condition_on_device, vectors_on_device
from lvm_pipeline.training.predictions import predict_spans


@dataclass(frozen=True, kw_only=True)
class MemberScores:
    trial_id: str  # its trial
    mode: str  # what it reads: `windows` or `articles`
    weight: float  # its part of the mean
    cosine: float  # its own mean cosine on the report's targets
    gain: Interval  # mean difference in cosine, ensemble minus member, on the same targets


@dataclass(frozen=True, kw_only=True)
class EnsembleScores:
    """The members of an ensemble, best first, and how their weights were chosen."""

    weights_chosen: str
    members: tuple[MemberScores, ...]


def ensemble_scores(scored: ScoredModel, *, seed: int = 0) -> EnsembleScores | None:
    """Score the members of an ensemble on its own targets, each in its own mode; None for any other model."""
    if not isinstance(scored.model, Ensemble):
        return None
    targets = np.asarray(scored.data.vectors[scored.targets.scored.target_rows])
    rows = []
    for model, member in zip(scored.model.members, scored.info.members, strict=True):
        assert isinstance(model, LatentVectorModel)
        condition = condition_on_device(scored.data.condition(model.config.condition_dim), scored.device)
        spans = scored.data.scored_spans(scored.split, mode=member.mode)
        predictions = predict_spans(
            model, vectors_on_device(scored.data.vectors, scored.device), spans, condition=condition
        )
        own = cosines(predictions, targets)
        rows.append(
            MemberScores(
                trial_id=member.trial_id,
                mode=member.mode,
                weight=member.weight,
                cosine=float(own.mean(dtype=np.float64)),
                gain=paired_gain(scored.scores.closeness.cosine, own, scored.targets.scored.articles, seed=seed),
            )
        )
    return EnsembleScores(
        weights_chosen=str(scored.info.training["weights_chosen"]),
        members=tuple(sorted(rows, key=lambda row: -row.cosine)),
    )
