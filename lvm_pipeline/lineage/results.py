"""Reports and leaderboard, and what is recorded of the champion."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline import files
from lvm_pipeline.architectures._registry import architecture_names, architectures_named
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import raise_on_blocking
from lvm_pipeline.lineage.data import reported_findings
from lvm_pipeline.lineage.decoders import text_request
from lvm_pipeline.lineage.invariants import with_set_severities
from lvm_pipeline.lineage.models import promoted_data
from lvm_pipeline.lineage.tracked import describe_trial
from lvm_pipeline.lineage.trials import (
    TrialFolder,
    latest_trial,
    link_report,
    read_tracking,
    trained_trials,
    trial_folder,
)
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.evaluation.leaderboard import Leaderboard, LeftOut
    from lvm_pipeline.evaluation.learning_curve import LearningCurve, OnPoint
    from lvm_pipeline.evaluation.report import EvaluationReport

logger = logging.getLogger(__name__)

CHAMPION_FILE = "champion.json"


def evaluate_architecture(settings: Settings, architecture: str) -> "EvaluationReport":
    """Evaluate the latest trial of an architecture; `reports/<architecture>` then leads to its report.

    Raises:
        LvmError: If no trial of the architecture is trained.
        InvariantError: If a blocking finding failed; the earlier report stays.
    """
    return evaluate_trial(settings, latest_trial(settings, architecture))


def evaluate_trial(settings: Settings, folder: TrialFolder) -> "EvaluationReport":
    """Score a trial's model on the validation split and write its report (JSON, HTML) into the trial's folder.

    Raises:
        InvariantError: If a blocking finding failed; the earlier report stays.
    """
    from lvm_pipeline.evaluation.learning_curve import read_curve
    from lvm_pipeline.evaluation.not_run import NO_PREFERENCE, NO_SMOOTHING
    from lvm_pipeline.evaluation.preference import read_preference
    from lvm_pipeline.evaluation.report_page import write_report
    from lvm_pipeline.evaluation.smoothing import read_smoothing

    report = compute_report(settings, folder)
    raise_on_blocking(report.findings)
    curve = read_curve(folder.path, fingerprint=report.model_fingerprint)
    smoothing = read_smoothing(folder.path, fingerprint=report.model_fingerprint)
    report = replace(
        report,
        learning_curve=curve,
        smoothing=NO_SMOOTHING if smoothing is None else smoothing.for_report(),
        preference=read_preference(folder.path, fingerprint=report.model_fingerprint) or NO_PREFERENCE,
    )
    write_report(report, folder.path)
    link_report(settings, report.architecture, folder)
    track_scores(settings, folder, report)
    return report


def compute_report(settings: Settings, folder: TrialFolder) -> "EvaluationReport":
    """Score a trial's model on the validation split. No report is written, and no finding raises."""
    from lvm_pipeline.evaluation.evaluate import evaluate_model
    from lvm_pipeline.experiments.row_scores import keep_row_scores

    report = evaluate_model(
        folder.model_dir,
        settings.concepts_path,
        settings.sequences_path,
        vectors_dir=settings.vectors_dir,
        device=settings.device,
        cache_dir=settings.baselines_dir,
        num_threads=settings.num_threads,
        data_findings=reported_findings(settings),
        encoders_dir=settings.encoders_dir,
        text=text_request(settings),
        # for the champion rule
        on_scored=lambda scored: keep_row_scores(settings.baselines_dir, folder.model_dir, scored),
    )
    return replace(report, findings=tuple(with_set_severities(settings, report.findings)))


def track_scores(settings: Settings, folder: TrialFolder, report: "EvaluationReport") -> None:
    """Log a report's verdict and text scores to the trial's MLflow run; the report stands if MLflow cannot be used."""
    from lvm_pipeline.adapters.mlflow_tracker import log_scores_to_run
    from lvm_pipeline.evaluation.tracked_scores import tracked_scores

    run_id, scores = read_tracking(folder.model_dir)["mlflow_run_id"], tracked_scores(report)
    if run_id is None:
        return
    describe_trial(settings, folder, report.verdict)
    if not scores:
        return
    try:
        log_scores_to_run(settings, run_id, scores)
    except LvmError as error:
        logger.warning("The text scores of %s are not in MLflow: %s", folder.trial_id, error)


def make_learning_curve(
    settings: Settings, folder: TrialFolder, *, progress: "OnPoint | None" = None
) -> "LearningCurve":
    """Train a trial's configuration on parts of the train articles; its report then has the learning curve.

    Raises:
        LvmError: If the trial cannot be trained again, or there are too few train articles.
    """
    from lvm_pipeline.evaluation.learning_curve import learning_curve, write_curve
    from lvm_pipeline.evaluation.report_page import replace_sections

    curve = learning_curve(
        folder.model_dir,
        promoted_data(settings),
        work_dir=folder.path / "learning_curve",
        device=settings.device,
        progress=progress,
    )
    write_curve(curve, folder.path)
    replace_sections(folder.path, fingerprint=curve.model_fingerprint, learning_curve=curve)
    return curve


