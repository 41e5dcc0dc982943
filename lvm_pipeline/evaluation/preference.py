"""Preference of raters between two texts: win rates, strengths, agreement, and the size of a study.

Intervals come from resampling whole articles, since judgements on one article are alike. If nearly all judgements
agree, resampling underestimates the spread, so the interval of a win rate also covers Wilson's for that many articles.

Shapes: J = judgements, A = articles, K = arms, R = resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.evaluation.stored import read_section
from lvm_pipeline.files import write_json
from lvm_pipeline.measures.uncertainty import Interval, article_interval

PREFERENCE_FILE = "preference.json"
THRESHOLD = 0.8  # of the win rate
TIE = 0.5
NUM_RESAMPLES = 1000
NUM_STEPS = 100  # of the fit of strengths
PRIOR = 0.5  # wins that each arm is given against each other, so that an arm that always wins has a finite strength
NORMAL_975 = 1.959964  # quantile of the standard normal distribution
POWER = 0.8  # of a study with the number of judgements that `judgements_needed` returns


@dataclass(frozen=True, kw_only=True)
class Judgement:
    rater: str  # who answered
    pair_id: str  # the pair of texts; a repeat has that of the pair it repeats
    article_id: str  # article of the texts
    treatment: str  # arm that is expected to win
    baseline: str  # the other arm
    value: float  # 1 where the treatment was preferred, 0 where the baseline was, 0.5 for a tie
    chose_first: bool | None  # whether the text shown first was preferred; None for a tie
    is_repeat: bool = False  # whether this is the second copy of the pair
    is_human: bool = True  # whether a person answered, and not a program


@dataclass(frozen=True, kw_only=True)
class ComparisonScores:
    treatment: str  # arm that is expected to win
    baseline: str  # the other arm
    num_pairs: int  # pairs with at least one judgement
    num_judgements: int  # repeats left out
    num_ties: int  # judgements without a preference
    win_rate: Interval  # share of judgements that prefer the treatment, ties counted half
    is_above_threshold: bool | None  # whether the lower bound is above the threshold; None without bounds


@dataclass(frozen=True, kw_only=True)
class Strength:
    """Bradley-Terry strength of an arm: logit of its win rate against an average arm."""

    arm: str
    strength: Interval


@dataclass(frozen=True, kw_only=True)
class RaterScores:
    rater: str  # name
    num_judgements: int  # repeats left out
    num_repeats: int  # pairs that were judged twice
    self_consistency: float | None  # share of these that were judged alike both times
    first_share: float | None  # share of preferences for the text that was shown first; 0.5 is no bias
    is_human: bool  # whether a person answered


@dataclass(frozen=True, kw_only=True)
class PreferenceScores:
    """A study of the texts of one model."""

    study_id: str  # the study
    model_fingerprint: str  # of the weights whose predictions the texts come from
    seed: int  # of pairs, sides and order
    threshold: float  # that the lower bound of a win rate has to exceed
    comparisons: tuple[ComparisonScores, ...]  # one for each two arms that were compared
    strengths: tuple[Strength, ...]  # all arms on one scale, strongest first
    raters: tuple[RaterScores, ...]  # who judged
    agreement: float | None  # Krippendorff's alpha over the raters; None with fewer than two raters of the same pairs

    @property
    def has_programs(self) -> bool:
        """Whether some rater is a program."""
        return not all(rater.is_human for rater in self.raters)


def preference_scores(
    judgements: Sequence[Judgement], *, study_id: str, model_fingerprint: str, seed: int
) -> PreferenceScores:
    """Score the judgements of a study; at least one of them must not be a repeat."""
    first = [each for each in judgements if not each.is_repeat]
    names = sorted({(each.treatment, each.baseline) for each in first})
    return PreferenceScores(
        study_id=study_id,
        model_fingerprint=model_fingerprint,
        seed=seed,
        threshold=THRESHOLD,
        comparisons=tuple(_comparison(first, treatment, baseline, seed=seed) for treatment, baseline in names),
        strengths=tuple(strengths(first, seed=seed)),
        raters=tuple(_rater(judgements, rater) for rater in sorted({each.rater for each in judgements})),
        agreement=agreement(first),
    )


def _comparison(judgements: Sequence[Judgement], treatment: str, baseline: str, *, seed: int) -> ComparisonScores:
    own = [each for each in judgements if (each.treatment, each.baseline) == (treatment, baseline)]
    rate = _win_rate([each.value for each in own], [each.article_id for each in own], seed=seed)
    return ComparisonScores(
        treatment=treatment,
        baseline=baseline,
        num_pairs=len({each.pair_id for each in own}),
        num_judgements=len(own),
        num_ties=sum(each.value == TIE for each in own),
        win_rate=rate,
        is_above_threshold=None if rate.low is None else rate.low > THRESHOLD,
    )


def _win_rate(values: Sequence[float], articles: Sequence[str], *, seed: int) -> Interval:
    """Return the mean with the wider of both intervals; no bounds from one article."""
    found = article_interval(values, articles, seed=seed)
    if found.low is None or found.high is None:
        return found
    low, high = _wilson(found.mean, len(set(articles)))
    return Interval(found.mean, min(found.low, low), max(found.high, high))


def _wilson(rate: float, num: int) -> tuple[float, float]:
    """Return the bounds of a share by Wilson (1927)."""
    weight = NORMAL_975**2 / num
    centre = (rate + weight / 2) / (1 + weight)
    half = NORMAL_975 * math.sqrt(rate * (1 - rate) / num + weight / (4 * num)) / (1 + weight)
    return centre - half, centre + half


def strengths(judgements: Sequence[Judgement], *, seed: int) -> list[Strength]:
    """Fit Bradley-Terry strengths of all arms, with intervals by articles; strongest first.

    Hunter, *MM algorithms for generalized Bradley-Terry models* (2004); a tie is half a win for each.
    """
    arms = sorted({each.treatment for each in judgements} | {each.baseline for each in judgements})
    articles = sorted({each.article_id for each in judgements})
    wins = np.zeros((len(articles), len(arms), len(arms)))
    for each in judgements:
        article, own, other = articles.index(each.article_id), arms.index(each.treatment), arms.index(each.baseline)
        wins[article, own, other] += each.value
        wins[article, other, own] += 1 - each.value
    fitted = _fitted_strengths(wins.sum(axis=0)[None])[0]
    chances = np.full(len(articles), 1 / len(articles))
    drawn = np.random.default_rng(seed).multinomial(len(articles), chances, size=NUM_RESAMPLES)
    low, high = np.quantile(_fitted_strengths(np.einsum("ra,akl->rkl", drawn, wins)), [0.025, 0.975], axis=0)
    has_bounds = len(articles) > 1
    found = [
        Strength(
            arm=arm,
            strength=Interval(
                float(fitted[k]), float(low[k]) if has_bounds else None, float(high[k]) if has_bounds else None
            ),
        )
        for k, arm in enumerate(arms)
    ]
    return sorted(found, key=lambda each: -each.strength.mean)


def _fitted_strengths(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log strengths with mean zero, (R, K), from wins of arm k over arm l, (R, K, K)."""
    compared = (wins + wins.transpose(0, 2, 1)).sum(axis=0) > 0
    wins = wins + PRIOR * compared
    played = wins + wins.transpose(0, 2, 1)
    scales = np.ones(wins.shape[:2])
    for _ in range(NUM_STEPS):
        scales = wins.sum(axis=2) / (played / (scales[:, :, None] + scales[:, None, :])).sum(axis=2)
        scales /= np.exp(np.log(scales).mean(axis=1, keepdims=True))
    return np.log(scales)


