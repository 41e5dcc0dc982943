"""Ensembles of trained trials: combined, checked, promoted and tracked like a trial."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.models import (
    TrainedTrial,
    accepted_at,
    complete_tracking,
    promoted_data,
    trained_before,
    trained_now,
)
from lvm_pipeline.lineage.results import build_leaderboard
from lvm_pipeline.lineage.trials import TrialFolder, link_model, named_trial, trial_folder, write_trial
from lvm_pipeline.settings import Settings
from lvm_pipeline.words import counted

if TYPE_CHECKING:
    from lvm_pipeline.experiments.ensemble import Weighting
    from lvm_pipeline.training.data import TrainingData
    from lvm_pipeline.training.loop import TrainedModel
    from lvm_pipeline.training.tracking import Tracker, TrainingStatus
    from lvm_pipeline.training.trial import Trial


def make_ensemble(
    settings: Settings,
    trial_ids: Sequence[str],
    *,
    name: str | None = None,
    weighting: "Weighting" = "equal",
    neighbours: bool = False,
    tracker: "Tracker | None" = None,
    again: bool = False,
) -> TrainedTrial:
    """Combine trained trials into an ensemble with a trial folder of its own; `models/ensemble` then leads to it.

    An ensemble that was made before of the same weights, data and code is left as it is, except with `again`.

    Args:
        trial_ids: Two to five trained trials, by id or the beginning of one.
        name: Part of the ensemble's trial id.
        weighting: `equal`, or `validation` to fit the weights; see `experiments.ensemble.choose_weights`.
        neighbours: Whether to add the mean residual of similar predictions on the train articles.
        tracker: What to report to; None tracks nothing.
        again: Rebuild it even if nothing has changed.

    Raises:
        LvmError: If a trial does not exist, or the trials cannot be combined.
        InvariantError: If a blocking finding failed; an earlier ensemble stays.
    """
    from lvm_pipeline.experiments.ensemble import ensemble_trial

    named = [named_trial(settings, each) for each in trial_ids]
    trial = ensemble_trial([each.trial_id for each in named], name=name, weighting=weighting, neighbours=neighbours)
    members = {each.trial_id: each for each in sorted(named, key=lambda each: each.trial_id)}
    folder = trial_folder(settings, trial.trial_id)
    with folder.locked():
        data = promoted_data(settings)
        made = None if again else _made_before(folder, members.values(), data)
        if made is None:
            write_trial(folder, trial)
            made = _made(settings, folder, trial, members, data, tracker)
        link_model(settings, trial.architecture, folder)
        return made


def top_trials(settings: Settings, count: int) -> list[str]:
    """Return the best trials of the leaderboard by validation cosine, ensembles left out.

    Raises:
        LvmError: If fewer trials were evaluated.
    """
    ranked = [row.name for row in build_leaderboard(settings).models]
    single = [each for each in ranked if (info := trial_folder(settings, each).info()) and not info.members]
    if len(single) < count:
        raise LvmError(
            f"The leaderboard has {counted(len(single), 'trial')} "
            f"to combine, not {count}; train and evaluate more, or ask for "
            "fewer members."
        )
    return single[:count]


def _made_before(folder: TrialFolder, members: Collection[TrialFolder], data: "TrainingData") -> TrainedTrial | None:
    """Return an ensemble of exactly these weights, data and code; None if it has to be made."""
    from lvm_pipeline.experiments.ensemble import ensemble_code_version
    from lvm_pipeline.training.trained_model import weights_fingerprint

    info, infos = folder.info(), [each.info() for each in members]
    known = [each for each in infos if each is not None]
    if info is None or len(known) < len(infos) or info.fingerprints != data.fingerprints:
        return None
    weights = {each.trial_id: weights_fingerprint(each.model_dir) for each in members}
    if {each.trial_id: each.weights_fingerprint for each in info.members} != weights:
        return None
    if info.code_version != ensemble_code_version(known):
        return None
    if info.content_fingerprint != info.content_in(data.concepts):
        return None
    return trained_before(folder, info)


def _made(
    settings: Settings,
    folder: TrialFolder,
    trial: "Trial",
    members: Mapping[str, TrialFolder],
    data: "TrainingData",
    tracker: "Tracker | None",
) -> TrainedTrial:
    from lvm_pipeline.experiments.ensemble import build_ensemble
    from lvm_pipeline.training.loop import TrainedModel
    from lvm_pipeline.training.tracking import Tracker, log_and_close

    if tracker is not None:
        complete_tracking(settings, own=folder)
    tracker = tracker or Tracker()
    info = build_ensemble(
        {trial_id: each.model_dir for trial_id, each in members.items()},
        data,
        trial=trial,
        output_dir=folder.staged_dir,
        device=settings.device,
        num_threads=settings.num_threads,
    )
    built = TrainedModel(path=folder.staged_dir, info=info)
    accepted = _accepted(settings, built, folder.model_dir, tracker)
    problem = log_and_close(tracker, accepted.path)
    return trained_now(folder, replace(accepted, tracking_problem=problem), tracker)


def _accepted(settings: Settings, built: "TrainedModel", model_dir: Path, tracker: "Tracker") -> "TrainedModel":
    """Track an ensemble, check it, and move it to where it belongs if no blocking finding failed."""
    from lvm_pipeline.training.tracking import close

    info = built.info
    tracker.start(
        info.trial_id,
        params={**info.training, "weights": {each.trial_id: each.weight for each in info.members}},
        tags={
            "trial_id": info.trial_id,
            "architecture": info.architecture,
            "preset": info.preset,
            "strategy": "ensemble",
            "seed": str(info.seed),
            "mode": info.mode,
            "members": ", ".join(each.trial_id for each in info.members),
            "space_id": info.space_id,
            "code_version": info.code_version,
            "is_leaking": str(info.is_leaking).lower(),
        },
        fingerprints=info.fingerprints,
    )
    status: TrainingStatus = "FAILED"
    try:
        tracker.log_metrics({"validation_cosine": [(0, info.score)]})
        accepted = accepted_at(model_dir, settings.promoted_tables, tracker, settings=settings)(built)
        status = "FINISHED"
    finally:
        if status != "FINISHED":
            close(tracker, status)
    return accepted