def build_leaderboard(settings: Settings) -> "Leaderboard":
    """Put the reports of all trials on the present sequences into one table and write it (JSON, HTML).

    A report that cannot be read is named among those left out, with the reason.

    Raises:
        LvmError: If there is no such report.
    """
    from lvm_pipeline.evaluation.leaderboard import leaderboard
    from lvm_pipeline.evaluation.leaderboard_page import write_leaderboard

    reports, unreadable = _reports(settings)
    champion = read_champion(settings)
    fingerprint = read_sequences_metadata(settings.sequences_path).fingerprint
    decision = champion.get("decision")
    board = leaderboard(
        list(reports.values()),
        fingerprint=fingerprint,
        champion_fingerprint=champion.get("model_fingerprint"),
        decision_reason=decision["reason"] if decision and decision["fingerprint"] == fingerprint else None,
        unreadable=unreadable,
    )
    links = {report.model_fingerprint: f"../trials/{name}/report.html" for name, report in reports.items()}
    write_leaderboard(board, settings.reports_dir, links=links)
    return board


def _reports(settings: Settings) -> "tuple[dict[str, EvaluationReport], list[LeftOut]]":
    """Return the reports of all trials by trial id, and those that cannot be read."""
    from lvm_pipeline.evaluation.leaderboard import LeftOut
    from lvm_pipeline.evaluation.report import read_report

    reports, unreadable = {}, []
    for folder in trained_trials(settings):
        if not folder.report_path.is_file():
            continue
        try:
            reports[folder.trial_id] = read_report(folder.report_path)
        except LvmError as error:
            reason = f"{str(error).removesuffix('.')}: `lvm evaluate --trial {folder.trial_id}`"
            unreadable.append(LeftOut(name=folder.trial_id, reason=reason))
    return reports, unreadable


def read_champion(settings: Settings) -> dict[str, Any]:
    """Return what the champion stage wrote last; empty if it never ran. Raises LvmError if the file is damaged."""
    remedy = "delete it and run `lvm champion --choose`; the champion in the registry stays."
    return files.read_json(settings.reports_dir / CHAMPION_FILE, remedy=remedy)


def champions_trial(settings: Settings) -> TrialFolder | None:
    """Return the champion's trial, with the model that was chosen; None if there is no champion.

    A trial that is trained again, as the schedule does, replaces its model whether or not the new one is promoted. The
    champion's weights then are in MLflow's registry alone, and `model_dir` leads there.

    Raises:
        LvmError: If the champion's weights are neither in its trial nor in the registry.
    """
    from lvm_pipeline.adapters import mlflow_registry

    champion = read_champion(settings)
    if champion.get("name") is None:
        return None
    folder, fingerprint = trial_folder(settings, champion["name"]), champion.get("model_fingerprint")
    if folder.info() is not None and (fingerprint is None or _has_weights(folder.model_dir, fingerprint)):
        return folder
    registered = mlflow_registry.champion(settings)
    if registered is None or not _has_weights(registered.model_dir, fingerprint):
        raise LvmError(
            f"The weights of the champion, {folder.trial_id}, are neither in its trial nor those of MLflow's champion; "
            "choose again: `lvm champion --choose`."
        )
    return replace(folder, other_model_dir=registered.model_dir)


def _has_weights(model_dir: Path, fingerprint: str | None) -> bool:
    from lvm_pipeline.training.trained_model import weights_fingerprint

    try:
        return weights_fingerprint(model_dir) == fingerprint
    except OSError:
        return False


def trial_rows(settings: Settings) -> list[dict[str, Any]]:
    """Return the trained trials and whether they belong to the present data.

    Trials with the same selection metric follow one another, the best validation score first; scores have four
    significant digits.
    """
    from lvm_pipeline.training.predictions import SELECTION_METRICS, selection_metric

    path = settings.sequences_path
    fingerprint = read_sequences_metadata(path).fingerprint if path.is_file() else None
    champion = _champion_among_trials(settings)
    found = ((folder, folder.info()) for folder in trained_trials(settings))
    trained = [(folder, info) for folder, info in found if info is not None]
    trained.sort(key=lambda each: selection_metric(each[1].selection_metric).sign * each[1].score, reverse=True)
    trained.sort(key=lambda each: list(SELECTION_METRICS).index(each[1].selection_metric))
    return [
        {
            "trial_id": folder.trial_id,
            "score": float(f"{info.score:.4g}"),
            "metric": info.selection_metric,
            "present_data": info.fingerprints["sequences"] == fingerprint,
            "evaluated": folder.report_path.is_file(),
            "champion": folder.trial_id == champion,
        }
        for folder, info in trained
    ]


def _champion_among_trials(settings: Settings) -> str | None:
    """Return the trial whose present model is the champion; None if its trial was trained again since."""
    try:
        folder = champions_trial(settings)
    except LvmError:
        return None
    return folder.trial_id if folder is not None and folder.other_model_dir is None else None


def retrained_architectures(settings: Settings) -> list[str]:
    """Return the architectures to retrain; empty if that is the champion's and there is no champion yet.

    Raises:
        LvmError: If the setting names an architecture that does not exist.
    """
    if settings.retrained_architectures.strip() != "champion":
        try:
            return architectures_named(settings.retrained_architectures)
        except LvmError as error:
            raise LvmError(f"LVM_RETRAINED_ARCHITECTURES: {error}") from None
    champion = read_champion(settings)
    name = champion.get("architecture") or (champion.get("name") or "").split(" ")[0]  # earlier versions: "gru small"
    return champion.get("architectures") or ([name] if name in architecture_names() else [])


def refuse_unknown_names(settings: Settings) -> None:
    """Raise LvmError if LVM_RETRAINED_ARCHITECTURES or LVM_SEVERITIES names something that does not exist."""
    retrained_architectures(settings)
    with_set_severities(settings, [])
