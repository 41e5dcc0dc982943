"""Roll-out: the model continues from its own predictions, and each step is scored against the true concept.

A sample of articles is continued for a few steps, from one start per article. The prediction is fed back as it is, as
its nearest concept, or as the text of a decoder, encoded again. For comparison, the linear forecast is rolled out in
the same way, and two curves feed nothing back: the model that reads the true concepts, and the last concept repeated.

The pool contains the later concepts of the article too, and the nearest concept may be one of them, so that curve is
not a forecast from the past alone.

The condition (TMD codes) of a prediction is unknown; it is zero, as for concepts without codes.

Shapes: A = sampled articles, H = steps, P = candidates in the pool, D = vector width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lvm_pipeline.decoding._contract import Decoder
from lvm_pipeline.evaluation.kept_fits import kept_forecast
from lvm_pipeline.evaluation.report_parts import HELD, LINEAR, MODEL, NEAREST, TRUTH, RolloutCurve, RolloutScores
from lvm_pipeline.evaluation.scoring import ScoredModel
from lvm_pipeline.measures.linear_forecast import LinearForecast
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.retrieval import TIE_TOLERANCE, first_excluded_rows, primary_exclusion
from lvm_pipeline.measures.targets import Contexts, Targets
from lvm_pipeline.measures.uncertainty import paired_gain
from lvm_pipeline.source.encoders.encoder import Encoder, unit_length
from lvm_pipeline.training.batches import condition_on_device, vectors_on_device
from lvm_pipeline.training.data import Spans
from lvm_pipeline.training.predictions import predict_spans

NUM_STEPS = 8
NO_ROLLOUT = f"Roll-out: no article of the split has {NUM_STEPS} targets in a row."
MOST_ARTICLES = 64
MOST_DECODED = 16  # articles whose predictions are decoded and encoded again, which is slow
# The context of a roll-out is a multiple of this long if its article allows it: contexts of one length share a batch.
CONTEXT_STEP = 8

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Predict = Callable[[Sequence[Vectors]], Vectors]  # contexts, (T, D) each -> predictions (A, D)
FeedBack = Callable[[Vectors], Vectors]  # predictions (A, D) -> what is read next (A, D)


def rollout_scores(
    scored: ScoredModel,
    *,
    cache_dir: Path | None = None,
    decoders: Sequence[Decoder] = (),
    encoder: Encoder | None = None,
    seed: int = 0,
) -> RolloutScores | None:
    """Continue a sample of the scored articles; None if no article has H targets in a row.

    With an encoder of the vectors' space, texts of the decoders are encoded and fed back too. The linear forecast is
    cached in `cache_dir`.
    """
    targets = scored.targets
    starts = _sampled_starts(targets.scored, seed=seed)
    if not len(starts):
        return None
    rollout = _Rollout(scored=scored, starts=starts)
    forecast = kept_forecast(targets, fingerprint=scored.data.sequences.metadata.fingerprint, cache_dir=cache_dir)
    feed_backs = _unchanged, _NearestOnce(rollout)
    own, nearest = rollout.roll(rollout.predictor(), *feed_backs, first=rollout.first_predictions)
    (linear,) = rollout.roll(rollout.forecast(forecast), _unchanged)
    found = {
        MODEL: own,
        NEAREST: nearest,
        LINEAR: linear,
        TRUTH: scored.predictions[rollout.indices].transpose(1, 0, 2),
        HELD: np.repeat(targets.vectors[targets.scored.target_rows[starts] - 1][None], NUM_STEPS, axis=0),
    }
    curves = [rollout.curve(name, predictions) for name, predictions in found.items()]
    if encoder is not None:
        curves += [_decoded_curve(scored, starts, decoder, encoder) for decoder in decoders]
    articles = targets.scored.articles[starts]
    measured = zip(rollout.cosines(own), rollout.cosines(linear), strict=True)
    return RolloutScores(
        steps=tuple(range(1, NUM_STEPS + 1)),
        num_articles=len(starts),
        seed=seed,
        curves=tuple(curves),
        gains=tuple(paired_gain(one, other, articles, seed=seed) for one, other in measured),
    )


def _decoded_curve(scored: ScoredModel, starts: Rows, decoder: Decoder, encoder: Encoder) -> RolloutCurve:
    """Return the curve of the model that reads its decoded and re-encoded predictions, on a few of the articles."""
    few = _Rollout(scored=scored, starts=starts[:: -(-len(starts) // MOST_DECODED)])

    def encoded_again(predicted: Vectors) -> Vectors:
        return np.asarray(encoder.encode(decoder.decode(predicted)), np.float32)

    (predictions,) = few.roll(few.predictor(), encoded_again, first=few.first_predictions)
    return few.curve(f"model, text of {decoder.name} fed back", predictions)


def _sampled_starts(contexts: Contexts, *, seed: int) -> Rows:
    """Return one target for each article of a sample, followed by at least H - 1 targets of the same article.

    Targets whose context is a multiple of `CONTEXT_STEP` long are preferred.
    """
    last = np.arange(len(contexts)) + NUM_STEPS - 1
    last = last[last < len(contexts)]
    first = np.arange(len(last))
    rows, articles = contexts.target_rows, contexts.articles
    possible = first[(articles[first] == articles[last]) & (rows[last] - rows[first] == NUM_STEPS - 1)]
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(possible)
    is_other = (rows - contexts.first_rows)[shuffled] % CONTEXT_STEP != 0
    shuffled = shuffled[np.argsort(is_other, kind="stable")]
    _, one_each = np.unique(articles[shuffled], return_index=True)
    return np.sort(rng.permutation(shuffled[one_each])[:MOST_ARTICLES])


@dataclass(frozen=True, kw_only=True)
class _Rollout:
    """A model and the targets that its roll-outs begin with, as indices into the scored ones, (A,)."""

    scored: ScoredModel
    starts: Rows

    @property
    def targets(self) -> Targets:
        return self.scored.targets

    @property
    def indices(self) -> Rows:
        """The targets of all steps, (A, H)."""
        return self.starts[:, None] + np.arange(NUM_STEPS)

    @property
    def first_rows(self) -> Rows:
        return self.targets.scored.first_rows[self.starts]

    @property
    def start_rows(self) -> Rows:
        """The first row that is not read, (A,)."""
        return self.targets.scored.target_rows[self.starts]

    @property
    def first_predictions(self) -> Vectors:
        """The predictions of the first step, before anything is fed back, (A, D)."""
        return self.scored.predictions[self.starts]

    def roll(self, predict: Predict, *feed_backs: FeedBack, first: Vectors | None = None) -> list[Vectors]:
        """Return the predictions of every step, (H, A, D), for each way to feed back; they are computed in one batch.

        `first` are the predictions of the first step, if they are known.
        """
        num, width = len(self.starts), self.targets.vectors.shape[1]
        read = [self._read(first, end) for first, end in zip(self.first_rows, self.start_rows, strict=True)]
        first = self._scaled(predict(read) if first is None else first)
        contexts, predicted, steps = read * len(feed_backs), np.tile(first, (len(feed_backs), 1)), []
        for step in range(NUM_STEPS):
            steps.append(predicted)
            if step == NUM_STEPS - 1:
                break
            parts = np.split(predicted, len(feed_backs))
            fed = np.concatenate([feed(part) for feed, part in zip(feed_backs, parts, strict=True)])
            added = np.pad(fed, ((0, 0), (0, contexts[0].shape[1] - width)))
            grown = [np.concatenate([context, row[None]]) for context, row in zip(contexts, added, strict=True)]
            contexts = [self._window(context) for context in grown]
            predicted = self._scaled(predict(contexts))
        return [np.stack([each[start : start + num] for each in steps]) for start in range(0, len(predicted), num)]

    def _scaled(self, predicted: Vectors) -> Vectors:
        found = np.asarray(predicted, np.float32)
        return unit_length(found) if self.scored.model.config.unit_length else found

    def _read(self, first: int, end: int) -> Vectors:
        """Return the vectors of some rows, joined with their condition if the model reads one."""
        vectors, condition = np.asarray(self.targets.vectors[first:end]), self.scored.condition
        return vectors if condition is None else np.concatenate([vectors, condition[first:end]], axis=1)

    def _window(self, context: Vectors) -> Vectors:
        return context if self.targets.context_mode == "articles" else context[-self.targets.context_length :]

    def predictor(self) -> Predict:
        """Return the model as a predictor of growing contexts, which carries its state along if it has one."""
        model = self.scored.model
        can_carry = model.is_recurrent and model.max_context is None and self.targets.context_mode == "articles"
        return _Carrying(self.scored, self.targets.vectors.shape[1]) if can_carry else self.predict

    def predict(self, contexts: Sequence[Vectors]) -> Vectors:
        """Return the model's predictions for the contexts, which are cut as in scoring."""
        rows, first_rows, ends = _stacked(contexts)
        rows = np.concatenate([rows, rows[-1:]])  # a batch gathers the row after its last
        vectors, condition = np.hsplit(rows, [self.targets.vectors.shape[1]])
        device, lengths = self.scored.device, ends - first_rows
        return predict_spans(
            self.scored.model,
            vectors_on_device(np.ascontiguousarray(vectors), device),
            Spans(first_rows=first_rows, lengths=lengths, first_targets=lengths - 1),
            condition=condition_on_device(condition if condition.size else None, device),
        )

    def forecast(self, forecast: LinearForecast) -> Predict:
        """Return the linear forecast as a predictor of contexts; it reads no condition."""
        width = self.targets.vectors.shape[1]

        def predict(contexts: Sequence[Vectors]) -> Vectors:
            rows, first_rows, ends = _stacked(contexts)
            return forecast.predict(rows[:, :width], first_rows, ends)

        return predict

    def curve(self, name: str, predictions: Vectors) -> RolloutCurve:
        """Score the predictions of every step, (H, A, D)."""
        return RolloutCurve(
            name=name,
            num_articles=len(self.starts),
            cosine=tuple(self.cosines(predictions).mean(axis=1, dtype=np.float64).tolist()),
            mrr=tuple((1 / self.ranks(predictions)).mean(axis=1).tolist()),
        )

    def cosines(self, predictions: Vectors) -> Vectors:
        """Return the cosine to the true concept, (H, A)."""
        rows = self.targets.scored.target_rows[self.indices].T
        return np.stack(
            [cosines(each, self.targets.vectors[true]) for each, true in zip(predictions, rows, strict=True)]
        )

    def is_candidate(self) -> NDArray[np.bool_]:
        """Return which concepts of the pool were not read before the roll-out, (A, P)."""
        first = first_excluded_rows(self.targets.scored, primary_exclusion(self.targets))[self.starts]
        pool = self.targets.pool_rows
        return (pool < first[:, None]) | (pool >= self.start_rows[:, None])

    def ranks(self, predictions: Vectors) -> Rows:
        """Rank the true concept in the report's pool without what was read before the roll-out, (H, A)."""
        pool, is_candidate = self.targets.pool_directions, self.is_candidate()
        rows = self.targets.scored.target_rows[self.indices].T
        ranks = []
        for each, true in zip(predictions, rows, strict=True):
            found = unit_length(each) @ pool.T
            own = found[np.arange(len(found)), np.searchsorted(self.targets.pool_rows, true)]
            ranks.append(np.count_nonzero((found >= own[:, None] - TIE_TOLERANCE) & is_candidate, axis=1))
        return np.maximum(np.stack(ranks), 1)


