"""Compare the present concepts with those the champion was trained on.

Articles are matched first. Those that are new or changed are compared with all articles of the reference, not the whole
present table, which is mostly the reference and would dilute a change. Removed articles are compared with the remaining
ones, which shows when a kind of article disappears.

Limits come from permuting whole articles between the two groups (`permutation`). All checks share one false-alarm rate;
if both comparisons are made, each has half of it. Only the number of concepts has a fixed rule, since growth is normal.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lvm_pipeline.concepts.drift import statistics, topics
from lvm_pipeline.concepts.drift.articles import ArticleChanges, ArticleSample, changes_between, read_articles
from lvm_pipeline.concepts.drift.permutation import groupings, permutation_test
from lvm_pipeline.concepts.drift.statistics import DriftInvariant, Groups
from lvm_pipeline.concepts.facts import CODES
from lvm_pipeline.concepts.schema import ConceptsMetadata, read_concepts_metadata
from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.findings import MAX_LISTED, Finding, Invariant, Severity, invariant
from lvm_pipeline.words import counted

FALSE_ALARM_RATE = 0.02  # of all checks together; measured in EXPERIMENTS.md
NUM_PERMUTATIONS = 499
FEW_ARTICLES = 300  # of both groups; up to this number, more permutations cost little and use up the false-alarm rate
NUM_PERMUTATIONS_OF_FEW = 1_999
SEED = 0
MIN_GROUPINGS = 20 / FALSE_ALARM_RATE  # fewer different ones cannot tell drift from chance
MAX_SAMPLED_OF_ARTICLE = 16  # concepts whose vectors are compared
MAX_SAMPLED = 20_000  # of all articles, approximately
MAX_ARTICLES = 1_500  # of each group
SMALLEST_RATIO, LARGEST_RATIO = 0.9, 2.0  # of the present number of concepts to the reference's
UNCHANGED = "no article has changed since the champion was trained"
TESTED = tuple(
    each for module in (statistics, topics) for each in vars(module).values() if isinstance(each, DriftInvariant)
)


@dataclass(frozen=True, kw_only=True)
class TableSummary:
    fingerprint: str
    space_id: str
    num_concepts: int
    num_articles: int


@dataclass(frozen=True, kw_only=True)
class Drift:
    present: TableSummary
    findings: list[Finding]
    reference: TableSummary | None = None
    num_arrived: int | None = None  # new or changed articles; None if articles were not compared
    num_kept: int | None = None  # unchanged articles
    num_left: int | None = None  # removed articles
    arrived: list[str] | None = None  # ids of the new or changed articles

    @property
    def has_drifted(self) -> bool:
        return not all(finding.passed for finding in self.findings)

    @property
    def was_compared(self) -> bool:
        """Whether any check could be made."""
        return any(finding.was_checked for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            "has_drifted": self.has_drifted,
            "was_compared": self.was_compared,
            **{name: value for name, value in asdict(self).items() if name != "arrived"},
            "findings": [finding.as_json() for finding in self.findings],
        }


def drift_invariants() -> tuple[Invariant, ...]:
    return num_concepts_is_as_before, *TESTED


def not_compared(present_path: Path, why: str, *, reference: TableSummary | None = None) -> Drift:
    """Return the result of a comparison that is not possible: no check is made.

    Raises:
        LvmError: If the present table cannot be read.
    """
    present = _summary(read_concepts_metadata(present_path))
    return Drift(present=present, reference=reference, findings=[each.not_checked(why) for each in drift_invariants()])


def compare_concepts(reference_path: Path, present_path: Path) -> Drift:
    """Compare the present concept table with the one a model was trained on, by all of `drift_invariants()`.

    Tables of different vector spaces are not compared.

    Raises:
        LvmError: If a table cannot be read.
    """
    before, now = (_summary(read_concepts_metadata(path)) for path in (reference_path, present_path))
    if before.space_id != now.space_id:
        why = f"the champion was trained on vectors of space {before.space_id}, the present ones are of {now.space_id}"
        return not_compared(present_path, why, reference=before)
    # The fingerprint does not cover the codes.
    if before.fingerprint == now.fingerprint and read_columns(reference_path, CODES).equals(
        read_columns(present_path, CODES)
    ):
        equal = num_concepts_is_as_before.finding(passed=True, message=UNCHANGED, observed=1.0)
        counts = {"num_arrived": 0, "num_kept": now.num_articles, "num_left": 0}
        return Drift(present=now, reference=before, findings=[equal, *_unchanged()], arrived=[], **counts)
    num_articles = before.num_articles + now.num_articles
    max_sampled = min(MAX_SAMPLED_OF_ARTICLE, max(1, MAX_SAMPLED // max(1, num_articles)))
    reference, present = (read_articles(path, max_sampled=max_sampled) for path in (reference_path, present_path))
    findings = compare_articles(reference, present)
    changes = changes_between(reference, present)
    counts = {f"num_{name}": len(articles) for name, articles in changes._asdict().items()}
    arrived = [present.ids[article] for article in changes.arrived]
    return Drift(present=now, reference=before, findings=findings, arrived=arrived, **counts)


def compare_articles(reference: ArticleSample, present: ArticleSample) -> list[Finding]:
    """Compare articles of the same vector space; one finding for each of `drift_invariants()`, in that order."""
    changes = changes_between(reference, present)
    pairs = {}
    if changes.arrived:
        pairs["earlier articles", "new articles"] = reference, present.take(changes.arrived)
    if changes.left and changes.kept:
        pairs["remaining articles", "removed articles"] = reference.take(changes.kept), reference.take(changes.left)
    counted = num_concepts_is_as_before(reference, present, changes)
    if not pairs:
        return [counted, *_unchanged()]
    comparisons = []
    for names, (before, after) in pairs.items():
        groups = _groups(before, after, names=names)
        comparisons.append(_compare_groups(groups, false_alarm_rate=FALSE_ALARM_RATE / len(pairs)))
    return [counted, *(min(findings, key=_concern) for findings in zip(*comparisons, strict=True))]


def _summary(metadata: ConceptsMetadata) -> TableSummary:
    return TableSummary(**{name: getattr(metadata, name) for name in TableSummary.__dataclass_fields__})


def _groups(before: ArticleSample, after: ArticleSample, *, names: tuple[str, str]) -> Groups:
    """Put two groups into one sample, with at most `MAX_ARTICLES` random articles of each."""
    rng = np.random.default_rng(SEED)
    before, after = (
        group.take(np.sort(rng.permutation(group.num_articles)[:MAX_ARTICLES]).tolist())
        if group.num_articles > MAX_ARTICLES
        else group
        for group in (before, after)
    )
    sizes = before.num_articles, after.num_articles
    num_permutations = NUM_PERMUTATIONS_OF_FEW if sum(sizes) <= FEW_ARTICLES else NUM_PERMUTATIONS
    is_after = groupings(*sizes, num_permutations=num_permutations, seed=SEED)
    return Groups(pool=before.followed_by(after), is_after=is_after, names=names)


def _compare_groups(groups: Groups, *, false_alarm_rate: float) -> list[Finding]:
    """Compute every statistic and test them together."""
    num_articles, num_after = groups.pool.num_articles, int(groups.is_second.sum())
    if math.comb(num_articles, num_after) < MIN_GROUPINGS:
        why = f"{num_after:,} of {num_articles:,} articles are too few to tell drift from chance"
        return [each.not_checked(why) for each in TESTED]
    found = [each.statistic(groups) for each in TESTED]
    values = np.stack([statistic.values for statistic in found], axis=1)
    test = permutation_test(values, false_alarm_rate=false_alarm_rate)
    findings = []
    for each, statistic, passed, p_value, adjusted, limit in zip(TESTED, found, *test, strict=True):
        if statistic.not_checked is not None:
            findings.append(each.not_checked(statistic.not_checked))
            continue
        observed, allowed, median = (
            float(value) * statistic.scale for value in (statistic.values[0], limit, np.median(statistic.values))
        )
        verdict = "is within" if passed else "exceeds"
        message = f"{observed:.3f} {verdict} the limit of {allowed:.3f}: {statistic.summary}"
        details = {
            "p_value": float(p_value),
            "p_value_of_all_checks": float(adjusted),
            "median_by_chance": median,
            "num_articles_before": num_articles - num_after,
            "num_articles_after": num_after,
            "compared": f"{groups.names[1]} with {groups.names[0]}",
            **statistic.details,
        }
        findings.append(
            each.finding(passed=passed, message=message, observed=observed, allowed=allowed, details=details)
        )
    return findings


def _concern(finding: Finding) -> tuple[bool, bool, float]:
    """Sort key for findings of one check, the most worrying first."""
    return finding.passed, not finding.was_checked, finding.details.get("p_value_of_all_checks", 1.0)


@invariant(
    severity=Severity.WARNING,
    remedy="Look at the new and removed articles in reports/drift.md: an incomplete load, a changed filter, or real "
    "growth. After real growth, retrain.",
)
def num_concepts_is_as_before(reference: ArticleSample, present: ArticleSample, changes: ArticleChanges) -> Finding:
    """The table has at least 0.9 and at most 2 times as many concepts as the one the champion was trained on."""
    # Article lengths vary, so the limits are widened by how much the ratio varies when as many articles as arrived are
    # drawn from all of them and the others are the reference.
    pool = np.concatenate([reference.lengths, present.lengths[changes.arrived]])
    rng = np.random.default_rng(SEED)
    drawn = np.array([rng.permutation(pool)[: len(changes.arrived)].sum() for _ in range(NUM_PERMUTATIONS)])
    num_before, num_arrived = max(1, reference.num_concepts), int(present.lengths[changes.arrived].sum())
    ratio = present.num_concepts / num_before
    ratios = (present.num_concepts - num_arrived) / num_before + drawn / np.maximum(1, pool.sum() - drawn)
    median = max(float(np.median(ratios)), np.finfo(float).tiny)
    lowest, highest = float(SMALLEST_RATIO * ratios.min() / median), float(LARGEST_RATIO * ratios.max() / median)
    return num_concepts_is_as_before.finding(
        passed=lowest <= ratio <= highest,
        message=f"{counted(present.num_concepts, 'concept')} "
        f"in {counted(present.num_articles, 'article')}, {ratio:.2f} times the "
        f"{reference.num_concepts} in {reference.num_articles} that the champion was trained on (allowed: "
        f"{lowest:.2f} to {highest:.2f}); {counted(len(changes.arrived), 'article is', 'articles are')} new, "
        f"{counted(len(changes.left), 'was', 'were')} removed",
        observed=ratio,
        allowed=lowest if ratio < 1 else highest,
        details={
            "lowest": lowest,
            "highest": highest,
            "arrived": [present.ids[article] for article in changes.arrived[:MAX_LISTED]],
            "left": [reference.ids[article] for article in changes.left[:MAX_LISTED]],
        },
    )


def _unchanged() -> list[Finding]:
    return [each.finding(passed=True, message=UNCHANGED, observed=each.if_equal) for each in TESTED]
