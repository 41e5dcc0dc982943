"""The champion: chosen by the fixed rule, or held by a person, and the alias in the registry that follows.

A held champion need not have won. When the rule is asked again, it is compared as any other champion: a challenger then
has to beat it and not the best baseline. `ignore_incumbent` compares with the best baseline.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline import files
from lvm_pipeline.architectures._registry import architecture_names
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.drift import keep_champion_data
from lvm_pipeline.lineage.models import complete_tracking, promoted_data
from lvm_pipeline.lineage.results import CHAMPION_FILE, build_leaderboard, evaluate_trial, read_champion
from lvm_pipeline.lineage.trials import named_trial, read_tracking, trained_trials
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.adapters.mlflow_registry import RegisteredModel
    from lvm_pipeline.training.trained_model import TrainedModelInfo

logger = logging.getLogger(__name__)

TEST_SCORES_FILE = "test_scores.json"
CHAMPION_FIELDS = (
    "name",
    "architecture",
    "architectures",
    "version",
    "mlflow_run_id",
    "url",
    "model_fingerprint",
    "test",
)


def choose_champion(
    settings: Settings, *, ignore_incumbent: bool = False, release_held: bool = False
) -> dict[str, Any]:
    """Compare the best trial with the present champion by the fixed rule, and promote it if it wins.

    A promoted model is scored once on the test split, which changes nothing. The test score is written before the alias
    in the registry moves, the decision after it.

    Args:
        settings: Where the trials, the data and the registry are.
        ignore_incumbent: Compare as if there were no champion; it stays where no model is promoted.
        release_held: Compare though a person holds the champion; otherwise that one stays.

    Returns:
        What is written to `champion.json`: the rule's decision, and the champion as it is now.

    Raises:
        LvmError: If there is no trained model of the present data, or the registry cannot be used.
    """
    from lvm_pipeline.adapters import mlflow_registry
    from lvm_pipeline.experiments.selection import select_champion

    challengers = _challengers(settings)  # before the registry, whose database takes ten seconds to make
    tags, before = mlflow_registry.champion_tags(settings), read_champion(settings)
    if _is_held(before, tags) and not (release_held or ignore_incumbent):
        return _still_held(settings, before)
    incumbent = None if ignore_incumbent else mlflow_registry.champion(settings)
    selection = select_champion(
        challengers,
        incumbent_dir=incumbent.model_dir if incumbent else None,
        concepts_path=settings.concepts_path,
        sequences_path=settings.sequences_path,
        vectors_dir=settings.vectors_dir,
        device=settings.device,
        cache_dir=settings.baselines_dir,
        num_threads=settings.num_threads,
    )
    decision = selection.decision
    chosen = {"decision": decision.as_json(), "before": _trial_of(tags), **dict.fromkeys(CHAMPION_FIELDS)}
    if decision.promote:
        fingerprint = decision.challenger_fingerprint or ""
        _score_on_test(settings, selection.challenger_dir, fingerprint)
        promoted = _promoted(settings, selection.challenger_dir, decision.as_json())
        chosen |= _description_of(settings, promoted, fingerprint)
        keep_champion_data(settings, _info_of(selection.challenger_dir).fingerprints)
    elif incumbent is not None:
        keep_champion_data(settings, _info_of(incumbent.model_dir).fingerprints)
        chosen |= _description_of(settings, incumbent, incumbent.tags.get("model_fingerprint"))
    elif tags is not None:
        chosen |= {name: value for name, value in before.items() if name in CHAMPION_FIELDS}
    return _recorded(settings, chosen)


def hold_champion(settings: Settings, name: str) -> dict[str, Any]:
    """Make a model the champion by a person's choice, such as an earlier champion; no stage replaces it then.

    It stays until `choose_champion` is called with `release_held` or `ignore_incumbent`. A model of the present data is
    scored on the test split if it never was.

    Args:
        name: Id of a trial, whose present model it is, or the beginning of one; or the number of a version in the
            registry, which keeps every champion that there was, also where its trial was trained again since.

    Returns:
        What is written to `champion.json`.

    Raises:
        LvmError: If there is no such trial or version, its model leaks or is of another space than the concepts, or the
            registry cannot be used.
    """
    from lvm_pipeline.adapters import mlflow_registry
    from lvm_pipeline.experiments.champion import ChampionDecision
    from lvm_pipeline.training.trained_model import weights_fingerprint

    registered = mlflow_registry.registered(settings, name) if name.isdecimal() else None
    model_dir = registered.model_dir if registered else named_trial(settings, name).model_dir
    info, fingerprint = _info_of(model_dir), weights_fingerprint(model_dir)
    sequences = read_sequences_metadata(settings.sequences_path)
    _refuse_to_hold(settings, info)
    before = _trial_of(mlflow_registry.champion_tags(settings))
    decision = ChampionDecision(
        promote=True,
        reason=f"{info.trial_id} is held as champion by a person; `lvm champion --choose` compares the models again.",
        challenger=info.trial_id,
        challenger_fingerprint=fingerprint,
        against=before,
        gain=None,
        cosine=float(registered.tags["validation_cosine"]) if registered else _cosine_of(settings, info.trial_id),
        fingerprint=sequences.fingerprint,
        num_targets=0,
        num_articles=0,
        is_held=True,
    ).as_json()
    if info.fingerprints["sequences"] == sequences.fingerprint and fingerprint not in _test_scores(settings):
        _score_on_test(settings, model_dir, fingerprint)
    promoted = _promoted(settings, model_dir, decision, mlflow_run_id=registered and registered.mlflow_run_id)
    keep_champion_data(settings, info.fingerprints)
    chosen = {"decision": decision, "before": before, **_description_of(settings, promoted, fingerprint)}
    return _recorded(settings, chosen)


def _cosine_of(settings: Settings, trial_id: str) -> float:
    """Return a trial's validation cosine, from its report, which is made if there is none."""
    from lvm_pipeline.evaluation.report import read_report

    folder = named_trial(settings, trial_id)
    report = read_report(folder.report_path) if folder.report_path.is_file() else evaluate_trial(settings, folder)
    return report.cosine


