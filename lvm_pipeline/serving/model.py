"""A loaded model with its concept table, encoder and decoders, and its answers to several requests at once.

Shapes: B = requests, T = context in concepts, D = vector width, k = concepts asked for.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lvm_pipeline.decoding._contract import Decoder
from lvm_pipeline.decoding.nearest import SAME_VECTOR, ConceptBank, Found
from lvm_pipeline.errors import LvmError
from lvm_pipeline.inference.contexts import Context, ContextPredictor
from lvm_pipeline.inference.nearest import ConceptIndex, Ranking
from lvm_pipeline.serving.messages import PredictRequest
from lvm_pipeline.serving.search import BankSearch
from lvm_pipeline.source.encoders.encoder import Encoder, unit_length

NEAREST = "nearest"  # the decoder that answers with concepts of the table
NOT_DECODED: dict[str, Any] = {"text": None, "confidence": None, "decoder": None}

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model is: its folder, its version in the registry, and a stamp that changes with the files."""

    model_dir: Path
    version: str | None
    stamp: str


class FailedPredictionError(Exception):
    """The model did not answer; the message is for the log and the client."""


Answer = dict[str, Any] | LvmError | FailedPredictionError


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model, the concept table to search, the encoder of its space and the decoders, where they are available."""

    source: Source
    predictor: ContextPredictor
    index: ConceptIndex | None = None
    encoder: Encoder | None = None
    decoders: Mapping[str, Decoder] = field(default_factory=dict)
    _encoding: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def space_id(self) -> str:
        return self.predictor.info.space_id

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The fields of every answer that identify the model."""
        info = self.predictor.info
        return {
            "trial_id": info.trial_id,
            "architecture": info.architecture,
            "version": self.source.version,
            "space_id": info.space_id,
        }

    @property
    def decoder_names(self) -> list[str]:
        return [*([NEAREST] if self.index is not None else []), *self.decoders]

    @cached_property
    def search(self) -> BankSearch | None:
        """How the concept table is searched."""
        return None if self.index is None else BankSearch(self.index.bank)

    @property
    def _no_encoder(self) -> LvmError:
        return LvmError(
            f"The encoder of the model's space {self.space_id} is not available on this server; send vectors."
        )

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts with the encoder of the model's space, (n, D).

        Raises:
            LvmError: If that encoder is not on this machine.
        """
        if self.encoder is None:
            raise self._no_encoder
        with self._encoding:
            return np.asarray(self.encoder.encode(list(texts)), np.float32)

    def answers(self, requests: Sequence[PredictRequest]) -> list[Answer]:
        """Answer requests together: one forward pass and one search for all; a refused one is its error."""
        checked = self._contexts(requests)
        good = [(request, each) for request, each in zip(requests, checked, strict=True) if isinstance(each, Context)]
        made = iter(self._predicted_or_failed([request for request, _ in good], [context for _, context in good]))
        return [next(made) if isinstance(each, Context) else each for each in checked]

    def _predicted_or_failed(
        self, requests: Sequence[PredictRequest], contexts: Sequence[Context]
    ) -> Sequence[dict[str, Any] | FailedPredictionError]:
        """Answer checked requests; if that fails, each alone, so that only those that cause it fail."""
        if not requests:
            return []
        try:
            return self._predicted(requests, contexts)
        except LvmError as error:
            if len(requests) == 1:
                return [FailedPredictionError(str(error))]
        alone = [self._predicted_or_failed([each], [context]) for each, context in zip(requests, contexts, strict=True)]
        return [answer for (answer,) in alone]

    def _contexts(self, requests: Sequence[PredictRequest]) -> list[Context | LvmError]:
        """Check all requests; all texts are encoded together."""
        refused = [self._refusal(request) for request in requests]
        texts = [request.texts or [] for request, error in zip(requests, refused, strict=True) if error is None]
        flat = [text for each in texts for text in each]
        encoded = iter(self.encode(flat) if flat else ())
        found: list[Context | LvmError] = []
        for request, error in zip(requests, refused, strict=True):
            if error is not None:
                found.append(error)
                continue
            is_text = request.texts is not None
            vectors = np.array([next(encoded) for _ in request.texts or ()]) if is_text else request.vectors or []
            try:
                found.append(
                    self.predictor.context(
                        vectors, request.tmd_dense, space_id=request.space_id, is_encoded_here=is_text
                    )
                )
            except LvmError as problem:
                found.append(problem)
        return found

    def _refusal(self, request: PredictRequest) -> LvmError | None:
        """Return why a request cannot be answered, as far as its vectors do not matter."""
        if request.decoder not in (None, NEAREST, *self.decoders):
            known = ", ".join([NEAREST, *self.decoders])
            return LvmError(f"There is no decoder {request.decoder!r} on this server; there are {known}.")
        if request.texts is None:
            return None
        if self.encoder is None:
            return self._no_encoder
        problem = self.predictor.too_long(len(request.texts))
        return None if problem is None else LvmError(problem)

    def _predicted(self, requests: Sequence[PredictRequest], contexts: Sequence[Context]) -> list[dict[str, Any]]:
        predictions = self.predictor.predict(contexts)
        found, closest = self._searched(requests, contexts, predictions)
        decoded = self._decoded(requests, predictions, closest)
        return [
            {
                "prediction": prediction.tolist(),
                "num_context": self.predictor.num_read(context),
                "nearest": near,
                **text,
                **self.identity,
            }
            for prediction, context, near, text in zip(predictions, contexts, found, decoded, strict=True)
        ]

    def _searched(
        self, requests: Sequence[PredictRequest], contexts: Sequence[Context], predictions: Vectors
    ) -> tuple[list[list[dict[str, Any]] | None], list[Found | None]]:
        """Return the nearest concepts of each request, and the one nearest to its prediction."""
        if self.index is None or self.search is None:
            return [None] * len(requests), [None] * len(requests)
        counts = [max(1, request.nearest) for request in requests]
        rankings = self.predictor.rankings(contexts)
        if rankings is None:
            found = closest = nearest_outside(self.search, predictions, contexts, requests, counts)
        else:
            found = self._ranked(rankings, requests, contexts, predictions)
            closest = nearest_outside(self.search, predictions, contexts, requests, [1] * len(requests))
        rows: list[list[dict[str, Any]] | None] = []
        for each, request in zip(found, requests, strict=True):
            rows.append(concepts_of(self.index.columns, each, request.nearest))
        return rows, list(closest)

    def _ranked(
        self,
        rankings: Sequence[Ranking],
        requests: Sequence[PredictRequest],
        contexts: Sequence[Context],
        predictions: Vectors,
    ) -> list[Found]:
        """Return the nearest concepts in the order of a ranking output, with their cosines to the prediction."""
        assert self.search is not None
        vectors, queries = self.search.bank.vectors, np.stack([ranking.query for ranking in rankings])
        counts = [max(request.nearest, rank.num_scored) for request, rank in zip(requests, rankings, strict=True)]
        ordered = []
        near = nearest_outside(self.search, queries, contexts, requests, counts)
        for each, ranking, prediction, request in zip(near, rankings, predictions, requests, strict=True):
            ordered.append(ranking.best(each.rows, vectors, prediction, request.nearest))
        return ordered

    def _decoded(
        self,
        requests: Sequence[PredictRequest],
        predictions: Vectors,
        closest: Sequence[Found | None],
    ) -> list[dict[str, Any]]:
        """Return text, confidence and decoder of each prediction."""
        decoded: list[dict[str, Any]] = [NOT_DECODED for _ in requests]
        for name in {request.decoder for request in requests} - {None}:
            chosen = [index for index, request in enumerate(requests) if request.decoder == name]
            if name == NEAREST:
                for index in chosen:
                    decoded[index] = self._as_text(closest[index])
                continue
            texts = self.decoders[str(name)].decode(predictions[chosen])
            confidences = round_trip(self, texts, predictions[chosen])
            for index, text, confidence in zip(chosen, texts, confidences, strict=True):
                decoded[index] = {"text": text, "confidence": confidence, "decoder": name}
        return decoded

    def _as_text(self, found: Found | None) -> dict[str, Any]:
        if self.index is None or found is None or not len(found.rows):
            return NOT_DECODED
        (text,) = self.index.bank.texts_of(found.rows[:1])
        return {"text": text, "confidence": float(found.cosines[0]), "decoder": NEAREST}


def round_trip(served: ServedModel, texts: Sequence[str], predictions: Vectors) -> list[float | None]:
    """Return the cosine between each prediction and its decoded text; None where the encoder is not available."""
    if served.encoder is None:
        return [None] * len(texts)
    encoded = unit_length(served.encode(texts))
    return np.einsum("bd,bd->b", encoded, unit_length(predictions)).astype(float).tolist()


def nearest_outside(
    search: BankSearch,
    queries: Vectors,
    contexts: Sequence[Context],
    requests: Sequence[PredictRequest],
    counts: Sequence[int],
) -> list[Found]:
    """Find the concepts nearest to each query that are not in its context, by vector or by text.

    The table is searched once for all queries: enough concepts are found to leave those of the context out.
    """
    most, num = max(counts) + max(len(each.vectors) for each in contexts), len(search.bank.vectors)
    while True:
        found = search.nearest(queries, most)
        left = [
            _outside(search.bank, each, context, request.texts or ())
            for each, context, request in zip(found, contexts, requests, strict=True)
        ]
        if most >= num or all(len(each.rows) >= count for each, count in zip(left, counts, strict=True)):
            return [
                Found(rows=each.rows[:count], cosines=each.cosines[:count])
                for each, count in zip(left, counts, strict=True)
            ]
        most *= 2


def _outside(bank: ConceptBank, found: Found, context: Context, texts: Sequence[str]) -> Found:
    """Leave out the concepts that have a vector or text of the context."""
    vectors = unit_length(np.asarray(bank.vectors[found.rows]))
    is_read = (vectors @ unit_length(context.vectors).T >= SAME_VECTOR).any(axis=1)
    if texts:
        is_read |= np.isin(bank.texts_of(found.rows), list(texts))
    return Found(rows=found.rows[~is_read], cosines=found.cosines[~is_read])


def concepts_of(columns: pa.Table, found: Found, count: int) -> list[dict[str, Any]]:
    """Return the columns of found concepts, with their cosines."""
    concepts = columns.take(pa.array(found.rows[:count])).to_pylist()
    return [
        {**concept, "cosine": float(cosine)} for concept, cosine in zip(concepts, found.cosines[:count], strict=True)
    ]
