"""Drift: whether the concepts are still like those that the champion was trained on.

What is compared. A table grows, so its articles are matched first. Those that arrived (new, or with other content) are
held against all articles of the reference: the whole present table is mostly the reference, and a change would be
diluted. Where articles left, those are held against the ones that stayed, which shows that a kind of article vanished.

When it is drift. Thresholds come from permuting whole articles between the two groups (`drift_statistics`). All checks
share one false-alarm rate: a check fails when its p-value is so small that at most `FALSE_ALARM_RATE` of the permuted
groupings have one that small in any check (the minP rule of Westfall and Young, 1993). Where both comparisons are made,
each has half of the rate. Only the number of concepts has a fixed rule, since a growing table is normal.

Shapes: P = groupings, the true one first; K = checks that permute.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lvm_pipeline.concepts.drift_articles import ArticleChanges, ArticleSample, changes_between, read_articles
from lvm_pipeline.concepts.drift_measures import MEASURES, Groups, Measure
from lvm_pipeline.concepts.drift_statistics import groupings
from lvm_pipeline.concepts.facts import CODES
from lvm_pipeline.concepts.schema import ConceptsMetadata, read_concepts_metadata
from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.findings import MAX_LISTED, Finding, Severity

FALSE_ALARM_RATE = 0.02  # of all checks together; measured in EXPERIMENTS.md
NUM_PERMUTATIONS = 499
MIN_GROUPINGS = 20 / FALSE_ALARM_RATE  # different ones; with fewer articles chance cannot be told from drift
MAX_SAMPLED_OF_ARTICLE = 16  # concepts whose vectors are compared
MAX_SAMPLED = 20_000  # of all articles, about
MAX_ARTICLES = 1_500  # of each group
SMALLEST_RATIO, LARGEST_RATIO = 0.9, 2.0  # of the present number of concepts to the reference's
COUNT_INVARIANT = "num_concepts_is_as_before"
UNMOVED = {
    "article_lengths_are_as_before": 0.0,
    "mean_vector_is_as_before": 0.0,
    "vector_dimensions_are_as_before": 0.0,
    "vectors_cannot_be_told_apart": 0.5,
    "tmd_mix_is_as_before": 0.0,
}
INVARIANTS = (COUNT_INVARIANT, *UNMOVED)


@dataclass(frozen=True, kw_only=True)
class TableSummary:
    """A concept table in four words."""

    fingerprint: str
    space_id: str
    num_concepts: int
    num_articles: int


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What a comparison found.

    `num_arrived`, `num_kept` and `num_left` count articles; None where the articles were not compared.
    """

    present: TableSummary
    findings: list[Finding]
    reference: TableSummary | None = None
    num_arrived: int | None = None
    num_kept: int | None = None
    num_left: int | None = None

    @property
    def has_drifted(self) -> bool:
        """Whether any check failed."""
        return not all(finding.passed for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        return {"has_drifted": self.has_drifted, **asdict(self)}


def not_compared(present_path: Path, why: str, *, reference: TableSummary | None = None) -> Drift:
    """Return a comparison that could not be made; nothing fails for it.

    Raises:
        LvmError: If the present table cannot be read.
    """
    return Drift(
        present=_summary(read_concepts_metadata(present_path)),
        reference=reference,
        findings=[_not_checked(name, why) for name in INVARIANTS],
    )


def compare_concepts(
    reference_path: Path, present_path: Path, *, num_permutations: int = NUM_PERMUTATIONS, seed: int = 0
) -> Drift:
    """Compare the present concepts with those that a model was trained on.

    Args:
        reference_path: The concept table that the model was trained on.
        present_path: The concept table as it is now.
        num_permutations: Groupings that thresholds come from.
        seed: Of the permutations.

    Returns:
        One warning finding for each of `INVARIANTS`. Tables of different vector spaces are not compared.

    Raises:
        LvmError: If a table cannot be read.
    """
    before, now = (_summary(read_concepts_metadata(path)) for path in (reference_path, present_path))
    if before.space_id != now.space_id:
        why = f"the champion was trained on vectors of {before.space_id}, these are of {now.space_id}"
        return not_compared(present_path, why, reference=before)
    if before.fingerprint == now.fingerprint and _codes_are_equal(reference_path, present_path):
        counts = {"num_arrived": 0, "num_kept": now.num_articles, "num_left": 0}
        equal = Finding(
            name=COUNT_INVARIANT,
            passed=True,
            severity=Severity.WARNING,
            message="these are the very concepts that the champion was trained on",
            observed=1.0,
        )
        return Drift(present=now, reference=before, findings=[equal, *_unmoved()], **counts)
    num_articles = before.num_articles + now.num_articles
    max_sampled = min(MAX_SAMPLED_OF_ARTICLE, max(1, MAX_SAMPLED // max(1, num_articles)))
    reference, present = (read_articles(path, max_sampled=max_sampled) for path in (reference_path, present_path))
    findings = compare_articles(reference, present, num_permutations=num_permutations, seed=seed)
    changes = changes_between(reference, present)
    counts = {f"num_{name}": len(articles) for name, articles in changes._asdict().items()}
    return Drift(present=now, reference=before, findings=findings, **counts)


def compare_articles(
    reference: ArticleSample, present: ArticleSample, *, num_permutations: int = NUM_PERMUTATIONS, seed: int = 0
) -> list[Finding]:
    """Compare articles of the same vector space; one finding for each of `INVARIANTS`, in their order."""
    changes = changes_between(reference, present)
    pairs = []
    if changes.arrived:
        pairs.append((reference, present.take(changes.arrived), "the articles before", "the articles that arrived"))
    if changes.left and changes.kept:
        stayed, left = reference.take(changes.kept), reference.take(changes.left)
        pairs.append((stayed, left, "the articles that stayed", "the articles that left"))
    counted = _num_concepts(reference, present, changes, num_draws=num_permutations, seed=seed)
    if not pairs:
        return [counted, *_unmoved()]
    verdicts = []
    for pair in pairs:
        groups = _groups(*pair, num_permutations=num_permutations, seed=seed)
        verdicts.append(_judged(groups, rate=FALSE_ALARM_RATE / len(pairs)))
    return [counted, *(min(of_check, key=_concern) for of_check in zip(*verdicts, strict=True))]


def _summary(metadata: ConceptsMetadata) -> TableSummary:
    return TableSummary(
        fingerprint=metadata.fingerprint,
        space_id=metadata.space_id,
        num_concepts=metadata.num_concepts,
        num_articles=metadata.num_articles,
    )


def _codes_are_equal(path: Path, other_path: Path) -> bool:
    """Compare what a fingerprint does not cover."""
    return read_columns(path, CODES).equals(read_columns(other_path, CODES))


def _groups(
    before: ArticleSample,
    after: ArticleSample,
    before_name: str,
    after_name: str,
    *,
    num_permutations: int,
    seed: int,
) -> Groups:
    """Put two groups into one pool with their groupings; of very large ones some articles are drawn."""
    rng = np.random.default_rng(seed)
    before, after = (
        group.take(np.sort(rng.permutation(group.num_articles)[:MAX_ARTICLES]).tolist())
        if group.num_articles > MAX_ARTICLES
        else group
        for group in (before, after)
    )
    return Groups(
        pool=before.followed_by(after),
        is_after=groupings(before.num_articles, after.num_articles, num_permutations=num_permutations, seed=seed),
        before_name=before_name,
        after_name=after_name,
    )


def _judged(groups: Groups, *, rate: float) -> list[Finding]:
    """Measure and judge every check that permutes."""
    num_articles, num_after = groups.pool.num_articles, int(groups.is_second.sum())
    if math.comb(num_articles, num_after) < MIN_GROUPINGS:
        why = f"{num_after} of {num_articles} articles are too few to tell drift from chance"
        return [_not_checked(name, why) for name in UNMOVED]
    measures = [measure(groups) for measure in MEASURES]
    values = np.stack([measure.values for measure in measures], axis=1)  # (P, K)
    num_as_large = len(values) + 1 - stats.rankdata(values, method="min", axis=0)
    smallest = num_as_large.min(axis=1)
    # A check may be among its so many largest: that happens in any check to at most `rate` of the groupings.
    num_extreme = max((n for n in range(len(values)) if (smallest <= n).sum() <= rate * len(values)), default=0)
    return [
        _verdict(groups, measure, rank=int(of_check[0]), smallest=smallest, num_extreme=num_extreme)
        for measure, of_check in zip(measures, num_as_large.T, strict=True)
    ]


def _verdict(
    groups: Groups, measure: Measure, *, rank: int, smallest: NDArray[np.float64], num_extreme: int
) -> Finding:
    """Judge one check by how many groupings, the true one included, are as far apart."""
    if measure.why_not is not None:
        return _not_checked(measure.name, measure.why_not)
    num_groupings = len(measure.values)
    observed = float(measure.values[0]) * measure.unit
    allowed = float(np.sort(measure.values)[num_groupings - 1 - num_extreme]) * measure.unit
    passed = rank > num_extreme
    return Finding(
        name=measure.name,
        passed=passed,
        severity=Severity.WARNING,
        message=f"{observed:.3f}, {'as chance gives' if passed else 'more than chance gives'} ({allowed:.3f} at most): "
        + measure.in_words,
        observed=observed,
        allowed=allowed,
        details={
            "p_value": rank / num_groupings,
            "p_value_of_all_checks": float((smallest <= rank).mean()),
            "median_by_chance": float(np.median(measure.values)) * measure.unit,
            "num_articles_before": int((~groups.is_second).sum()),
            "num_articles_after": int(groups.is_second.sum()),
            "compared": f"{groups.after_name} with {groups.before_name}",
            **measure.details,
        },
    )


def _concern(finding: Finding) -> tuple[bool, bool, float]:
    """Order findings of one check by how much they matter, most first."""
    return finding.passed, not finding.was_checked, finding.details.get("p_value_of_all_checks", 1.0)


def _num_concepts(
    reference: ArticleSample, present: ArticleSample, changes: ArticleChanges, *, num_draws: int, seed: int
) -> Finding:
    """The table has not shrunk and not outgrown the champion's.

    Article lengths vary, so the limits are widened by how far the ratio reaches when as many articles as arrived are
    drawn from all, and the others are the reference.
    """
    pool = np.concatenate([reference.lengths, present.lengths[changes.arrived]])
    rng = np.random.default_rng(seed)
    drawn = np.array([rng.permutation(pool)[: len(changes.arrived)].sum() for _ in range(num_draws)])
    num_before, num_arrived = max(1, reference.num_concepts), int(present.lengths[changes.arrived].sum())
    ratio = present.num_concepts / num_before
    ratios = (present.num_concepts - num_arrived) / num_before + drawn / np.maximum(1, pool.sum() - drawn)
    middle = max(float(np.median(ratios)), np.finfo(float).tiny)
    lowest, highest = SMALLEST_RATIO * ratios.min() / middle, LARGEST_RATIO * ratios.max() / middle
    return Finding(
        name=COUNT_INVARIANT,
        passed=bool(lowest <= ratio <= highest),
        severity=Severity.WARNING,
        message=f"{present.num_concepts} concepts in {present.num_articles} articles, {ratio:.2f} times the "
        f"{reference.num_concepts} in {reference.num_articles} that the champion was trained on (allowed "
        f"{lowest:.2f} to {highest:.2f}); {len(changes.arrived)} articles arrived, {len(changes.left)} left",
        observed=ratio,
        allowed=float(lowest if ratio < 1 else highest),
        details={
            "lowest": float(lowest),
            "highest": float(highest),
            "arrived": [present.ids[article] for article in changes.arrived[:MAX_LISTED]],
            "left": [reference.ids[article] for article in changes.left[:MAX_LISTED]],
        },
    )


def _unmoved() -> list[Finding]:
    return [
        Finding(
            name=name,
            passed=True,
            severity=Severity.WARNING,
            message="every article is as it was when the champion was trained",
            observed=observed,
        )
        for name, observed in UNMOVED.items()
    ]


def _not_checked(name: str, why: str) -> Finding:
    return Finding(name=name, passed=True, severity=Severity.WARNING, message=why, was_checked=False)