def _refuse_to_hold(settings: Settings, info: "TrainedModelInfo") -> None:
    """Raise LvmError if a model must not be champion, whoever chooses it."""
    space_id = read_concepts_metadata(settings.concepts_path).space_id
    if info.is_oracle:
        raise LvmError(
            f"{info.trial_id} reads the TMD code of its own target and cannot be champion; name another trial."
        )
    if info.is_leaking:
        raise LvmError(f"{info.trial_id} was trained on leaking sequences and cannot be champion; name another trial.")
    if info.space_id != space_id:
        raise LvmError(
            f"{info.trial_id} predicts vectors of the space {info.space_id} and the concepts are of {space_id}, so it "
            "cannot be champion; name another trial."
        )


def _trial_of(tags: Mapping[str, str] | None) -> str | None:
    return None if tags is None else tags.get("trial_id")


def _is_held(champion: Mapping[str, Any], tags: Mapping[str, str] | None) -> bool:
    """Return whether a person holds the champion; no longer if somebody moved the alias in the registry since."""
    is_held = (champion.get("decision") or {}).get("is_held", False)
    if not is_held or tags is None:
        return False
    return [tags.get("trial_id"), tags.get("model_fingerprint")] == [champion["name"], champion["model_fingerprint"]]


def _still_held(settings: Settings, champion: Mapping[str, Any]) -> dict[str, Any]:
    """Record that a held champion stays, for the present sequences."""
    fingerprint = read_sequences_metadata(settings.sequences_path).fingerprint
    decision = {**champion["decision"], "promote": False, "fingerprint": fingerprint}
    return _recorded(settings, {**champion, "decision": decision, "before": champion["name"]})


def _recorded(settings: Settings, chosen: dict[str, Any]) -> dict[str, Any]:
    files.write_json(settings.reports_dir / CHAMPION_FILE, chosen)
    try:
        build_leaderboard(settings)
    except LvmError as error:  # no trial has a report yet; the choice stands
        logger.warning("The leaderboard was not written: %s", error)
    return chosen


def _challengers(settings: Settings) -> dict[str, Path]:
    """Return the model folders of all trials that were trained on the present data, by trial id.

    A model that reads content beside the vectors, such as TMD codes, has to have been trained on the present content.

    Raises:
        LvmError: If there is none.
    """
    fingerprint = read_sequences_metadata(settings.sequences_path).fingerprint
    concepts = read_concepts_metadata(settings.concepts_path)
    infos = {folder: folder.info() for folder in trained_trials(settings)}
    present = {
        folder.trial_id: folder.model_dir
        for folder, info in infos.items()
        if info is not None
        and info.fingerprints["sequences"] == fingerprint
        and info.content_fingerprint == info.content_in(concepts)
    }
    if not present:
        raise LvmError("No trained model belongs to the present sequences; train one with `lvm run`.")
    return present


