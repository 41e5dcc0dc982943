"""A blinded study: pairs of texts for raters, with the key that tells which text is which.

Raters see a context and two texts, A and B. Which arm is A is drawn for each pair. Some pairs are shown twice, with the
sides swapped, to see whether a rater answers alike. The key is kept in the study's file and never given to raters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from lvm_pipeline.errors import LvmError, first_line
from lvm_pipeline.evaluation.preference import TIE, Judgement
from lvm_pipeline.evaluation.smoothing import Arm, SmoothedExample
from lvm_pipeline.files import write_json

STUDY_FILE = "study.json"
QUESTION = "Which text continues the passage better?"
FIRST, SECOND, NEITHER = "A is better", "B is better", "No difference"
ANSWERS = (FIRST, SECOND, NEITHER)
COMPARISONS: tuple[tuple[Arm, Arm], ...] = (("smoothed", "decoded"), ("smoothed", "control"))
REPEATED_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two texts and their arms: the key of one item."""

    pair_id: str  # equal for a pair and its repeat
    article_id: str  # article of the context
    context: tuple[str, ...]  # what both texts continue, oldest first
    treatment: str  # arm that is expected to win
    baseline: str  # the other arm
    texts: dict[str, str]  # text of each of the two arms
    is_treatment_first: bool  # whether the treatment is shown as A
    is_repeat: bool = False  # whether it is shown for the second time

    @property
    def shown(self) -> dict[str, str]:
        """What a rater sees beside the context."""
        first, second = (self.treatment, self.baseline) if self.is_treatment_first else (self.baseline, self.treatment)
        return {"A": self.texts[first], "B": self.texts[second]}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a rater answered; `is_human` is False for a program."""

    value: str
    is_human: bool


@dataclass(frozen=True, kw_only=True)
class Study:
    study_id: str  # its name
    trial_id: str  # trial whose texts are judged
    model_fingerprint: str  # of its weights
    seed: int  # of pairs, sides, repeats and order
    raters: tuple[str, ...]  # who is asked
    pairs: tuple[Pair, ...]  # every item, with repeats
    queues: dict[str, str]  # review queue of each rater
    items: dict[str, tuple[str, ...]]  # trace of each item, by rater, in the order of `pairs`
    experiment_id: str  # of MLflow
    urls: dict[str, str]  # review page of each rater


def make_pairs(
    examples: Sequence[SmoothedExample],
    *,
    against: Mapping[int, SmoothedExample] | None = None,
    num_pairs: int,
    seed: int,
) -> list[Pair]:
    """Return pairs of a trial's examples in which the two texts differ, then hidden repeats with swapped sides.

    `against` has texts of another trial by row of the target, for a comparison of the two; `num_pairs` is the most for
    each comparison.

    Raises:
        LvmError: If there is no such pair.
    """
    rng = np.random.default_rng(seed)
    found: list[Pair] = []
    for treatment, baseline in COMPARISONS:
        texts = [(each, each.texts[treatment].text, each.texts[baseline].text) for each in examples]
        found += _chosen(_pairs(treatment, baseline, texts, rng), num_pairs, rng)
    if against is not None:
        both = [
            (each, each.texts["smoothed"].text, _smoothed(against.get(each.passage.target_row))) for each in examples
        ]
        found += _chosen(_pairs("challenger", "champion", both, rng), num_pairs, rng)
    if not found:
        raise LvmError("There are no two different texts to compare; run `lvm smooth` on more targets first.")
    repeated = rng.choice(len(found), size=max(1, round(REPEATED_SHARE * len(found))), replace=False)
    swapped = [
        replace(found[index], is_repeat=True, is_treatment_first=not found[index].is_treatment_first)
        for index in sorted(repeated)
    ]
    return found + swapped


def _smoothed(example: SmoothedExample | None) -> str | None:
    return None if example is None else example.texts["smoothed"].text


def _pairs(
    treatment: str,
    baseline: str,
    texts: Sequence[tuple[SmoothedExample, str | None, str | None]],
    rng: np.random.Generator,
) -> list[Pair]:
    return [
        Pair(
            pair_id=f"{treatment}-{baseline}-{example.passage.target_row}",
            article_id=example.passage.article_id,
            context=example.passage.context,
            treatment=treatment,
            baseline=baseline,
            texts={treatment: own, baseline: other},
            is_treatment_first=bool(rng.integers(2)),
        )
        for example, own, other in texts
        if own and other and own.strip() != other.strip()
    ]


def _chosen(pairs: Sequence[Pair], num: int, rng: np.random.Generator) -> list[Pair]:
    chosen = rng.choice(len(pairs), size=min(num, len(pairs)), replace=False) if pairs else []
    return [pairs[index] for index in sorted(chosen)]


def order_for(num_items: int, *, rater: int, seed: int) -> list[int]:
    """Return the order in which a rater sees the items; it differs between raters."""
    return np.random.default_rng([seed, rater]).permutation(num_items).tolist()


def judgement_of(pair: Pair, rater: str, answer: Answer) -> Judgement | None:
    """Return what an answer says about the arms; None for one that was not offered."""
    if answer.value not in ANSWERS:
        return None
    chose_first = None if answer.value == NEITHER else answer.value == FIRST
    value = TIE if chose_first is None else float(chose_first == pair.is_treatment_first)
    return Judgement(
        rater=rater,
        pair_id=pair.pair_id,
        article_id=pair.article_id,
        treatment=pair.treatment,
        baseline=pair.baseline,
        value=value,
        chose_first=chose_first,
        is_repeat=pair.is_repeat,
        is_human=answer.is_human,
    )


def write_study(study: Study, folder: Path) -> None:
    write_json(folder / STUDY_FILE, asdict(study))


def read_study(folder: Path) -> Study:
    """Read a study. Raises LvmError if there is none, or it cannot be read."""
    path = folder / STUDY_FILE
    try:
        return TypeAdapter(Study).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise LvmError(f"There is no study {folder.name}; create one with `lvm preference create`.") from None
    except (OSError, ValidationError) as error:
        reason = first_line(error)
        raise LvmError(f"{path} is not a readable study ({reason}); restore it, or create another study.") from None
