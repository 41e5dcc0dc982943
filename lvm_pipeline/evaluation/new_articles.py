"""Score a model on its validation articles and on articles that arrived since it was trained."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import article_ranges, memory_mapped_vectors
from lvm_pipeline.evaluation.kept_fits import kept_forecast
from lvm_pipeline.evaluation.scoring import targets_of
from lvm_pipeline.measures.error_drift import Errors
from lvm_pipeline.measures.linear_forecast import LinearForecast
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.sequences.schema import Sequences
from lvm_pipeline.sequences.windows import window_starts
from lvm_pipeline.training.batches import condition_on_device, vectors_on_device
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.settle import find_device
from lvm_pipeline.training.strategies import condition_of
from lvm_pipeline.training.trained_model import load_trained_model, read_trained_model_info
from lvm_pipeline.training.trial import Trial


def errors_on_new(
    model_dir: Path,
    reference: TrainingData,
    concepts_path: Path,
    *,
    new_articles: Collection[str],
    vectors_dir: Path,
    device: str,
    cache_dir: Path | None,
) -> tuple[Errors, Errors] | None:
    """Score a model on its validation articles and on new ones; None if no new one is long enough for a target.

    Args:
        reference: The data that it was trained on.
        concepts_path: The present concepts, of the same space.
        new_articles: Ids of the articles among them that it has never seen.

    Raises:
        LvmError: If model or data cannot be used.
    """
    present = _as_validation(reference, concepts_path, new_articles, vectors_dir=vectors_dir)
    if present is None:
        return None
    mode = read_trained_model_info(model_dir).mode
    targets = targets_of(reference, split="validation", context_mode=mode)  # pyright: ignore[reportArgumentType]
    fingerprint = reference.sequences.metadata.fingerprint
    forecast = kept_forecast(targets, fingerprint=fingerprint, cache_dir=cache_dir)
    before, after = (_errors(model_dir, each, forecast, device=device) for each in (reference, present))
    return before, after


def _as_validation(
    reference: TrainingData, concepts_path: Path, new_articles: Collection[str], *, vectors_dir: Path
) -> TrainingData | None:
    """Open the present concepts with the new articles as their only sequences."""
    articles, metadata = article_ranges(concepts_path), read_concepts_metadata(concepts_path)
    arrived = set(new_articles)
    is_new = np.array([article_id in arrived for article_id in articles.ids], bool)
    codes, length = np.repeat(np.arange(len(is_new)), articles.lengths), reference.context_length
    starts = window_starts(codes, length)
    starts = starts[is_new[codes[starts]]]
    if not len(starts):
        return None
    return replace(
        reference,
        vectors=memory_mapped_vectors(concepts_path, vectors_dir),
        articles=articles,
        article_splits=np.where(is_new, "validation", "train"),
        sequences=Sequences(
            article_ids=np.array(articles.ids, dtype=object)[codes[starts]],
            first_rows=starts,
            target_rows=starts + length,
            splits=np.full(len(starts), "validation"),
            article_splits=dict(zip(articles.ids, np.where(is_new, "validation", "train").tolist(), strict=True)),
            metadata=reference.sequences.metadata,
        ),
        concepts=metadata,
        concepts_path=concepts_path,
    )


def _errors(model_dir: Path, data: TrainingData, forecast: LinearForecast, *, device: str) -> Errors:
    device = find_device(device)
    model, info = load_trained_model(model_dir, space_id=data.concepts.space_id, device=device)
    condition = condition_of(Trial(**info.trial), data, condition_dim=model.config.condition_dim)
    spans = data.scored_spans("validation", mode=info.mode)
    predictions = predict_spans(
        model, vectors_on_device(data.vectors, device), spans, condition=condition_on_device(condition, device)
    )
    rows = spans.target_rows()
    articles = data.articles_of(rows)
    first_rows = data.articles.first_rows[articles] if info.mode == "articles" else rows - data.context_length
    wanted = np.asarray(data.vectors[rows], np.float32)
    return Errors(
        cosine=cosines(predictions, wanted),
        forecast=cosines(forecast.predict(data.vectors, first_rows, rows), wanted),
        articles=articles,
    )
