"""An ensemble beside its members, on the same targets."""

import numpy as np

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._ensemble import Ensemble
from lvm_pipeline.evaluation.report_parts import EnsembleScores, MemberScores
from lvm_pipeline.evaluation.scoring import ScoredModel
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.uncertainty import paired_gain
from lvm_pipeline.training.batches import condition_on_device, vectors_on_device
from lvm_pipeline.training.predictions import predict_spans


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