def _info_of(model_dir: Path) -> "TrainedModelInfo":
    from lvm_pipeline.training.trained_model import read_trained_model_info

    return read_trained_model_info(model_dir)


def _promoted(
    settings: Settings, model_dir: Path, decision: Mapping[str, Any], *, mlflow_run_id: str | None = None
) -> "RegisteredModel":
    """Point the registry's alias at a trial's model, or at one that an MLflow run holds already."""
    from lvm_pipeline.adapters import mlflow_registry

    info = _info_of(model_dir)
    mlflow_run_id = mlflow_run_id or _run_that_holds(settings, model_dir, info.architecture)
    tags = {
        "trial_id": info.trial_id,
        "architecture": info.architecture,
        "architectures": " ".join(sorted({architecture for architecture, _ in info.built_from})),
        "preset": info.preset,
        "model_fingerprint": decision["challenger_fingerprint"] or "",
        "sequences_fingerprint": decision["fingerprint"],
        "validation_cosine": f"{decision['cosine']:.6f}",
    }
    return mlflow_registry.promote(settings, mlflow_run_id=mlflow_run_id, tags=tags, description=decision["reason"])


def _run_that_holds(settings: Settings, model_dir: Path, architecture: str) -> str:
    """Return the MLflow run of a trial's model. Raises LvmError if it does not hold the model."""
    from lvm_pipeline.adapters import mlflow_mending

    complete_tracking(settings)
    tracking = read_tracking(model_dir)
    if tracking["mlflow_run_id"] is None or not tracking["is_complete"]:
        raise LvmError(
            f"MLflow does not hold the model in {model_dir}, so it cannot be registered; see whether the MLflow store "
            "answers (`lvm doctor`) and run this again."
        )
    train_again = f"lvm train -a {architecture} --again"
    mlflow_mending.hold_model(settings, tracking["mlflow_run_id"], model_dir, train_again=train_again)
    return tracking["mlflow_run_id"]


def _description_of(settings: Settings, model: "RegisteredModel", fingerprint: str | None) -> dict[str, Any]:
    architecture = model.tags.get("architecture", "")
    return {
        "name": model.tags.get("trial_id", architecture),
        "architecture": architecture.split(" ")[0] or None,
        "architectures": [each for each in model.tags.get("architectures", "").split() if each in architecture_names()],
        "version": model.version,
        "mlflow_run_id": model.mlflow_run_id,
        "url": model.url,
        "model_fingerprint": fingerprint,
        "test": _test_scores(settings).get(fingerprint or ""),
    }


def _test_scores(settings: Settings) -> dict[str, Any]:
    """Return the scores of promoted models on the test split, by the fingerprint of their weights."""
    remedy = "delete it; a model that is promoted again is scored on the test split again."
    scores = files.read_json(settings.reports_dir / TEST_SCORES_FILE, remedy=remedy)
    champion = read_champion(settings)  # where earlier versions kept the only one
    if champion.get("test") and champion.get("model_fingerprint"):
        scores.setdefault(champion["model_fingerprint"], champion["test"])
    return scores


def _score_on_test(settings: Settings, model_dir: Path, fingerprint: str) -> None:
    """Score a model on the test split and keep the result; do nothing if the split is empty."""
    from lvm_pipeline.evaluation.evaluate import gain_over_best_baseline

    if not read_sequences_metadata(settings.sequences_path).split_counts["test"].num_sequences:
        return
    found = gain_over_best_baseline(
        model_dir,
        promoted_data(settings),
        device=settings.device,
        split="test",
        cache_dir=settings.baselines_dir,
        num_threads=settings.num_threads,
    )
    scores = {
        "cosine": found.cosine,
        "gain_over_best_baseline": {"baseline": found.best_baseline, **found.gain.as_json()},
        "counts": asdict(found.counts),
    }
    files.write_json(settings.reports_dir / TEST_SCORES_FILE, {**_test_scores(settings), fingerprint: scores})
