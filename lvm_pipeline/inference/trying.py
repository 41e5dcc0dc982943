"""Several predictors on one article: what each expects after every concept, and which came closest to what followed.

Shapes: T = concepts of the article, M = predictors, D = vector width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.errors import LvmError
from lvm_pipeline.inference.context import ReadingModel
from lvm_pipeline.inference.nearest import ConceptIndex
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.training.trained_model import TrainedModelInfo
from lvm_pipeline.words import counted

MAX_CONCEPTS = 200  # of an article

Vectors = NDArray[np.float32]
Predictor = Callable[[Vectors], Vectors]  # an article (T, D) -> the prediction after each concept (T, D)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What one predictor expects after a concept: the nearest concept's text and cosine, and that of what followed."""

    text: str
    nearest_cosine: float
    cosine: float | None


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One predictor on the article; `wins` counts the concepts that it came closest to."""

    name: str
    expected: tuple[Expected, ...]
    mean_cosine: float
    wins: int


@dataclass(frozen=True, kw_only=True)
class TriedArticle:
    """The article and what each predictor made of it, best mean cosine first."""

    texts: tuple[str, ...]  # the concepts
    space_id: str  # space of their vectors
    tried: tuple[Tried, ...]  # the predictors
    winners: tuple[str, ...]  # the predictor closest to what followed each concept but the last
    left_out: dict[str, str]  # models that could not read the article, each with the reason


def reader(model: LatentVectorModel, info: TrainedModelInfo) -> Predictor:
    """Return a trained model as a predictor; it reads one concept after the other, as `lvm predict` does.

    A condition (TMD codes) is zero, as for concepts without codes.
    """
    reading = ReadingModel(model, window=info.context_length if info.mode == "windows" else None)
    width = model.config.condition_dim
    condition = np.zeros(width, np.float32) if width else None

    def predict(vectors: Vectors) -> Vectors:
        reading.start_article()
        return np.stack([reading.read(vector, condition) for vector in vectors])

    return predict


def try_article(
    texts: Sequence[str],
    vectors: Vectors,
    predictors: Mapping[str, Predictor],
    *,
    index: ConceptIndex,
    space_id: str,
    left_out: Mapping[str, str],
) -> TriedArticle:
    """Let every predictor predict after each concept.

    Args:
        texts: The concepts in reading order, at least two.
        vectors: Their vectors, (T, D).
        index: Where the nearest concepts are looked up; those that were read are left out.
        left_out: Models that cannot read the article, each with the reason.

    Raises:
        LvmError: If there are fewer than two concepts, too many, or no predictor.
    """
    if not 2 <= len(texts) <= MAX_CONCEPTS:
        raise LvmError(
            f"The article has {counted(len(texts), 'concept')} and must have 2 to {MAX_CONCEPTS}; give a text of "
            "several sentences, or a part of it."
        )
    if not predictors:
        raise LvmError("No trained model can read the article; train one with `lvm run`.")
    predictions = {name: predict(vectors) for name, predict in predictors.items()}
    to_next = {name: cosines(found[:-1], vectors[1:]) for name, found in predictions.items()}
    names = sorted(predictors, key=lambda name: -float(to_next[name].mean()))
    winners = [names[index] for index in np.stack([to_next[name] for name in names]).argmax(axis=0)]
    excluded = _read_so_far(index, texts, vectors)
    return TriedArticle(
        texts=tuple(texts),
        space_id=space_id,
        tried=tuple(
            Tried(
                name=name,
                expected=_expected(index, predictions[name], to_next[name], excluded),
                mean_cosine=float(to_next[name].mean()),
                wins=winners.count(name),
            )
            for name in names
        ),
        winners=tuple(winners),
        left_out=dict(left_out),
    )


def _read_so_far(index: ConceptIndex, texts: Sequence[str], vectors: Vectors) -> list[NDArray[np.int64]]:
    """Return, for each position, the rows of the table that are concepts of the article up to it."""
    rows, known = [], np.empty(0, np.int64)
    for text, vector in zip(texts, vectors, strict=True):
        known = np.union1d(known, index.rows_like(vector, text)).astype(np.int64)
        rows.append(known)
    return rows


def _expected(
    index: ConceptIndex, predictions: Vectors, to_next: NDArray[np.float32], excluded: Sequence[NDArray[np.int64]]
) -> tuple[Expected, ...]:
    found = index.bank.nearest(predictions, 1, exclude=excluded)
    own: list[float | None] = [*map(float, to_next), None]
    return tuple(
        Expected(
            text=index.bank.texts_of(each.rows)[0] if len(each.rows) else "",
            nearest_cosine=float(each.cosines[0]) if len(each.rows) else 0.0,
            cosine=cosine,
        )
        for each, cosine in zip(found, own, strict=True)
    )
