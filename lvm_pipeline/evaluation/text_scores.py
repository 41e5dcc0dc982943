"""Text accuracy: predictions decoded to text, compared with the best that the decoder can reach and with chance.

A decoder is scored three times on the same sample of targets: on the predictions, on the true vectors of the targets
(the ceiling: what a perfect model would get with this decoder) and on true vectors of other targets (the floor). The
thresholds are judged on the absolute score, since a share of the way from floor to ceiling rewards bad decoders.

The nearest concept is always available. It is searched in the train articles, so it never returns the true text itself.
A text that is a concept of the table has a known vector; others are encoded if the encoder of the space is available.

Shapes: S = sampled targets, D = vector width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.decoding._contract import Decoder, refuse_other_space
from lvm_pipeline.decoding.nearest import ConceptBank, NearestConcept
from lvm_pipeline.evaluation.kept_ceiling import Ceiling, kept_ceiling
from lvm_pipeline.evaluation.text_measures import bleu, exact_match, rouge_l, token_f1
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.targets import Contexts
from lvm_pipeline.measures.uncertainty import Interval, article_interval, paired_gain
from lvm_pipeline.source.encoders.encoder import Encoder

if TYPE_CHECKING:
    from lvm_pipeline.evaluation.scoring import ScoredModel

DEFINITION = (
    "vec2text accuracy is the mean token F1 of the decoded prediction and the true text of the next concept: twice the "
    "number of shared words over the number of all words of both texts, in lower case and in any order"
)
NUM_EXAMPLES = 10
NUM_CONTEXT_TEXTS = 3  # of an example
NEAREST = "nearest"
Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """What to decode, and with what besides the nearest concept."""

    num_targets: int  # size of the sample; 0 decodes nothing
    decoders: Sequence[Decoder] = ()  # trained decoders of the vectors' space
    missing: Mapping[str, str] = field(default_factory=dict)  # the reason for each decoder that is not available
    second_encoder: Encoder | None = None  # of another space; compares decoded texts with the true ones


@dataclass(frozen=True, kw_only=True)
class TextMeasures:
    """Means over the sample."""

    token_f1: float  # see `text_measures`
    bleu: float  # see `text_measures`
    rouge_l: float  # see `text_measures`
    exact_match: float  # see `text_measures`
    # of the decoded text's own vector to the vector that was decoded; None if texts could not be encoded, and for the
    # floor
    round_trip_cosine: float | None = None
    target_cosine: float | None = None  # of the decoded text's own vector to the vector of the target
    second_cosine: float | None = None  # of decoded and true text by the second encoder, if there is one


@dataclass(frozen=True, kw_only=True)
class DecoderScores:
    """One decoder."""

    name: str  # the decoder
    prediction: TextMeasures  # decoding the model's predictions
    ceiling: TextMeasures  # decoding the true vectors
    floor: TextMeasures  # decoding the true vectors of other targets
    token_f1: Interval  # of the predictions, with its interval by articles
    # round-trip cosine on true vectors, this decoder minus the nearest concept; None for the nearest concept itself,
    # and if texts could not be encoded
    gain_over_nearest: Interval | None = None

    def share(self, measure: str) -> float | None:
        """Return (prediction - floor) / (ceiling - floor); None if the ceiling is not above the floor."""
        values = [getattr(each, measure) for each in (self.prediction, self.floor, self.ceiling)]
        if any(value is None for value in values) or values[2] <= values[1]:
            return None
        return (values[0] - values[1]) / (values[2] - values[1])


@dataclass(frozen=True, kw_only=True)
class DecodedText:
    """A decoded prediction; `confidence` is its round-trip cosine, None if it could not be encoded."""

    text: str
    confidence: float | None


@dataclass(frozen=True, kw_only=True)
class TextExample:
    """One target: the last concepts of its context, the true text, and the prediction decoded by each decoder."""

    article_id: str
    context: tuple[str, ...]
    truth: str
    cosine: float
    decoded: dict[str, DecodedText]


@dataclass(frozen=True, kw_only=True)
class TextScores:
    """Text accuracy of one model."""

    definition: str  # what the accuracy is, in one sentence
    num_targets: int  # targets in the sample
    seed: int  # of the sample
    has_encoder: bool  # whether texts could be encoded in the space of the vectors
    copy_last: TextMeasures  # the last concept of the context as the answer
    decoders: tuple[DecoderScores, ...]  # the nearest concept first
    preferred: str  # the decoder that is preferred
    why_preferred: str  # why, in one sentence
    examples: tuple[TextExample, ...]  # ten targets
    missing: dict[str, str]  # the reason for each decoder that was not run
    second_encoder: str | None = None  # space of the second encoder, if there was one

    @property
    def preferred_scores(self) -> DecoderScores:
        return next(each for each in self.decoders if each.name == self.preferred)

    @property
    def accuracy(self) -> float:
        """The accuracy of the preferred decoder, which the thresholds are judged on."""
        return self.preferred_scores.prediction.token_f1


def text_scores(
    scored: "ScoredModel",
    request: TextRequest,
    *,
    concepts_path: Path,
    encoder: Encoder | None,
    cache_dir: Path | None = None,
    seed: int = 0,
) -> TextScores:
    """Decode a sample of the predictions and score the texts; the encoder of the vectors' space may be missing.

    The texts of the true vectors are cached in `cache_dir`, if given.
    """
    sample = _Sample.draw(scored, request, concepts_path=concepts_path, encoder=encoder, seed=seed)
    nearest = NearestConcept(bank=sample.bank)
    for decoder in request.decoders:
        refuse_other_space(decoder, sample.bank.space_id)
    runs = [_Run.of(decoder, sample, cache_dir) for decoder in (nearest, *request.decoders)]
    scores = tuple(_scores(run, runs[0], sample) for run in runs)
    preferred, reason = prefer(scores)
    last = [sample.texts[row] for row in (sample.targets.target_rows - 1).tolist()]
    return TextScores(
        definition=DEFINITION,
        num_targets=len(sample.targets),
        seed=seed,
        has_encoder=encoder is not None,
        copy_last=_measures(last, sample, sample.vectors_of(last), None, sample.second_of(last)),
        decoders=scores,
        preferred=preferred,
        why_preferred=reason,
        examples=_examples(runs, sample, scored),
        missing=dict(request.missing),
        second_encoder=None if request.second_encoder is None else request.second_encoder.space_id,
    )


def prefer(scores: Sequence[DecoderScores]) -> tuple[str, str]:
    """Return the decoder that is preferred and why: the nearest concept, unless another one beats it.

    A decoder beats it if its texts lead back to the true vectors better: if the interval of its gain in round-trip
    cosine on true vectors is above zero.
    """
    better = [each for each in scores if each.gain_over_nearest is not None and each.gain_over_nearest.is_above_zero]
    if better:
        best = max(better, key=lambda each: each.ceiling.round_trip_cosine or 0)
        return best.name, f"{best.name} beats the nearest concept in round-trip cosine on true vectors"
    others = [each for each in scores if each.name != NEAREST]
    if not others:
        return NEAREST, "no other decoder is available"
    if all(each.gain_over_nearest is None for each in others):
        return NEAREST, "the texts of other decoders could not be encoded to compare them"
    names, verb = " and ".join(each.name for each in others), "does" if len(others) == 1 else "do"
    return NEAREST, f"{names} {verb} not beat the nearest concept in round-trip cosine on true vectors"


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The targets that are decoded, with everything that decoding and scoring them needs."""

    positions: NDArray[np.int64]  # among the scored targets
    targets: Contexts
    others: NDArray[np.int64]  # for each target of the sample, another one
    predictions: Vectors
    vectors: Vectors
    truths: list[str]
    texts: list[str]  # of the whole table
    rows_by_text: Mapping[str, int]
    own_rows: list[NDArray[np.int64]]  # of each target's article
    bank: ConceptBank
    encoder: Encoder | None
    second_encoder: Encoder | None
    fingerprint: str  # of the concept table

    @classmethod
    def draw(
        cls, scored: "ScoredModel", request: TextRequest, *, concepts_path: Path, encoder: Encoder | None, seed: int
    ) -> "_Sample":
        rng = np.random.default_rng(seed)
        size = min(request.num_targets, len(scored.predictions))
        positions = np.sort(rng.choice(len(scored.predictions), size=size, replace=False))
        targets = scored.targets.scored.part(positions)
        column = read_columns(concepts_path, ["concept_text"])["concept_text"]
        texts = [text or "" for text in column.to_pylist()]
        return cls(
            positions=positions,
            targets=targets,
            others=_others(targets.articles, rng),
            predictions=scored.predictions[positions],
            vectors=np.asarray(scored.targets.vectors[targets.target_rows], np.float32),
            truths=[texts[row] for row in targets.target_rows.tolist()],
            texts=texts,
            rows_by_text={text: row for row, text in enumerate(texts) if text},
            own_rows=[
                np.arange(first, first + length)
                for first, length in zip(
                    targets.article_first_rows, scored.data.articles.lengths[targets.articles], strict=True
                )
            ],
            bank=ConceptBank(
                space_id=scored.data.concepts.space_id,
                vectors=scored.targets.vectors,
                texts=column,
                rows=scored.targets.train_rows,
            ),
            encoder=encoder,
            second_encoder=request.second_encoder,
            fingerprint=scored.data.concepts.fingerprint,
        )

    @cached_property
    def second_truths(self) -> Vectors | None:
        """Vectors of the true texts by the second encoder."""
        return self.second_of(self.truths)

    @property
    def spaces(self) -> list[str | None]:
        """Spaces of the encoders."""
        return [None if each is None else each.space_id for each in (self.encoder, self.second_encoder)]

    def second_of(self, texts: Sequence[str]) -> Vectors | None:
        """Return the vectors of texts by the second encoder; None without it."""
        return None if self.second_encoder is None else np.asarray(self.second_encoder.encode(texts), np.float32)

    def vectors_of(self, texts: Sequence[str]) -> Vectors | None:
        """Return the vectors of texts: known for concepts of the table, else encoded; None without the encoder."""
        rows = np.array([self.rows_by_text.get(text, -1) for text in texts])
        found = np.asarray(self.bank.vectors[np.maximum(rows, 0)], np.float32)
        unknown = np.flatnonzero(rows < 0)
        if len(unknown) and self.encoder is None:
            return None
        if len(unknown) and self.encoder is not None:
            found = found.copy()
            found[unknown] = self.encoder.encode([texts[index] for index in unknown.tolist()])
        return found


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One decoder's texts of the predictions and of the true vectors, with the vectors of these texts."""

    name: str
    texts: list[str]
    vectors: Vectors | None
    ceiling: Ceiling

    @classmethod
    def of(cls, decoder: Decoder, sample: _Sample, cache_dir: Path | None) -> "_Run":
        texts = decoder.decode(sample.predictions, exclude=sample.own_rows)
        ceiling = kept_ceiling(
            decoder,
            sample.vectors,
            sample.own_rows,
            encode=sample.vectors_of,
            encode_second=sample.second_of,
            made_from=[sample.fingerprint, sample.targets.target_rows.tolist(), *sample.spaces],
            cache_dir=cache_dir,
        )
        return cls(name=decoder.name, texts=texts, vectors=sample.vectors_of(texts), ceiling=ceiling)


