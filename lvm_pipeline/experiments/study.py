"""The study: all trials of the plan compared. Figures only; `study_page` draws them."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lvm_pipeline.experiments.plan import PlannedTrial
from lvm_pipeline.experiments.trial_scores import Outcome, TrialScores
from lvm_pipeline.measures.uncertainty import Interval, simultaneous_intervals

STUDY_VERSION = 1
FRONTS = ("num_params", "latency_ms", "training_seconds")  # costs; less is better
RULE = (
    "Fixed before the first trial: trials are ranked by mean validation cosine. Intervals are 95 % and hold for all "
    "trials at once (bootstrap-t of the maximum, whole articles resampled), so the best of many trials gets no credit "
    "for luck. The champion rule uses the same correction over all trained models of the data. The test split is not "
    "used for selection."
)


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    trial_id: str
    week: int
    architecture: str
    preset: str
    strategy: str
    overrides: dict[str, Any]
    seed: int
    status: str  # done, stopped, failed, refused, stale, planned or waiting
    is_addition: bool
    group: str
    reason: str | None = None  # why it failed, was refused or waits
    scores: TrialScores | None = None  # what it scored, if it is done
    # gain over the best baseline; the interval is corrected for the number of trials
    corrected_gain: Interval | None = None
    to_best: Interval | None = None  # cosine minus that of the best trial, corrected likewise
    fronts: tuple[str, ...] = ()  # costs for which it is on the Pareto front with the cosine
    seconds: float | None = None  # time from its start to its scores
    overhead_seconds: float | None = None
    mlflow_url: str | None = None
    has_report: bool = False  # whether its folder holds report.html

    @property
    def is_level_with_best(self) -> bool:
        """Whether it cannot be distinguished from the best trial."""
        return self.to_best is not None and (self.to_best.high is None or self.to_best.high >= 0)


@dataclass(frozen=True, kw_only=True)
class ConfigGroup:
    """The trials of one config, which differ in their seed."""

    group: str
    architecture: str
    strategy: str
    overrides: dict[str, Any]
    seeds: tuple[int, ...]
    cosine: Interval  # mean over the seeds with its 95 % t interval; no bounds for one seed
    best_trial_id: str  # the seed with the highest cosine
    num_params: int
    training_seconds: float


@dataclass(frozen=True, kw_only=True)
class Study:
    """All trials of the plan on one data set."""

    study_version: int = STUDY_VERSION
    preset: str
    dataset_source: str
    space_id: str
    fingerprint: str
    num_targets: int
    num_articles: int
    rule: str = RULE
    rows: tuple[StudyRow, ...] = field(repr=False)  # trials; done ones first, highest cosine first
    groups: tuple[ConfigGroup, ...] = field(repr=False)  # configs by mean cosine over their seeds, highest first
    best_configs: tuple[ConfigGroup, ...] = field(repr=False)  # the best group of each architecture
    champion_reason: str | None = None  # what the champion rule decided last
    refinements: tuple[StudyRow, ...] = field(default=(), repr=False)  # refinements of the best config, as proposed

    @property
    def done(self) -> list[StudyRow]:
        """The trials that are done, best first."""
        return [row for row in self.rows if row.scores is not None]

    def count(self, status: str) -> int:
        return sum(row.status == status for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return the study as JSON values, without the sums per article, which are in the trials' folders."""
        values = json.loads(json.dumps(asdict(self)))
        values["refinements"] = [row.trial_id for row in self.refinements]
        for row in values["rows"]:
            for name in ("cosine_sums", "gain_sums", "target_counts"):
                if row["scores"] is not None:
                    row["scores"].pop(name)
        return values


def study_rows(
    rows: Iterable[Mapping[str, Any]], trials: Mapping[str, PlannedTrial], outcomes: Mapping[str, Outcome]
) -> list[StudyRow]:
    names = StudyRow.__dataclass_fields__
    found = [
        StudyRow(
            **{name: value for name, value in row.items() if name in names},
            group=trials[row["trial_id"]].group if row["trial_id"] in trials else row["trial_id"],
            **_ended(outcomes.get(row["trial_id"])),
        )
        for row in rows
    ]
    return with_comparisons(found)


def _ended(outcome: Outcome | None) -> dict[str, Any]:
    if outcome is None:
        return {}
    names = ("scores", "seconds", "overhead_seconds", "mlflow_url")
    return {name: getattr(outcome, name) for name in names}


