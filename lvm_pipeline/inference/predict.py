"""Stream predictions: for each concept that is read, the vector predicted to follow it, as soon as it is known.

Shapes: D = vector width.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._products import packed_weights
from lvm_pipeline.architectures._ranking_head import ranking_output
from lvm_pipeline.errors import LvmError
from lvm_pipeline.inference.context import ReadingModel, refuse_not_finite, refuse_oracle
from lvm_pipeline.inference.nearest import ConceptIndex, Ranking
from lvm_pipeline.inference.ranking import ranking_of
from lvm_pipeline.inference.reading import GivenConcept
from lvm_pipeline.source.space_fingerprint import SpaceFingerprint
from lvm_pipeline.training.data import UNIT_LENGTH_TOLERANCE
from lvm_pipeline.training.trained_model import TrainedModelInfo

if TYPE_CHECKING:
    from lvm_pipeline.source.encoders.encoder import Encoder

Warn = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The vector (D,) predicted to follow a concept, and what it was made from."""

    article_id: str | int | None
    position: int  # of the concept in its article, from 0; the prediction is for the next one
    num_context: int  # concepts that were read for it
    vector: NDArray[np.float32]
    # nearest concepts of a table, without those read, if asked for; ordered by a ranking output if the model has one
    nearest: list[dict[str, Any]] | None = None

    def as_json(self, *, has_vector: bool = True) -> dict[str, Any]:
        """Return plain JSON values; the vector's numbers are as short as float32 allows without loss."""
        values: dict[str, Any] = {} if self.article_id is None else {"article_id": self.article_id}
        values |= {"position": self.position, "num_context": self.num_context}
        if has_vector:
            values["prediction"] = [float(number) for number in self.vector.astype(np.str_)]
        return values if self.nearest is None else {**values, "nearest": self.nearest}