class _Carrying:
    """Predicts with a recurrent model for contexts that are longer by one concept at every call."""

    def __init__(self, scored: ScoredModel, width: int):
        self._model, self._device, self._width = scored.model.eval(), scored.device, width
        self._groups: list[Rows] = []  # contexts of one length
        self._states: list[Any] = []

    @torch.inference_mode()
    def __call__(self, contexts: Sequence[Vectors]) -> Vectors:
        if not self._groups:
            lengths = np.array([len(each) for each in contexts])
            self._groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
            self._states = [None] * len(self._groups)
        found = np.empty((len(contexts), self._width), np.float32)
        for index, group in enumerate(self._groups):
            rows = torch.from_numpy(np.stack([contexts[each] for each in group.tolist()])).to(self._device)
            vectors, beside = rows[..., : self._width], rows[..., self._width :]
            condition, state = beside if beside.shape[-1] else None, self._states[index]
            if state is None:
                predictions, self._states[index] = self._model.prefill(vectors, condition=condition)
                found[group] = predictions[:, -1].float().cpu().numpy()
            else:
                last = None if condition is None else condition[:, -1]
                prediction, self._states[index] = self._model.step(vectors[:, -1], state, last)
                found[group] = prediction.float().cpu().numpy()
        return found


def _unchanged(predicted: Vectors) -> Vectors:
    return predicted


class _NearestOnce:
    """Feeds back the nearest concept of the pool that was neither read nor fed back before."""

    def __init__(self, rollout: _Rollout):
        self._targets, self._is_left = rollout.targets, rollout.is_candidate()

    def __call__(self, predicted: Vectors) -> Vectors:
        found = np.where(self._is_left, unit_length(predicted) @ self._targets.pool_directions.T, -np.inf)
        best = found.argmax(axis=1)
        self._is_left[np.arange(len(best)), best] = False
        return np.asarray(self._targets.vectors[self._targets.pool_rows[best]], np.float32)


def _stacked(contexts: Sequence[Vectors]) -> tuple[Vectors, Rows, Rows]:
    """Concatenate contexts; also return the first row of each and the row after its last."""
    ends = np.cumsum([len(each) for each in contexts])
    return np.concatenate(contexts), np.append(0, ends[:-1]), ends