def _scores(run: _Run, nearest: _Run, sample: _Sample) -> DecoderScores:
    true, gain = run.ceiling, None
    if run is not nearest and true.vectors is not None and nearest.ceiling.vectors is not None:
        own, other = (cosines(each, sample.vectors) for each in (true.vectors, nearest.ceiling.vectors))
        gain = paired_gain(own, other, sample.targets.articles)
    others = sample.others
    floor = [None if each is None else each[others] for each in (true.vectors, true.second)]
    return DecoderScores(
        name=run.name,
        prediction=_measures(run.texts, sample, run.vectors, sample.predictions, sample.second_of(run.texts)),
        ceiling=_measures(true.texts, sample, true.vectors, sample.vectors, true.second),
        floor=_measures([true.texts[other] for other in others.tolist()], sample, floor[0], None, floor[1]),
        token_f1=article_interval(token_f1(run.texts, sample.truths), sample.targets.articles),
        gain_over_nearest=gain,
    )


def _measures(
    texts: Sequence[str], sample: _Sample, vectors: Vectors | None, decoded: Vectors | None, second: Vectors | None
) -> TextMeasures:
    """Score texts with their vectors by both encoders; `decoded` are the vectors that they were decoded from."""
    pairs = {
        "round_trip_cosine": (vectors, decoded),
        "target_cosine": (vectors, sample.vectors),
        "second_cosine": (second, sample.second_truths),
    }
    return TextMeasures(
        token_f1=float(token_f1(texts, sample.truths).mean()),
        bleu=bleu(texts, sample.truths),
        rouge_l=rouge_l(texts, sample.truths),
        exact_match=exact_match(texts, sample.truths),
        **{
            name: None if one is None or other is None else float(cosines(one, other).mean())
            for name, (one, other) in pairs.items()
        },
    )