class StreamPredictor:
    """Predicts the next concept after each concept of a stream."""

    def __init__(
        self,
        model: LatentVectorModel,
        info: TrainedModelInfo,
        *,
        encoders_dir: Path,
        fingerprint: SpaceFingerprint | None = None,
        index: ConceptIndex | None = None,
        num_nearest: int = 0,
        warn: Warn,
    ):
        """Create a predictor of a model.

        Args:
            encoders_dir: Where the encoder of the model's space is looked up when the first text is read.
            fingerprint: Statistics of the model's space. Vectors of another space are refused once there are enough
                of them to tell. None: not checked.
            index: Concepts of which the `num_nearest` nearest to each prediction are returned.
            warn: Called once, when the first vector is scaled to unit length.

        Raises:
            LvmError: If the model reads something of its targets.
        """
        refuse_oracle(info)
        self.info = info
        window = info.context_length if info.mode == "windows" else None
        self.reading = ReadingModel(model, window=window)
        ranker = None if index is None else ranking_output(model)
        self._ranking = None if ranker is None else ReadingModel(ranker, window=window)
        self.config = model.config
        self._encoders_dir = encoders_dir
        self._encoder: Encoder | None = None
        self._index, self._num_nearest = index, num_nearest
        self._rows_read: set[int] = set()  # of the index, in the present article
        self._warn: Warn | None = warn
        self._fingerprint = fingerprint
        self._unjudged: list[NDArray[np.float32]] = []

    def predictions(self, concepts: Iterable[GivenConcept]) -> Iterator[Prediction]:
        """Yield one prediction for each concept; a new `article_id` begins an article.

        Raises:
            LvmError: If a concept does not fit the model, or a prediction is not finite; those before were yielded.
        """
        with packed_weights(self.reading.model):
            article_id = None
            for concept in concepts:
                if concept.article_id != article_id:
                    self.reading.start_article()
                    self._rows_read.clear()
                    if self._ranking is not None:
                        self._ranking.start_article()
                    article_id = concept.article_id
                yield self._prediction_after(concept)

    def _prediction_after(self, concept: GivenConcept) -> Prediction:
        given, condition = self._vector_of(concept), self._condition_of(concept)
        vector = self.reading.read(given, condition)
        refuse_not_finite(vector, self.info)
        ranking = None if self._ranking is None else ranking_of(self._ranking, given, condition)
        return Prediction(
            article_id=concept.article_id,
            position=self.reading.num_read - 1,
            num_context=self.reading.num_remembered,
            vector=vector,
            nearest=self._nearest(vector, given, concept.text, ranking),
        )

    def _nearest(
        self, vector: NDArray[np.float32], read: NDArray[np.float32], text: str | None, ranking: Ranking | None
    ) -> list[dict[str, Any]] | None:
        """Return the nearest concepts without those read so far, the last of which has this vector and text."""
        if self._index is None:
            return None
        self._rows_read.update(self._index.rows_like(read, text))
        return self._index.nearest(vector, self._num_nearest, exclude=self._rows_read, ranking=ranking)

    def _condition_of(self, concept: GivenConcept) -> NDArray[np.float32] | None:
        """Return the condition of a concept, (C,); None for a model without one, which ignores TMD vectors."""
        width = self.config.condition_dim
        if not width:
            return None
        if concept.tmd_dense is None:
            raise LvmError(
                f"{concept.location} has no tmd_dense; this model reads {width} TMD numbers with every concept, so add "
                "it."
            )
        if concept.tmd_dense.shape != (width,) or not np.isfinite(concept.tmd_dense).all():
            raise LvmError(
                f"{concept.location}: tmd_dense must be {width} finite numbers, got {len(concept.tmd_dense)}."
            )
        return concept.tmd_dense

    def _vector_of(self, concept: GivenConcept) -> NDArray[np.float32]:
        if concept.space_id is not None and concept.space_id != self.info.space_id:
            raise LvmError(
                f"{concept.location} is of space {concept.space_id} and the model reads {self.info.space_id}; encode "
                "it again, or use a model of its space."
            )
        if concept.vector is None:
            assert concept.text is not None
            return self._encoder_at_hand(concept.location).encode([concept.text])[0]
        if concept.vector.shape != (self.config.vector_dim,):
            raise LvmError(
                f"{concept.location}: the vector has {len(concept.vector)} numbers and the model reads "
                f"{self.config.vector_dim}; give vectors of space {self.info.space_id}."
            )
        if not np.isfinite(concept.vector).all():
            raise LvmError(f"{concept.location}: the vector has a number that is not finite (NaN or infinite).")
        self._refuse_another_space(concept.vector, location=concept.location)
        return self._scaled(concept.vector, location=concept.location)

    def _refuse_another_space(self, vector: NDArray[np.float32], *, location: str) -> None:
        """Check the statistics of the vectors since the last check, once there are enough of them."""
        if self._fingerprint is None or not self._fingerprint.min_vectors:
            return
        self._unjudged.append(vector)
        if len(self._unjudged) < self._fingerprint.min_vectors:
            return
        why = self._fingerprint.why_other(np.stack(self._unjudged))
        self._unjudged.clear()
        if why is not None:
            raise LvmError(f"The vectors up to {location} are of another space than the model reads: {why}.")

    def _scaled(self, vector: NDArray[np.float32], *, location: str) -> NDArray[np.float32]:
        """Scale to unit length where the space's vectors are."""
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if not self.config.unit_length or abs(length - 1) < UNIT_LENGTH_TOLERANCE:
            return vector
        if length == 0:
            raise LvmError(f"{location}: the vector is all zeros and has no direction; leave the concept out.")
        if self._warn is not None:
            self._warn(
                f"Vectors are scaled to unit length, as the model's space has them; {location} had {length:.4g}."
            )
            self._warn = None
        return (vector.astype(np.float64) / length).astype(np.float32)

    def _encoder_at_hand(self, location: str) -> "Encoder":
        if self._encoder is None:
            from lvm_pipeline.source.encoders.registry import encoder_of_space

            self._encoder = encoder_of_space(self.info.space_id, encoders_dir=self._encoders_dir)
        if self._encoder is None:
            raise LvmError(
                f"{location} is a text, and the encoder of the model's space {self.info.space_id} is not available in "
                f"{self._encoders_dir}; put it there, or give vectors."
            )
        return self._encoder
