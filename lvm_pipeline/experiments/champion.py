"""The champion rule, fixed before the first trial. Pure: it works on scores, without files or registries.

1. The candidates are all trained models of the present data. The challenger is the one with the highest mean validation
   cosine.
2. It becomes champion when the lower bound of its paired gain over the present champion is above zero: cosine on the
   same targets, 95 % interval by article-level bootstrap. The present champion is scored again on the challenger's
   validation targets; scores of other sequences or splits are refused.
   The best of many candidates scores too high by selection, so the interval is corrected for their number: it holds
   for all candidates at once (`measures.uncertainty.simultaneous_intervals`, the bootstrap-t of the maximum).
   With one candidate it is the plain interval.
3. If there is no champion that can be scored, it has to beat the best baseline in the same way.
4. A model with scores from leaking sequences is never promoted.

Validation decides. The test split is scored once, for the model that was promoted, and changes nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lvm_pipeline.evaluation.scoring import RowScores
from lvm_pipeline.measures.uncertainty import Interval, article_sums, simultaneous_intervals

DECIDING_SPLIT = "validation"


@dataclass(frozen=True, kw_only=True)
class ChampionDecision:
    promote: bool  # whether the challenger becomes champion
    reason: str  # why or why not, one sentence
    challenger: str  # its name
    challenger_fingerprint: str | None  # of its weights
    against: str | None  # name of what it was compared with, None where nothing was compared
    gain: Interval | None  # paired gain in cosine over that
    cosine: float  # mean cosine of the challenger
    fingerprint: str  # of the sequences that decided
    num_targets: int  # targets compared on
    num_articles: int  # articles they come from
    # models that the challenger was picked from; the interval of the gain is corrected for them
    num_candidates: int = 1
    is_held: bool = False  # a person chose it, not the rule

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def decide(
    challenger: RowScores,
    *,
    incumbent: RowScores | None,
    best_baseline: RowScores,
    others: Sequence[RowScores] = (),
    seed: int = 0,
) -> ChampionDecision:
    """Apply the rule to validation scores.

    Args:
        challenger: The trained model with the highest mean cosine.
        incumbent: The present champion on the challenger's targets, measured now; None where there is no champion, or
            none that these vectors can be scored with.
        best_baseline: The baseline with the highest mean cosine on the challenger's targets.

    Raises:
        ValueError: If the scores are not of the same validation targets.
    """
    if challenger.split != DECIDING_SPLIT:
        raise ValueError(f"the champion is chosen on the {DECIDING_SPLIT} split, got {challenger.split}")
    decision = ChampionDecision(
        promote=False,
        reason=f"{challenger.name} is not promoted: its scores leak (leaking sequences, or it reads its target).",
        challenger=challenger.name,
        challenger_fingerprint=challenger.model_fingerprint,
        against=None,
        gain=None,
        cosine=challenger.cosine,
        fingerprint=challenger.fingerprint,
        num_targets=len(challenger.target_rows),
        num_articles=len(np.unique(challenger.articles)),
        num_candidates=1 + len(others),
    )
    if challenger.is_leaking:
        return decision
    if incumbent is not None and incumbent.model_fingerprint == challenger.model_fingerprint:
        return replace(decision, reason=f"{challenger.name} is the champion already.", against=incumbent.name)
    against = incumbent or best_baseline
    gain = corrected_gain(challenger, against=against, others=others, seed=seed)
    role = "the champion" if incumbent else "the best baseline"
    corrected = f" (corrected for {1 + len(others)} candidates)" if others else ""
    if gain.low is None or gain.high is None:
        reason = (
            f"{challenger.name} is not promoted: its cosine gain over {role}, {against.name}, is {gain.mean:+.4f} on "
            "one article, which gives no interval; more validation articles are needed."
        )
        return replace(decision, reason=reason, against=against.name, gain=gain)
    verb, found = ("is", "above") if gain.is_above_zero else ("is not", "not above")
    reason = (
        f"{challenger.name} {verb} promoted: its cosine gain over {role}, {against.name}, is "
        f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]{corrected}, {found} zero."
    )
    return replace(decision, promote=gain.is_above_zero, reason=reason, against=against.name, gain=gain)


def corrected_gain(
    challenger: RowScores, *, against: RowScores, others: Sequence[RowScores] = (), seed: int = 0
) -> Interval:
    """Return the challenger's paired gain with an interval that is corrected for all candidates.

    Raises:
        ValueError: If the scores are not of the same targets.
    """
    gains = []
    for scores in (challenger, *others):
        refuse_other_targets(scores, against)
        gains.append(article_sums(scores.cosines.astype(np.float64) - against.cosines, scores.articles))
    return simultaneous_intervals(np.stack([sums for sums, _ in gains]), gains[0][1], seed=seed)[0]


def refuse_other_targets(scores: RowScores, others: RowScores) -> None:
    """Make sure that two predictors were scored on the same targets.

    Raises:
        ValueError: If they were not; scores of different data are never compared.
    """
    if (scores.fingerprint, scores.split) != (others.fingerprint, others.split):
        raise ValueError(
            f"{scores.name} was scored on {scores.split} of sequences {scores.fingerprint[:12]}, {others.name} on "
            f"{others.split} of {others.fingerprint[:12]}: such scores are never compared"
        )
    if not np.array_equal(scores.target_rows, others.target_rows):
        raise ValueError(f"{scores.name} and {others.name} were scored on different targets and cannot be compared")
