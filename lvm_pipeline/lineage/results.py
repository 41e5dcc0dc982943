"""What trained models are worth: reports, leaderboard, champion."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline import files
from lvm_pipeline.architectures._registry import architectures_named
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import raise_on_blocking
from lvm_pipeline.lineage.data import reported_findings
from lvm_pipeline.lineage.drift import keep_champion_concepts
from lvm_pipeline.lineage.models import tracking_of
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.adapters.mlflow_registry import RegisteredModel
    from lvm_pipeline.evaluation.leaderboard import Leaderboard
    from lvm_pipeline.evaluation.report import EvaluationReport

CHAMPION_FILE = "champion.json"
CHAMPION_FIELDS = ("name", "version", "mlflow_run_id", "url", "model_fingerprint", "test")


def evaluate_architecture(settings: Settings, architecture: str) -> "EvaluationReport":
    """Score the trained model of an architecture on the validation split and write its report (JSON, HTML).

    Raises:
        InvariantError: If a blocking finding failed; the earlier report stays.
    """
    from lvm_pipeline.evaluation.evaluate import evaluate_model
    from lvm_pipeline.evaluation.report_page import write_report

    report = evaluate_model(
        settings.models_dir / architecture,
        settings.concepts_path,
        settings.sequences_path,
        vectors_dir=settings.vectors_dir,
        device=settings.device,
        cache_dir=_cache_dir(settings),
        num_threads=settings.num_threads,
        data_findings=reported_findings(settings),
    )
    raise_on_blocking(report.findings)
    write_report(report, report_dir(settings, architecture))
    return report


def build_leaderboard(settings: Settings) -> "Leaderboard":
    """Put all reports on the present sequences into one table and write it (JSON, HTML).

    Raises:
        LvmError: If there is no such report.
    """
    from lvm_pipeline.evaluation.leaderboard import leaderboard
    from lvm_pipeline.evaluation.leaderboard_page import write_leaderboard
    from lvm_pipeline.evaluation.report import read_report

    reports = {path.parent.name: read_report(path) for path in sorted(settings.reports_dir.glob("*/report.json"))}
    champion = read_champion(settings)
    fingerprint = read_sequences_metadata(settings.sequences_path).fingerprint
    decision = champion.get("decision")
    board = leaderboard(
        list(reports.values()),
        fingerprint=fingerprint,
        champion_fingerprint=champion.get("model_fingerprint"),
        decision_reason=decision["reason"] if decision and decision["fingerprint"] == fingerprint else None,
    )
    links = {report.model_fingerprint: f"{name}/report.html" for name, report in reports.items()}
    write_leaderboard(board, settings.reports_dir, links=links)
    return board


def choose_champion(settings: Settings) -> dict[str, Any]:
    """Hold the best trained model against the present champion by the fixed rule, and move the alias if it wins.

    The test split is looked at once, for a model that is promoted, and changes nothing.

    Returns:
        What is written to `champion.json`: the rule's decision, and the champion as it is now.

    Raises:
        LvmError: If there is no trained model of the present data, or the registry cannot be used.
    """
    from lvm_pipeline.adapters import mlflow_registry
    from lvm_pipeline.experiments.selection import select_champion

    incumbent = mlflow_registry.champion(settings)
    selection = select_champion(
        _challengers(settings),
        incumbent_dir=incumbent.model_dir if incumbent else None,
        concepts_path=settings.concepts_path,
        sequences_path=settings.sequences_path,
        vectors_dir=settings.vectors_dir,
        device=settings.device,
        cache_dir=_cache_dir(settings),
        num_threads=settings.num_threads,
    )
    decision = selection.decision
    chosen = {"decision": decision.as_json(), **dict.fromkeys(CHAMPION_FIELDS)}
    if decision.promote:
        crowned = _crown(settings, selection.challenger_dir, decision.as_json())
        chosen |= _described(crowned) | {"model_fingerprint": decision.challenger_fingerprint}
        chosen["test"] = _look_at_test(settings, selection.challenger_dir)
        keep_champion_concepts(settings, _concepts_of(selection.challenger_dir))
    elif incumbent is not None:
        keep_champion_concepts(settings, _concepts_of(incumbent.model_dir))
        chosen |= _described(incumbent) | {"model_fingerprint": incumbent.tags.get("model_fingerprint")}
        chosen["test"] = read_champion(settings).get("test")
    files.write_json(settings.reports_dir / CHAMPION_FILE, chosen)
    build_leaderboard(settings)
    return chosen


def read_champion(settings: Settings) -> dict[str, Any]:
    """Return what the champion stage wrote last; nothing where it never ran."""
    path = settings.reports_dir / CHAMPION_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def retrained_architectures(settings: Settings) -> list[str]:
    """Return what is trained again by itself; nothing where only the champion's kind is and there is no champion yet.

    Raises:
        LvmError: If the setting names an architecture that does not exist.
    """
    if settings.retrained_architectures.strip() == "champion":
        champion = read_champion(settings).get("name")
        return [] if champion is None else [champion.split()[0]]  # its name is architecture and preset
    return architectures_named(settings.retrained_architectures)


def report_dir(settings: Settings, architecture: str) -> Path:
    """Return the folder of an architecture's report."""
    return settings.reports_dir / architecture