def agreement(judgements: Sequence[Judgement]) -> float | None:
    """Return Krippendorff's alpha for nominal values over raters; None where no pair has two judgements.

    Krippendorff, *Computing Krippendorff's alpha-reliability* (2011), from the coincidences of values within a pair.
    """
    by_pair: dict[str, list[float]] = {}
    for each in judgements:
        by_pair.setdefault(each.pair_id, []).append(each.value)
    values = sorted({each.value for each in judgements})
    coincidences = np.zeros((len(values), len(values)))
    for given in by_pair.values():
        if len(given) > 1:
            counts = np.array([given.count(value) for value in values], float)
            coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(given) - 1)
    num = coincidences.sum()
    if not num:
        return None
    totals = coincidences.sum(axis=0)
    expected = num**2 - (totals**2).sum()
    return float(1 - (num - 1) * (num - np.trace(coincidences)) / expected) if expected else 1.0


def _rater(judgements: Sequence[Judgement], rater: str) -> RaterScores:
    own = [each for each in judgements if each.rater == rater]
    first = {each.pair_id: each.value for each in own if not each.is_repeat}
    alike = [each.value == first[each.pair_id] for each in own if each.is_repeat and each.pair_id in first]
    sides = [each.chose_first for each in own if each.chose_first is not None]
    return RaterScores(
        rater=rater,
        num_judgements=len(first),
        num_repeats=len(alike),
        self_consistency=float(np.mean(alike)) if alike else None,
        first_share=float(np.mean(sides)) if sides else None,
        is_human=all(each.is_human for each in own),
    )


def judgements_needed(win_rate: float, *, threshold: float = THRESHOLD) -> int:
    """Return how many judgements, each on another article, a study needs to show that the threshold is exceeded.

    That is the smallest number at which the lower bound by Wilson exceeds the threshold in 80 % of studies, if
    `win_rate` is the true one.

    Raises:
        ValueError: If the assumed win rate is not between the threshold and 1.
    """
    from scipy.stats import binom

    if not threshold < win_rate < 1:
        raise ValueError(f"the assumed win rate must be between {threshold} and 1, got {win_rate}")
    num, wins = 0, 1  # the fewest wins whose lower bound exceeds the threshold; more judgements never need fewer
    while wins > num or binom.sf(wins - 1, num, win_rate) < POWER:
        num += 1
        while wins <= num and _wilson(wins / num, num)[0] <= threshold:
            wins += 1
    return num


def write_preference(scores: PreferenceScores, folder: Path) -> Path:
    """Write the scores into a trial's folder and return the path."""
    path = folder / PREFERENCE_FILE
    write_json(path, asdict(scores))
    return path


def read_preference(folder: Path, *, fingerprint: str) -> PreferenceScores | None:
    """Read the scores of a model from its trial's folder; None if there are none, or they are another model's."""
    return read_section(PreferenceScores, folder / PREFERENCE_FILE, fingerprint=fingerprint)
