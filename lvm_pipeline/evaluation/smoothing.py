"""Smoothing: a language model turns decoded predictions into fluent passages, and guards check what it wrote.

Three arms are scored on the same targets: `decoded` (the decoder's text as it is), `smoothed` (the language model read
the context and that text) and `control` (it read the context alone). What the smoothed text gains over the control is
due to the prediction; the rest is what the language model knows by itself. That does not hold for the prompt `short`,
whose arms differ in more than the prediction: `smoothed` is that text, corrected without the context, and `control`
continues the last concept.

Shapes: S = targets, D = vector width.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.chat import ChatAnswer, ChatFailure, ChatModel
from lvm_pipeline.evaluation.smoothing_prompt import (
    Passage,
    Prompt,
    cites_context,
    num_words,
    prompt_hash,
    read_answer,
    repeats_data,
    smoothing_request,
)
from lvm_pipeline.evaluation.stored import read_section
from lvm_pipeline.files import write_json
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.uncertainty import Interval, article_interval, paired_gain
from lvm_pipeline.source.encoders.encoder import Encoder

Arm = Literal["decoded", "smoothed", "control"]
ASKED: tuple[Arm, ...] = ("smoothed", "control")
SMOOTHING_FILE = "smoothing.json"
LENGTH_RATIOS = (0.3, 3.0)  # allowed words of a text, relative to the mean concept of its context
COSINE_TOLERANCE = 0.05  # how much farther than the decoded text a smoothed one may be from the prediction
NUM_FAILURES = 3  # of the server, in a row; then it is not asked again
NUM_SHOWN = 5  # examples in the report

OnPassage = Callable[[int, int], None]  # passages done, passages in all


@dataclass(frozen=True, kw_only=True)
class WrittenText:
    text: str | None  # none where there is no answer
    failure: ChatFailure | None = None  # why there is none
    cited: tuple[str, ...] = ()  # ids of context concepts that the answer cites
    cites_context: bool | None = None  # whether it cites the context and nothing else; None if not asked to
    length_ratio: float | None = None  # words relative to the mean concept of the context
    cosine_to_prediction: float | None = None  # of the encoded text to the predicted vector; None without the encoder
    cosine_to_target: float | None = None  # to the target's vector
    holds: bool | None = None  # whether all guards of the text hold


@dataclass(frozen=True, kw_only=True)
class SmoothedExample:
    """One target with the texts of all arms."""

    passage: Passage
    texts: dict[Arm, WrittenText]


@dataclass(frozen=True, kw_only=True)
class ArmScores:
    name: Arm  # the arm
    num_texts: int  # targets that have a text
    failures: dict[str, int]  # number of failures of each kind
    # mean with its interval by articles; None without texts or without the encoder
    cosine_to_prediction: Interval | None = None
    cosine_to_target: Interval | None = None  # the same to the targets' vectors
    length_ratio: float | None = None  # median
    right_length: float | None = None  # share of texts within the allowed length ratios
    cites_context: float | None = None  # share of texts that cite the context and nothing else
    # share of texts that are as near to the prediction as the decoded text, within the tolerance
    near_prediction: float | None = None
    holds: float | None = None  # share of texts for which all guards hold


@dataclass(frozen=True, kw_only=True)
class SmoothingScores:
    model_fingerprint: str  # of the weights that predicted
    language_model: str  # name of the language model
    decoder: str  # name of the decoder
    prompt: str  # hash of the prompt
    prompt_name: Prompt = "full"  # scores of earlier versions do not say
    seed: int  # of the sample of targets
    num_targets: int  # targets that were sampled
    has_encoder: bool  # whether texts could be encoded in the space of the vectors
    arms: tuple[ArmScores, ...]  # in the order decoded, smoothed, control
    gain_over_decoded: Interval | None  # smoothed minus decoded, cosine to the target, on targets that have both
    # smoothed minus control; with the prompt `full`, what the prediction adds to what the language model knows
    gain_over_control: Interval | None
    examples: tuple[SmoothedExample, ...]  # all targets in the trial's file, the first few in a report

    @property
    def why_no_answers(self) -> str | None:
        """Why the language model gave no answer at all; None if it gave some."""
        if any(arm.num_texts for arm in self.arms if arm.name in ASKED):
            return None
        failures = [text.failure for each in self.examples for text in each.texts.values() if text.failure]
        return failures[0].reason if failures else "no target was sampled"

    def for_report(self) -> "SmoothingScores":
        """Return the scores with the first few examples."""
        return replace(self, examples=self.examples[:NUM_SHOWN])


def smooth(
    passages: Sequence[Passage],
    chat: ChatModel,
    *,
    predictions: NDArray[np.float32],
    targets: NDArray[np.float32],
    encoder: Encoder | None,
    model_fingerprint: str,
    decoder: str,
    seed: int,
    prompt: Prompt = "full",
    progress: OnPassage | None = None,
) -> SmoothingScores:
    """Ask a language model for fluent texts, with and without the decoded prediction, and score them.

    Args:
        chat: The language model. After three failures of its server in a row it is not asked again.
        predictions: The predicted vectors, (S, D).
        targets: The targets' own vectors, (S, D).
        encoder: Of the vectors' space; without it there are no cosines.
        model_fingerprint: Of the weights that predicted.
        decoder: Name of the decoder.
        seed: Of the sample of targets, and of the resampling.
        prompt: Which question is asked; answers to `short` need not cite the context.
    """
    texts: list[dict[Arm, WrittenText]] = []
    for written in _written(passages, chat, prompt):
        texts.append(written)
        if progress is not None:
            progress(len(texts), len(passages))
    if encoder is not None:
        texts = _with_cosines(texts, encoder, predictions, targets)
    texts = [_guarded(each) for each in texts]
    articles = np.array([passage.article_id for passage in passages], dtype=object)
    return SmoothingScores(
        model_fingerprint=model_fingerprint,
        language_model=chat.name,
        decoder=decoder,
        prompt=prompt_hash(prompt),
        prompt_name=prompt,
        seed=seed,
        num_targets=len(passages),
        has_encoder=encoder is not None,
        arms=tuple(_arm_scores(name, texts, articles, seed=seed) for name in ("decoded", *ASKED)),
        gain_over_decoded=_gain("decoded", texts, articles, seed=seed),
        gain_over_control=_gain("control", texts, articles, seed=seed),
        examples=tuple(
            SmoothedExample(passage=passage, texts=each) for passage, each in zip(passages, texts, strict=True)
        ),
    )


def _written(passages: Sequence[Passage], chat: ChatModel, prompt: Prompt) -> Iterator[dict[Arm, WrittenText]]:
    failed: ChatFailure | None = None
    num_failed = 0
    for passage in passages:
        texts: dict[Arm, WrittenText] = {"decoded": _text_of(passage, passage.decoded, cited=None)}
        for arm in ASKED:
            if failed is not None and num_failed >= NUM_FAILURES:
                found = ChatFailure(
                    kind=failed.kind, reason=f"not asked after {num_failed} failures in a row: {failed.reason}"
                )
            else:
                found = chat.ask(smoothing_request(passage, with_draft=arm == "smoothed", prompt=prompt))
                failed = found if isinstance(found, ChatFailure) and found.is_of_server else None
                num_failed = num_failed + 1 if failed is not None else 0
            texts[arm] = _read(passage, found, prompt)
        yield texts


def _read(passage: Passage, found: ChatAnswer | ChatFailure, prompt: Prompt) -> WrittenText:
    if isinstance(found, ChatFailure):
        return WrittenText(text=None, failure=found)
    if repeats_data(found.text):
        reason = "the answer repeats the data that it was given"
        return WrittenText(text=None, failure=ChatFailure(kind="malformed", reason=reason))
    text, cited = read_answer(found.text)
    if not text:
        return WrittenText(text=None, failure=ChatFailure(kind="empty", reason="the answer cites but says nothing"))
    return _text_of(passage, text, cited=cited if prompt == "full" else None)


def _text_of(passage: Passage, text: str, *, cited: tuple[str, ...] | None) -> WrittenText:
    return WrittenText(
        text=text,
        cited=cited or (),
        cites_context=None if cited is None else cites_context(cited, passage),
        length_ratio=num_words(text) / passage.usual_words,
    )


def _with_cosines(
    texts: Sequence[dict[Arm, WrittenText]],
    encoder: Encoder,
    predictions: NDArray[np.float32],
    targets: NDArray[np.float32],
) -> list[dict[Arm, WrittenText]]:
    """Return the texts with the cosines of their vectors, encoded in one go."""
    written: list[tuple[int, Arm, str]] = [
        (index, arm, text)
        for index, arms in enumerate(texts)
        for arm in ("decoded", *ASKED)
        if (text := arms[arm].text)
    ]
    if not written:
        return list(texts)
    vectors = encoder.encode([text for _, _, text in written])
    rows = np.array([index for index, _, _ in written])
    to_predictions, to_targets = cosines(vectors, predictions[rows]), cosines(vectors, targets[rows])
    found = [dict(arms) for arms in texts]
    for (index, arm, _), near, true in zip(written, to_predictions, to_targets, strict=True):
        found[index][arm] = replace(found[index][arm], cosine_to_prediction=float(near), cosine_to_target=float(true))
    return found


def _guarded(texts: dict[Arm, WrittenText]) -> dict[Arm, WrittenText]:
    """Apply the guards to the texts that the language model wrote."""
    found = dict(texts)
    for arm in ASKED:
        if found[arm].text is not None:
            near = _is_near_prediction(found, arm)
            held = [_has_right_length(found[arm]), found[arm].cites_context is not False]
            held += [near] if arm == "smoothed" and near is not None else []
            found[arm] = replace(found[arm], holds=all(held))
    return found


def _has_right_length(text: WrittenText) -> bool:
    low, high = LENGTH_RATIOS
    return text.length_ratio is not None and low <= text.length_ratio <= high


def _is_near_prediction(texts: dict[Arm, WrittenText], arm: Arm) -> bool | None:
    own, decoded = texts[arm].cosine_to_prediction, texts["decoded"].cosine_to_prediction
    return None if own is None or decoded is None else own >= decoded - COSINE_TOLERANCE


def _arm_scores(
    name: Arm, texts: Sequence[dict[Arm, WrittenText]], articles: NDArray[np.object_], *, seed: int
) -> ArmScores:
    own = [each[name] for each in texts]
    failures = Counter(each.failure.kind for each in own if each.failure is not None)
    has_text = np.array([each.text is not None for each in own], bool)
    scores = ArmScores(name=name, num_texts=int(has_text.sum()), failures=dict(failures))
    if not scores.num_texts:
        return scores
    present = [each for each in own if each.text is not None]
    near = [_is_near_prediction(each, name) for each in texts if each[name].text is not None]
    return replace(
        scores,
        cosine_to_prediction=_interval([each.cosine_to_prediction for each in present], articles[has_text], seed),
        cosine_to_target=_interval([each.cosine_to_target for each in present], articles[has_text], seed),
        length_ratio=float(np.median([each.length_ratio or 0 for each in present])),
        right_length=_share([_has_right_length(each) for each in present]),
        cites_context=_share([each.cites_context for each in present]),
        near_prediction=_share(near),
        holds=_share([each.holds for each in present]),
    )


def _interval(values: Sequence[float | None], articles: NDArray[np.object_], seed: int) -> Interval | None:
    known = [value for value in values if value is not None]
    return article_interval(known, articles, seed=seed) if known and len(known) == len(articles) else None


def _share(values: Sequence[bool | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _gain(
    other: Arm, texts: Sequence[dict[Arm, WrittenText]], articles: NDArray[np.object_], *, seed: int
) -> Interval | None:
    """Return the mean of smoothed minus another arm in cosine to the target, on targets that have both."""
    pairs = [(each["smoothed"].cosine_to_target, each[other].cosine_to_target) for each in texts]
    has_both = np.array([own is not None and base is not None for own, base in pairs], bool)
    if not has_both.any():
        return None
    values = np.array([pair for pair, both in zip(pairs, has_both, strict=True) if both], np.float64)
    return paired_gain(values[:, 0], values[:, 1], articles[has_both], seed=seed)


def write_smoothing(scores: SmoothingScores, folder: Path) -> Path:
    """Write scores and texts into a trial's folder and return the path."""
    path = folder / SMOOTHING_FILE
    write_json(path, asdict(scores))
    return path


def read_smoothing(folder: Path, *, fingerprint: str) -> SmoothingScores | None:
    """Read the smoothed texts of a model from its trial's folder; None if there are none, or they are another's."""
    return read_section(SmoothingScores, folder / SMOOTHING_FILE, fingerprint=fingerprint)