def _others(articles: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return another target for each, of another article where there is one, each used about once."""
    order = rng.permutation(len(articles))
    for shift in range(1, len(order)):
        others = np.empty_like(order)
        others[order] = np.roll(order, shift)
        if (articles[others] != articles).all():
            return others
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    return others


def _examples(runs: Sequence[_Run], sample: _Sample, scored: "ScoredModel") -> tuple[TextExample, ...]:
    """Return targets of the sample, evenly spaced."""
    found = cosines(sample.predictions, sample.vectors)
    confidences = {run.name: None if run.vectors is None else cosines(run.vectors, sample.predictions) for run in runs}
    chosen = np.unique(np.linspace(0, len(sample.targets) - 1, min(NUM_EXAMPLES, len(sample.targets))).astype(int))
    return tuple(_example(index, runs, sample, scored, float(found[index]), confidences) for index in chosen.tolist())


def _example(
    index: int,
    runs: Sequence[_Run],
    sample: _Sample,
    scored: "ScoredModel",
    cosine: float,
    confidences: Mapping[str, Vectors | None],
) -> TextExample:
    row, first = int(sample.targets.target_rows[index]), int(sample.targets.first_rows[index])
    return TextExample(
        article_id=scored.data.articles.ids[int(sample.targets.articles[index])],
        context=tuple(sample.texts[max(first, row - NUM_CONTEXT_TEXTS) : row]),
        truth=sample.truths[index],
        cosine=cosine,
        decoded={
            run.name: DecodedText(text=run.texts[index], confidence=None if known is None else float(known[index]))
            for run in runs
            for known in (confidences[run.name],)
        },
    )
