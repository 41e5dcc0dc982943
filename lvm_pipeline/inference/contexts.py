"""Predict after whole contexts, several at once.

Each context is cut to what `lvm predict` would remember of it, so that all ways to predict agree.

Shapes: B = contexts, T = context in concepts, D = vector width, C = condition width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._ranking_head import NUM_VIEWS, ranking_output
from lvm_pipeline.errors import LvmError
from lvm_pipeline.inference.context import num_remembered, refuse_not_finite, refuse_oracle
from lvm_pipeline.inference.nearest import Ranking
from lvm_pipeline.inference.ranking import ranking_from
from lvm_pipeline.source.space_fingerprint import SpaceFingerprint
from lvm_pipeline.training.data import UNIT_LENGTH_TOLERANCE
from lvm_pipeline.training.trained_model import TrainedModelInfo
from lvm_pipeline.words import counted

MAX_CONCEPTS = 4096  # default longest context of a request; memory grows with it


@dataclass(frozen=True, kw_only=True)
class Context:
    """Vectors in reading order, (T, D), and their condition, (T, C), for a model that reads one."""

    vectors: NDArray[np.float32]
    condition: NDArray[np.float32] | None = None


class ContextPredictor:
    """A trained model that predicts the vector after each of several contexts."""

    def __init__(
        self,
        model: LatentVectorModel,
        info: TrainedModelInfo,
        *,
        max_concepts: int = MAX_CONCEPTS,
        fingerprint: SpaceFingerprint | None = None,
    ):
        """Take a model.

        `max_concepts` is the longest context that is accepted; `fingerprint` holds the statistics of the model's space,
        which detect vectors of another space (None: not checked).

        Raises:
            LvmError: If the model reads something of its targets.
        """
        refuse_oracle(info)
        self.model, self.info, self.max_concepts = model.eval(), info, max_concepts
        self.config, self._fingerprint = model.config, fingerprint
        self.window = info.context_length if info.mode == "windows" else None
        self._ranker = ranking_output(model)

    def context(
        self,
        vectors: ArrayLike,
        condition: ArrayLike | None = None,
        *,
        space_id: str | None = None,
        is_encoded_here: bool = False,
    ) -> Context:
        """Check the vectors (T, D) of one context, and their condition (T, C) if the model reads one.

        Vectors are scaled to unit length where those of the model's space are. Unless they were encoded here, they are
        refused if their statistics are those of another space and there are enough of them to tell.

        Raises:
            LvmError: If the model cannot read it; the message gives the reason.
        """
        if space_id is not None and space_id != self.info.space_id:
            raise LvmError(
                f"The vectors are of space {space_id} and the model reads {self.info.space_id}; encode the texts with "
                "the encoder of that space."
            )
        given = _matrix(vectors, "vectors", self.config.vector_dim)
        if not len(given):
            raise LvmError("The context is empty; give at least one concept.")
        if problem := self.too_long(len(given)):
            raise LvmError(problem)
        why = None if self._fingerprint is None or is_encoded_here else self._fingerprint.why_other(given)
        if why is not None:
            raise LvmError(f"The vectors are of another space than the model reads: {why}; encode the texts again.")
        width = self.config.condition_dim
        if not width:
            return Context(vectors=self._scaled(given))
        if condition is None:
            raise LvmError(f"This model reads {width} TMD numbers with every concept; give them as tmd_dense.")
        tmd = _matrix(condition, "tmd_dense", width)
        if len(tmd) != len(given):
            raise LvmError(f"There are {len(given)} concepts and {len(tmd)} rows of tmd_dense; give one for each.")
        return Context(vectors=self._scaled(given), condition=tmd)

    def too_long(self, num_concepts: int) -> str | None:
        """Return why a context of this many concepts is refused; None if it is not."""
        if num_concepts <= self.max_concepts:
            return None
        return (
            f"The context has {counted(num_concepts, 'concept')}; the limit is {self.max_concepts:,}. "
            "Send only the last ones."
        )

    def predict(self, contexts: Sequence[Context]) -> NDArray[np.float32]:
        """Return the prediction after each context, (B, D).

        Raises:
            LvmError: If the model predicts a number that is not finite.
        """
        return self._outputs(self.model, contexts, self.config.vector_dim)

    def rankings(self, contexts: Sequence[Context]) -> list[Ranking] | None:
        """Return the order of concepts after each context; None for a model that ranks by its prediction.

        Raises:
            LvmError: If the model predicts a number that is not finite.
        """
        if self._ranker is None:
            return None
        outputs = self._outputs(self._ranker, contexts, NUM_VIEWS * self.config.vector_dim)
        return [ranking_from(self._ranker, output) for output in outputs]

    def _outputs(self, model: LatentVectorModel, contexts: Sequence[Context], width: int) -> NDArray[np.float32]:
        cut = [self._cut(context) for context in contexts]
        predictions = np.empty((len(cut), width), np.float32)
        with torch.inference_mode():
            for chosen in _batches([len(each.vectors) for each in cut], may_pad=model.is_causal):
                predictions[chosen] = _forward(model, [cut[index] for index in chosen])
        refuse_not_finite(predictions, self.info)
        return predictions

    def num_read(self, context: Context) -> int:
        """Return how many concepts of a context the model reads: the last ones."""
        return num_remembered(len(context.vectors), window=self.window, max_context=self.model.max_context)

    def _cut(self, context: Context) -> Context:
        last = slice(-self.num_read(context), None)
        return Context(
            vectors=context.vectors[last], condition=None if context.condition is None else context.condition[last]
        )

    def _scaled(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.config.unit_length:
            return vectors
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        if not lengths.all():
            raise LvmError(
                f"Vector {int(np.argmin(lengths))} is all zeros and has no direction; leave the concept out."
            )
        is_unit = np.abs(lengths - 1) < UNIT_LENGTH_TOLERANCE
        return np.where(is_unit, vectors, (vectors / lengths).astype(np.float32))


def _matrix(values: ArrayLike, name: str, width: int) -> NDArray[np.float32]:
    """Return rows of finite float32 numbers of one width."""
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
            matrix = np.asarray(values, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError, OverflowError):
        raise LvmError(
            f"{name} must be a list of rows of {width} numbers; a row has another length, or something that is no "
            "number."
        ) from None
    if matrix.size == 0:
        return np.empty((0, width), np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != width:
        raise LvmError(f"{name} must have {width} numbers in each row, got an array of shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise LvmError(f"Row {row} of {name} has a number that is not finite (NaN, infinite or too large for float32).")
    return matrix


def _batches(lengths: Sequence[int], *, may_pad: bool) -> Iterator[NDArray[np.int64]]:
    """Yield which contexts go together: all, or those of one length where the model would see the padding."""
    if may_pad:
        yield np.arange(len(lengths))
        return
    of = np.asarray(lengths)
    for length in np.unique(of):
        yield np.flatnonzero(of == length)


def _forward(model: LatentVectorModel, contexts: Sequence[Context]) -> NDArray[np.float32]:
    lengths = [len(each.vectors) for each in contexts]
    device = next(model.parameters()).device
    at = torch.zeros(len(contexts), max(lengths), dtype=torch.bool)
    at[torch.arange(len(contexts)), torch.tensor(lengths) - 1] = True
    vectors = _padded([each.vectors for each in contexts])
    conditions = [each.condition for each in contexts if each.condition is not None]
    condition = _padded(conditions).to(device) if conditions else None
    return model(vectors.to(device), condition, at.to(device)).float().cpu().numpy()


def _padded(rows: Sequence[NDArray[np.float32]]) -> torch.Tensor:
    """Stack arrays of different lengths; each is filled up with its last row."""
    longest = max(map(len, rows))
    return torch.from_numpy(np.stack([np.pad(each, ((0, longest - len(each)), (0, 0)), mode="edge") for each in rows]))