def _cache_dir(settings: Settings) -> Path:
    return settings.data_dir / "baselines"


def _challengers(settings: Settings) -> dict[str, Path]:
    """Return the trained models of the present data, by architecture."""
    from lvm_pipeline.training.trained_model import read_trained_model_info

    fingerprint = read_sequences_metadata(settings.sequences_path).fingerprint
    folders = {path.parent.name: path.parent for path in sorted(settings.models_dir.glob("*/trained_model.json"))}
    present = {
        name: folder
        for name, folder in folders.items()
        if read_trained_model_info(folder).fingerprints["sequences"] == fingerprint
    }
    if not present:
        raise LvmError("No trained model belongs to the present sequences; train one with `lvm run`.")
    return present


def _concepts_of(model_dir: Path) -> str:
    """Return the fingerprint of the concepts that a model was trained on."""
    from lvm_pipeline.training.trained_model import read_trained_model_info

    return read_trained_model_info(model_dir).fingerprints["concepts"]


def _crown(settings: Settings, model_dir: Path, decision: Mapping[str, Any]) -> "RegisteredModel":
    from lvm_pipeline.adapters import mlflow_registry

    run_id = tracking_of(model_dir)["mlflow_run_id"]
    if run_id is None:
        raise LvmError(f"{model_dir} has no MLflow run, so it cannot be registered; train it again with `lvm run`.")
    tags = {
        "architecture": decision["challenger"],
        "model_fingerprint": decision["challenger_fingerprint"] or "",
        "sequences_fingerprint": decision["fingerprint"],
        "validation_cosine": f"{decision['cosine']:.6f}",
    }
    return mlflow_registry.crown(settings, mlflow_run_id=run_id, tags=tags, description=decision["reason"])


def _described(model: "RegisteredModel") -> dict[str, Any]:
    return {
        "name": model.tags.get("architecture"),
        "version": model.version,
        "mlflow_run_id": model.mlflow_run_id,
        "url": model.url,
    }


def _look_at_test(settings: Settings, model_dir: Path) -> dict[str, Any] | None:
    """Score a promoted model on the test split, None where the split holds no sequence."""
    from lvm_pipeline.evaluation.evaluate import evaluate_model

    counts = read_sequences_metadata(settings.sequences_path).split_counts["test"]
    if not counts.num_sequences:
        return None
    report = evaluate_model(
        model_dir,
        settings.concepts_path,
        settings.sequences_path,
        vectors_dir=settings.vectors_dir,
        device=settings.device,
        split="test",
        cache_dir=_cache_dir(settings),
        num_threads=settings.num_threads,
    )
    return {
        "cosine": report.cosine,
        "gain_over_best_baseline": {"baseline": report.best_baseline, **report.gain.as_json()},
        "counts": asdict(report.counts),
    }