def with_comparisons(rows: Sequence[StudyRow]) -> list[StudyRow]:
    """Sort rows and compare the done ones: corrected intervals, distance to the best, Pareto fronts."""
    done = sorted((row for row in rows if row.scores is not None), key=lambda row: -scores_of(row).cosine)
    rest = sorted((row for row in rows if row.scores is None), key=lambda row: row.week)
    if not done:
        return rest
    scores = [scores_of(row) for row in done]
    counts = np.array(scores[0].target_counts, np.float64)
    gains = simultaneous_intervals(np.array([each.gain_sums for each in scores]), counts)
    cosines = np.array([each.cosine_sums for each in scores])
    to_best = simultaneous_intervals(cosines - cosines[0], counts)
    on_front = {name: pareto_front(scores, name) for name in FRONTS}
    compared = [
        replace(
            row,
            corrected_gain=gain,
            to_best=distance,
            fronts=tuple(name for name in FRONTS if number in on_front[name]),
        )
        for number, (row, gain, distance) in enumerate(zip(done, gains, to_best, strict=True))
    ]
    return [*compared, *rest]


def pareto_front(scores: Sequence[TrialScores], cost: str) -> list[int]:
    """Return the indices of the Pareto front of cosine and a cost, cheapest first."""
    order = sorted(range(len(scores)), key=lambda number: (getattr(scores[number], cost), -scores[number].cosine))
    front: list[int] = []
    for number in order:
        if not front or scores[number].cosine > scores[front[-1]].cosine:
            front.append(number)
    return front


def config_groups(rows: Iterable[StudyRow]) -> list[ConfigGroup]:
    """Group done trials by config; highest mean cosine over the seeds first."""
    members: dict[str, list[StudyRow]] = defaultdict(list)
    for row in rows:
        if row.scores is not None:
            members[row.group].append(row)
    groups = [_group_of(each) for each in members.values()]
    return sorted(groups, key=lambda group: -group.cosine.mean)


def best_configs(groups: Iterable[ConfigGroup]) -> list[ConfigGroup]:
    """Return the best group of each architecture, best architecture first."""
    best: dict[str, ConfigGroup] = {}
    for group in groups:
        best.setdefault(group.architecture, group)
    return list(best.values())


def _group_of(rows: Sequence[StudyRow]) -> ConfigGroup:
    best = max(rows, key=lambda row: scores_of(row).cosine)
    return ConfigGroup(
        group=best.group,
        architecture=best.architecture,
        strategy=best.strategy,
        overrides=best.overrides,
        seeds=tuple(sorted(row.seed for row in rows)),
        cosine=seed_interval([scores_of(row).cosine for row in rows]),
        best_trial_id=best.trial_id,
        num_params=scores_of(best).num_params,
        training_seconds=float(np.mean([scores_of(row).training_seconds for row in rows])),
    )


def seed_interval(values: Sequence[float]) -> Interval:
    """Return the mean over seeds with its 95 % t interval; without bounds for one seed."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None)
    from scipy import stats

    reach = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - reach, mean + reach)


def experiments_csv(study: Study) -> str:
    """Return one line per trial: config, metrics, interval, seconds and status."""
    file = io.StringIO()
    lines = [csv_row(row) for row in study.rows]
    writer = csv.DictWriter(file, fieldnames=list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def csv_row(row: StudyRow) -> dict[str, Any]:
    scores, gain = row.scores, row.corrected_gain or Interval(0.0, None, None)
    measured = ("mode", "num_params", "cosine", "mrr", "r_at_10", "latency_ms", "training_seconds", "best_epoch")
    return {
        **{name: getattr(row, name) for name in ("trial_id", "week", "architecture", "preset", "strategy", "seed")},
        "overrides": json.dumps(row.overrides, sort_keys=True),
        "is_addition": row.is_addition,
        "status": row.status,
        **{name: getattr(scores, name) if scores else "" for name in measured},
        "best_baseline": scores.best_baseline if scores else "",
        "gain": scores.gain.mean if scores else "",
        "gain_low": scores.gain.low if scores else "",
        "gain_high": scores.gain.high if scores else "",
        "corrected_gain_low": gain.low if scores else "",
        "corrected_gain_high": gain.high if scores else "",
        "seconds": row.seconds if row.seconds is not None else "",
        "reason": row.reason or "",
        "mlflow_url": row.mlflow_url or "",
    }


def scores_of(row: StudyRow) -> TrialScores:
    """Return the scores of a trial that is done."""
    assert row.scores is not None
    return row.scores
