"""Score one trained model on one split: the part that reports and the champion rule share.

Shapes: S = targets, D = vector width.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._ranking_head import ranking_output
from lvm_pipeline.architectures._threads import torch_threads
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.reranking import ranks_by_head
from lvm_pipeline.measures.hubness import MAX_TRAIN_PREDICTIONS, candidate_penalties
from lvm_pipeline.measures.retrieval import Exclusion
from lvm_pipeline.measures.scores import Scores, given_predictions, score_predictor
from lvm_pipeline.measures.targets import ContextMode, Targets, find_targets
from lvm_pipeline.sequences.schema import Split
from lvm_pipeline.source.space_fingerprint import FILE, JUDGED_AT_ONCE, read_fingerprint
from lvm_pipeline.source.space_ids import is_declared
from lvm_pipeline.training.batches import condition_on_device, vectors_on_device
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.settle import find_device
from lvm_pipeline.training.strategies import condition_of
from lvm_pipeline.training.trained_model import TrainedModelInfo, load_trained_model, weights_fingerprint
from lvm_pipeline.training.trial import Trial

FEWEST_SPANS = 64  # of train predictions for the hubness correction; articles differ in which concepts are hubs
TARGETS_AT_A_TIME = 32_768  # of whose predictions some are left out; 100 MB at a width of 768


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """Cosines of one predictor on the targets of a split, with all that must be equal to compare two predictors."""

    name: str  # the predictor, in words
    fingerprint: str  # of the sequence table that the targets come from
    split: str  # split of the targets
    target_rows: NDArray[np.int64]  # row of each target, shape (S,)
    articles: NDArray[np.int64]  # article of each target, shape (S,)
    cosines: NDArray[np.float32]  # shape (S,)
    is_leaking: bool = False  # whether the sequences leak
    model_fingerprint: str | None = None  # of the weights; None for a baseline

    @property
    def cosine(self) -> float:
        return float(np.mean(self.cosines, dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """A trained model, its targets and what it scored on them."""

    model: LatentVectorModel
    info: TrainedModelInfo
    model_fingerprint: str
    data: TrainingData = field(repr=False)
    targets: Targets = field(repr=False)
    scores: Scores = field(repr=False)
    predictions: NDArray[np.float32] = field(repr=False)  # of the scored targets, (S, D)
    split: Split
    device: str
    condition: NDArray[np.float32] | None = field(default=None, repr=False)  # of every concept, (N, C)
    # of a model with a ranking head, whose ranks are in `scores`: what its predictions would rank
    ranks_of_prediction: dict[Exclusion, NDArray[np.int64]] | None = field(default=None, repr=False)

    def row_scores(self) -> RowScores:
        """Return what the champion rule compares."""
        return RowScores(
            name=self.info.trial_id,
            fingerprint=self.data.sequences.metadata.fingerprint,
            split=self.split,
            target_rows=self.targets.scored.target_rows,
            articles=self.targets.scored.articles,
            cosines=self.scores.closeness.cosine,
            is_leaking=self.data.sequences.metadata.is_leaking or self.info.is_leaking,
            model_fingerprint=self.model_fingerprint,
        )


def score_model(
    model_dir: Path,
    data: TrainingData,
    *,
    device: str,
    split: Split = "validation",
    context_mode: ContextMode | None = None,
    num_threads: int | None = None,
    require_same_data: bool = True,
    correct_hubness: bool = False,
) -> ScoredModel:
    """Load a trained model and score it on a split of the data.

    Args:
        context_mode: What the model may read; None: what it was trained to read.
        num_threads: PyTorch threads on a CPU; None: as in training.
        require_same_data: Refuse data other than the model was trained on. The champion rule, which scores an incumbent
            on newer data of the same space, turns this off.
        correct_hubness: Also rank with the hubness correction, unless the model has a ranking head.

    Raises:
        LvmError: If there is no such model, it belongs to another space or other data, or it cannot be scored.
    """
    if split not in get_args(Split):
        raise LvmError(f"There is no split {split!r}; choose one of {', '.join(get_args(Split))}.")
    device = find_device(device)
    model, info = load_trained_model(model_dir, space_id=data.concepts.space_id, device=device)
    _refuse_other_data(model_dir, info, data, require_same_data=require_same_data)
    mode: Any = context_mode or info.mode
    targets = _scorable_targets(model_dir, model, info, data, split=split, mode=mode)
    condition = condition_of(Trial(**info.trial), data, condition_dim=model.config.condition_dim)
    vectors, spans = vectors_on_device(data.vectors, device), data.scored_spans(split, mode=mode)
    beside, ranks, penalties = condition_on_device(condition, device), None, None
    with torch_threads(num_threads or info.training["num_threads"]):
        predictions = predict_spans(model, vectors, spans, condition=beside)
        ranker = ranking_output(model)
        if ranker is not None:
            ranks = ranks_by_head(ranker, vectors, spans, targets, condition=beside)
        elif correct_hubness:
            penalties = candidate_penalties(targets, _train_predictions(model, data, vectors, beside, mode=mode))
    if not np.isfinite(predictions).all():
        raise LvmError(f"The model in {model_dir} predicts numbers that are not finite; train it again.")
    scores = score_predictor(given_predictions(predictions, targets), targets, penalties=penalties)
    return ScoredModel(
        model=model,
        info=info,
        model_fingerprint=weights_fingerprint(model_dir),
        data=data,
        targets=targets,
        scores=scores if ranks is None else replace(scores, ranks=ranks),
        ranks_of_prediction=None if ranks is None else scores.ranks,
        predictions=predictions,
        split=split,
        device=device,
        condition=condition,
    )


def _scorable_targets(
    model_dir: Path, model: LatentVectorModel, info: TrainedModelInfo, data: TrainingData, *, split: Split, mode: Any
) -> Targets:
    """Find the targets. Raises LvmError if the model cannot read their contexts, or not vectors of this space."""
    _refuse_leaking_mode(model, info, mode)
    targets = targets_of(data, split=split, context_mode=mode)
    _refuse_other_space(model_dir, targets)
    return targets


def _train_predictions(
    model: LatentVectorModel, data: TrainingData, vectors: Tensor, condition: Tensor | None, *, mode: ContextMode
) -> NDArray[np.float32]:
    """Return the predictions of about 4096 targets of the train split, evenly spaced, (n, D).

    They come from whole articles, evenly spaced: from 64 at least, or from all if there are fewer. Where that gives
    more predictions, some of them are left out evenly.
    """
    spans = data.scored_spans("train", mode=mode)
    every = min(-(-int(spans.num_targets.sum()) // MAX_TRAIN_PREDICTIONS), (len(spans) - 1) // (FEWEST_SPANS - 1))
    spans = spans.take(np.arange(0, len(spans), max(1, every)))
    ends = np.cumsum(spans.num_targets)
    step = max(1, round(int(ends[-1]) / MAX_TRAIN_PREDICTIONS))
    groups = (ends - spans.num_targets) // TARGETS_AT_A_TIME
    found = []
    for group in np.unique(groups):
        part = np.flatnonzero(groups == group)
        first = int(ends[part[0]] - spans.num_targets[part[0]])
        predictions = predict_spans(model, vectors, spans.take(part), condition=condition)
        found.append(predictions[-first % step :: step])
    return np.concatenate(found)


def targets_of(data: TrainingData, *, split: Split, context_mode: ContextMode) -> Targets:
    return find_targets(
        data.vectors,
        article_first_rows=data.articles.first_rows,
        article_splits=data.article_splits,
        target_rows=data.sequences.target_rows,
        target_splits=data.sequences.splits,
        context_length=data.context_length,
        split=split,
        context_mode=context_mode,
    )


def _refuse_other_space(model_dir: Path, targets: Targets) -> None:
    """Refuse to score vectors that are declared as the model's space and do not look like it."""
    fingerprint = read_fingerprint(model_dir / FILE)
    rows = targets.scored.target_rows
    rows = rows[:: -(-len(rows) // JUDGED_AT_ONCE) or 1]
    why = None if fingerprint is None else fingerprint.why_other(np.asarray(targets.vectors[rows], np.float32))
    if why is not None:
        raise LvmError(
            f"The vectors are of another space than the model in {model_dir} reads: {why}. Encode the concepts again, "
            "or train a model on them."
        )


def _refuse_leaking_mode(model: LatentVectorModel, info: TrainedModelInfo, mode: ContextMode) -> None:
    if mode == "articles" and not model.is_causal:
        raise LvmError(
            f"{info.architecture} sees later inputs of its own context, so on whole articles it would see its targets; "
            "evaluate it on windows."
        )


def other_data(info: TrainedModelInfo, data: TrainingData) -> dict[str, tuple[str, str]]:
    """Return which fingerprints of the data differ from those of a model's training, as (training's, present)."""
    trained_on = {**info.fingerprints, "content": info.content_fingerprint}
    present = {**data.fingerprints, "content": info.content_in(data.concepts)}
    return {
        name: (str(trained_on.get(name))[:12], str(found)[:12])
        for name, found in present.items()
        if trained_on.get(name) != found
    }


def _refuse_other_data(model_dir: Path, info: TrainedModelInfo, data: TrainingData, *, require_same_data: bool) -> None:
    width = info.config.get("vector_dim")
    if width != data.concepts.vector_dim:
        raise LvmError(
            f"The model in {model_dir} predicts vectors of width {width}, not {data.concepts.vector_dim}; "
            "use the concepts it was trained on, or train it again."
        )
    is_named = is_declared(data.concepts.space_id)
    if not is_named and info.fingerprints.get("concepts") != data.concepts.fingerprint:
        raise LvmError(
            f"The vectors' encoder is not declared ({data.concepts.space_id}), and the model in {model_dir} was "
            "trained on other concepts, perhaps of another encoder; set LVM_SPACE_ID or use `lvm ingest --space`, and "
            "train again."
        )
    others = other_data(info, data)
    if require_same_data and others:
        differences = "; ".join(f"{name} {before}, not {now}" for name, (before, now) in others.items())
        raise LvmError(
            f"The model in {model_dir} was trained on other data ({differences}), so the scores would not be "
            "valid; evaluate it on the data it was trained on, or train it again."
        )
