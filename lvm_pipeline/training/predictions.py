"""A model's predictions for given spans, and the validation metrics made from them.

Shapes: S = targets, D = vector width.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._threads import side_by_side
from lvm_pipeline.errors import LvmError
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.training.batches import Batch, batches
from lvm_pipeline.training.spans import Spans, consecutive

# Measured on two cores: 800 take a fifth to a third less time than 2,048. Larger ones should fill a GPU, which was not
# measured.
TARGETS_IN_A_BATCH = {"cpu": 800, "cuda": 2048}
MOST_PADDED = 1.25  # the longest span of a batch, in lengths of the shortest
TARGETS_OF_A_THREAD = 200  # at least; with fewer, a batch has all threads


def predict_spans(
    model: LatentVectorModel,
    vectors: Tensor,
    spans: Spans,
    *,
    condition: Tensor | None = None,
    in_threads: bool = True,
) -> NDArray[np.float32]:
    """Predict the targets of the spans in the order of `spans.target_rows()`, (S, D), in float32.

    The model is put into evaluation mode; longer spans than it can read are cut. `vectors` are all vectors (N, D) on
    its device, `condition` that of all concepts (N, C). On a CPU, batches are predicted in several threads, unless
    `in_threads` is False.
    """
    spans = spans.no_longer_than(model.max_context)
    num_targets = int(spans.num_targets.sum())
    predictions = np.empty((num_targets, vectors.shape[1]), np.float32)
    starts = np.cumsum(spans.num_targets) - spans.num_targets
    most = torch.get_num_threads() if in_threads and vectors.device.type == "cpu" else 1
    num_threads = max(1, min(most, num_targets // TARGETS_OF_A_THREAD))

    def predict(found: tuple[NDArray[np.int64], Batch]) -> None:
        indices, batch = found
        rows = consecutive(starts[indices], spans.num_targets[indices])
        predictions[rows] = _predicted(model, batch).cpu().numpy()

    model.eval()
    size = min(TARGETS_IN_A_BATCH[vectors.device.type], -(-num_targets // num_threads))
    side_by_side(predict, _batches(model, vectors, spans, condition, size), num_threads=num_threads)
    return predictions


def predicted_batches(
    model: LatentVectorModel, vectors: Tensor, spans: Spans, condition: Tensor | None
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield each batch's span indices and the predictions for their targets, in float32."""
    model.eval()
    for indices, batch in _batches(model, vectors, spans, condition, TARGETS_IN_A_BATCH[vectors.device.type]):
        yield indices, _predicted(model, batch)


def _batches(
    model: LatentVectorModel, vectors: Tensor, spans: Spans, condition: Tensor | None, size: int
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    for part in reversed(_padded_together(model, spans)):  # the longest first, so that no thread ends late
        for indices, batch in batches(vectors, spans.take(part), size, condition=condition):
            yield part[indices], batch


def _predicted(model: LatentVectorModel, batch: Batch) -> Tensor:
    with torch.inference_mode():
        return model(batch.contexts, batch.condition, batch.is_target).float()


def _padded_together(model: LatentVectorModel, spans: Spans) -> list[NDArray[np.int64]]:
    """Return which spans may share a batch: those of similar length, or of one where the model would see the padding.

    In a small split, articles of all lengths would share one batch and be padded to the longest: three times the work.
    """
    kinds = np.floor(np.log(spans.lengths) / math.log(MOST_PADDED)) if model.is_causal else spans.lengths
    return [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]


@dataclass(frozen=True, kw_only=True)
class SelectionMetric:
    """A validation metric of predictions (S, D), targets (S, D) and the mean train vector (D,)."""

    measure: Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], float]
    higher_is_better: bool = True

    @property
    def sign(self) -> int:
        """Factor that makes higher values the better ones."""
        return 1 if self.higher_is_better else -1

    def is_better(self, value: float, than: float) -> bool:
        return self.sign * value > self.sign * than


def _cosine(predictions: NDArray[np.float32], targets: NDArray[np.float32], _: NDArray[np.float32]) -> float:
    return float(cosines(predictions, targets).mean())


def _centred_cosine(predictions: NDArray[np.float32], targets: NDArray[np.float32], mean: NDArray[np.float32]) -> float:
    return _cosine(predictions - mean, targets - mean, mean)


def _mse(predictions: NDArray[np.float32], targets: NDArray[np.float32], _: NDArray[np.float32]) -> float:
    return float(np.square(predictions - targets).mean())


SELECTION_METRICS: Mapping[str, SelectionMetric] = {
    "cosine": SelectionMetric(measure=_cosine),
    "centred_cosine": SelectionMetric(measure=_centred_cosine),
    "mse": SelectionMetric(measure=_mse, higher_is_better=False),
}


def selection_metric(name: str) -> SelectionMetric:
    """Return a validation metric by name.

    Raises:
        LvmError: If there is none of that name; the message lists what exists.
    """
    if name not in SELECTION_METRICS:
        raise LvmError(f"There is no selection metric {name!r}; choose one of {', '.join(SELECTION_METRICS)}.")
    return SELECTION_METRICS[name]
