"""The plan of trials and the status of each; `plan_run` runs them.

LVM_HOME/trials/<trial_id>/outcome.json     how each trial ended, with its scores
LVM_HOME/plan/week_5.json                   what week 5 consists of, see `week_five`
LVM_HOME/reports/study.json, .html          the study report
LVM_HOME/reports/experiments.csv            one row per trial
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline.concepts.schema import ConceptsMetadata, read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.models import promoted_data, training_config_of
from lvm_pipeline.lineage.trials import trial_folder
from lvm_pipeline.lineage.week_five import WeekFive, read_week_5, settle_week_5
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.experiments.plan import PlannedTrial
    from lvm_pipeline.experiments.study import Study
    from lvm_pipeline.experiments.trial_scores import Outcome, TrialScores
    from lvm_pipeline.training.config import TrainingConfig

logger = logging.getLogger(__name__)

NOT_SETTLED = "it is settled when weeks 1 to 4 have been run"
NOT_PROPOSED = "Optuna proposes it when those before it have ended"


def trials_of_weeks_1_to_4(settings: Settings) -> "list[PlannedTrial]":
    from lvm_pipeline.experiments import plan

    return plan.planned_trials(training_config_of(settings), shares=plan.SHARES)


def planned(settings: Settings) -> "list[PlannedTrial]":
    """Return the trials of weeks 1 to 4 and those of week 5 that are known by now."""
    trials = trials_of_weeks_1_to_4(settings)
    week_5 = week_5_of(settings, trials)
    return trials if week_5 is None else [*trials, *week_5.ensembles, *week_5.refinements]


def plan_rows(settings: Settings, *, week: int | None = None) -> list[dict[str, Any]]:
    """Return one row for each trial of the plan with its status; what is not settled yet is waiting.

    Raises:
        LvmError: If there is no such week.
    """
    from lvm_pipeline.experiments.plan import LAST_WEEK, NUM_ENSEMBLES, NUM_REFINEMENTS, check_week, of_week

    check_week(week)
    trials = planned(settings)
    present = present_data(settings)
    rows = [_row(settings, trial, present) for trial in of_week(trials, week)]
    if week in (None, LAST_WEEK):
        known = [trial.purpose for trial in of_week(trials, LAST_WEEK)]
        if not known:
            rows += [_waiting_row(settings, f"ensemble-{number + 1}", NOT_SETTLED) for number in range(NUM_ENSEMBLES)]
        reason = NOT_PROPOSED if known else NOT_SETTLED
        names = [f"refinement-{number + 1}" for number in range(known.count("refinement"), NUM_REFINEMENTS)]
        rows += [_waiting_row(settings, name, reason) for name in names]
    return rows


def _row(settings: Settings, trial: "PlannedTrial", present: "PresentData | None") -> dict[str, Any]:
    outcome = outcome_of(settings, trial.trial_id)
    status = "planned" if outcome is None else outcome.status
    if outcome is not None and not is_current(outcome, trial, present):
        status = "stale"
    return {
        "trial_id": trial.trial_id,
        "week": trial.week,
        "architecture": trial.config.architecture,
        "preset": trial.config.preset,
        "strategy": trial.config.strategy,
        "overrides": trial.overrides,
        "seed": trial.config.seed,
        "status": status,
        "is_addition": trial.is_addition,
        "reason": outcome.reason if outcome is not None and status == outcome.status else None,
    }


def _waiting_row(settings: Settings, name: str, reason: str) -> dict[str, Any]:
    from lvm_pipeline.experiments.plan import LAST_WEEK

    return {
        "trial_id": name,
        "week": LAST_WEEK,
        "architecture": "best of weeks 1 to 4",
        "preset": settings.preset,
        "strategy": settings.strategy,
        "overrides": {},
        "seed": settings.seed,
        "status": "waiting",
        "is_addition": False,
        "reason": reason,
    }


def outcome_of(settings: Settings, trial_id: str) -> "Outcome | None":
    """Return how a trial ended; None if it was not run by the plan."""
    from lvm_pipeline.experiments.trial_scores import read_outcome

    return read_outcome(trial_folder(settings, trial_id).path)


@dataclass(frozen=True, kw_only=True)
class PresentData:
    """Fingerprints of the promoted data, and the metadata of their concepts."""

    fingerprints: dict[str, str]
    concepts: ConceptsMetadata

    def made(self, outcome: "Outcome", trial: "PlannedTrial") -> bool:
        """Whether a trial ended so on these data."""
        from lvm_pipeline.training.strategies import content_read

        return outcome.is_of(self.fingerprints, content_read(trial.config.trial, self.concepts))


def present_data(settings: Settings) -> PresentData | None:
    """Return the fingerprints and metadata of the promoted data; None if there are none."""
    return _read_present_data(settings) if settings.sequences_path.is_file() else None


def _read_present_data(settings: Settings) -> PresentData:
    concepts = read_concepts_metadata(settings.concepts_path)
    sequences = read_sequences_metadata(settings.sequences_path)
    fingerprints = {"concepts": concepts.fingerprint, "sequences": sequences.fingerprint}
    return PresentData(fingerprints=fingerprints, concepts=concepts)


def code_version_of(config: "TrainingConfig") -> str:
    from lvm_pipeline.training.provenance import training_code_version

    return training_code_version(config.architecture, config.strategy)


def is_current(outcome: "Outcome", trial: "PlannedTrial", present: PresentData | None) -> bool:
    """Whether an outcome was made with these data and the present code."""
    is_same = present is not None and present.made(outcome, trial)
    return is_same and outcome.code_version == code_version_of(trial.config)


def not_attempted(settings: Settings, trials: "Sequence[PlannedTrial]") -> "list[PlannedTrial]":
    """Return the trials of weeks 1 to 4 that have no outcome on the present data."""
    present = present_data(settings)
    outcomes = ((trial, outcome_of(settings, trial.trial_id)) for trial in trials)
    return [
        trial for trial, outcome in outcomes if present is None or outcome is None or not present.made(outcome, trial)
    ]


def week_5_of(settings: Settings, trials: "Sequence[PlannedTrial]") -> "WeekFive | None":
    """Return week 5, settled once for these data and trials of weeks 1 to 4; None before those have been run."""
    from lvm_pipeline.experiments.week_five import Scored

    present = present_data(settings)
    key = {"fingerprints": present and present.fingerprints, "of": [trial.trial_id for trial in trials]}
    if (found := read_week_5(settings, key)) is not None:
        return found
    scored = [Scored(trial=trial, cosine=scores.cosine) for trial, scores in done_trials(settings, trials)]
    if present is None or not scored or not_attempted(settings, trials):
        return None
    return settle_week_5(settings, key, scored)


def done_trials(settings: Settings, trials: "Sequence[PlannedTrial]") -> "Iterator[tuple[PlannedTrial, TrialScores]]":
    """Yield the trials that are done on the present data, with their scores."""
    present = present_data(settings)
    if present is None:
        return
    for trial in trials:
        outcome = outcome_of(settings, trial.trial_id)
        if outcome is not None and outcome.scores is not None and present.made(outcome, trial):
            yield trial, outcome.scores


def write_study(settings: Settings) -> "tuple[Study, tuple[Path, Path, Path]]":
    """Write the study report and `experiments.csv`; return the study and the paths of page, JSON and CSV.

    Trials that were scored by other code are scored again first, so that all are held against the same baselines.

    Raises:
        LvmError: If there are no promoted data.
    """
    from lvm_pipeline.evaluation.report import HTML_NAME
    from lvm_pipeline.experiments.study import Study, best_configs, config_groups, study_rows
    from lvm_pipeline.experiments.study_page import write_study_files
    from lvm_pipeline.lineage.results import read_champion

    present = _read_present_data(settings)
    trials = {trial.trial_id: trial for trial in planned(settings)}
    outcomes = {name: found for name in trials if (found := outcome_of(settings, name)) is not None}
    current = {name: found for name, found in outcomes.items() if present.made(found, trials[name])}
    scored, problems = scored_alike(settings, current)
    listed = ({**row, **problems.get(row["trial_id"], {})} for row in plan_rows(settings))
    rows = study_rows(listed, trials, scored)
    rows = [replace(row, has_report=(trial_folder(settings, row.trial_id).path / HTML_NAME).is_file()) for row in rows]
    groups = config_groups(rows)
    week_5 = week_5_of(settings, trials_of_weeks_1_to_4(settings))
    by_id = {row.trial_id: row for row in rows}
    counts = next((row.scores.target_counts for row in rows if row.scores is not None), ())
    study = Study(
        preset=settings.preset,
        dataset_source=present.concepts.dataset_source,
        space_id=present.concepts.space_id,
        fingerprint=present.fingerprints["sequences"],
        num_targets=sum(counts),
        num_articles=len(counts),
        rows=tuple(rows),
        groups=tuple(groups),
        best_configs=tuple(best_configs(groups)),
        refinements=tuple(by_id[trial.trial_id] for trial in (week_5.refinements if week_5 is not None else ())),
        champion_reason=(read_champion(settings).get("decision") or {}).get("reason"),
    )
    return study, write_study_files(study, settings.reports_dir)


def scored_alike(
    settings: Settings, outcomes: "Mapping[str, Outcome]"
) -> "tuple[dict[str, Outcome], dict[str, dict[str, str]]]":
    """Return outcomes whose scores all come from the present code, and the status of trials that cannot be scored.

    Scores of other code are made and written again. A trial whose model cannot be scored is stale, for the reason that
    is also logged; it has no scores here, and its record keeps the earlier ones.
    """
    from lvm_pipeline.experiments.trial_scores import score_trial, scoring_version, write_outcome

    found, problems, version = dict(outcomes), {}, scoring_version()
    other = [name for name, each in outcomes.items() if each.scores is not None and each.scores.scored_by != version]
    data = promoted_data(settings) if other else None
    for name in other:
        folder = trial_folder(settings, name)
        if data is None or not folder.model_dir.is_dir():
            continue
        try:
            scores = score_trial(
                folder.model_dir,
                data,
                device=settings.device,
                num_threads=settings.num_threads,
                cache_dir=settings.baselines_dir,
            )
        except LvmError as error:
            logger.warning("The trial %s cannot be scored again and is left out: %s", name, error)
            found[name], problems[name] = replace(found[name], scores=None), {"status": "stale", "reason": str(error)}
        else:
            found[name] = replace(found[name], scores=scores)
            write_outcome(folder.path, found[name])
    return found, problems
