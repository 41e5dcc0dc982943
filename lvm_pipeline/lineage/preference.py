"""Studies of human preference: create one, show its status, collect the answers. Each has a folder in the home."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.trials import TrialFolder, trial_folder
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.evaluation.preference import PreferenceScores
    from lvm_pipeline.evaluation.preference_study import Study
    from lvm_pipeline.evaluation.smoothing import SmoothedExample, SmoothingScores

ASSUMED_RATES = (0.85, 0.9, 0.95)  # true win rates for which the number of judgements needed is printed


@dataclass(frozen=True, kw_only=True)
class RaterStatus:
    rater: str
    pending: int
    complete: int
    declined: int
    answered: int
    url: str


def create_study(
    settings: Settings,
    folder: TrialFolder,
    *,
    raters: Sequence[str],
    against: TrialFolder | None = None,
    num_pairs: int = 30,
    seed: int = 0,
) -> "Study":
    """Create a blinded study of a smoothed trial's texts in MLflow, with one review queue per rater.

    The study's file holds the key. `against` is another smoothed trial, such as the champion, to compare with on the
    same targets; `num_pairs` is the most for each comparison.

    Raises:
        LvmError: If there are no raters, no texts or no common targets, or MLflow cannot be used.
    """
    from lvm_pipeline.adapters import mlflow_review
    from lvm_pipeline.evaluation.preference_study import Study, make_pairs, order_for, write_study

    names = [name.strip() for name in raters if name.strip()]
    if not names or len(set(names)) < len(names):
        raise LvmError("A study needs raters, each named once; name them with --rater.")
    scores = _smoothed(folder)
    others = None if against is None else _of_same_targets(scores.examples, against)
    pairs = make_pairs(scores.examples, against=others, num_pairs=num_pairs, seed=seed)
    study_id = _new_id(settings, folder.trial_id)
    experiment_id = mlflow_review.create_experiment(settings, f"preference {study_id}")
    items = [{"passage": list(pair.context), **pair.shown} for pair in pairs]
    queues = {
        name: mlflow_review.create_queue(
            settings, name, items, experiment_id=experiment_id, order=order_for(len(items), rater=number, seed=seed)
        )
        for number, name in enumerate(names)
    }
    study = Study(
        study_id=study_id,
        trial_id=folder.trial_id,
        model_fingerprint=scores.model_fingerprint,
        seed=seed,
        raters=tuple(names),
        pairs=tuple(pairs),
        queues={name: queue.queue_id for name, queue in queues.items()},
        items={name: queue.trace_ids for name, queue in queues.items()},
        experiment_id=experiment_id,
        urls={name: queue.url for name, queue in queues.items()},
    )
    write_study(study, settings.preference_dir / study_id)
    return study


def study_status(settings: Settings, study_id: str | None = None) -> list[RaterStatus]:
    """Return how far each rater of a study is; None: of the latest study.

    Raises:
        LvmError: If there is no such study, or MLflow cannot be used.
    """
    from lvm_pipeline.adapters import mlflow_review

    study = named_study(settings, study_id)
    return [
        RaterStatus(
            rater=rater,
            **asdict(mlflow_review.queue_status(settings, study.queues[rater])),
            answered=len(mlflow_review.answers(settings, study.queues[rater])),
            url=study.urls[rater],
        )
        for rater in study.raters
    ]


def collect_study(settings: Settings, study_id: str | None = None) -> "PreferenceScores":
    """Score the answers that a study has so far; the report of its trial then shows them.

    Raises:
        LvmError: If there is no such study or no answer yet, or MLflow cannot be used.
    """
    from lvm_pipeline.adapters import mlflow_review
    from lvm_pipeline.evaluation.preference import preference_scores, write_preference
    from lvm_pipeline.evaluation.preference_study import judgement_of
    from lvm_pipeline.evaluation.report_page import replace_sections

    study = named_study(settings, study_id)
    judgements = []
    for rater in study.raters:
        found = mlflow_review.answers(settings, study.queues[rater])
        given = [
            (pair, found[item]) for pair, item in zip(study.pairs, study.items[rater], strict=True) if item in found
        ]
        judgements += [each for pair, answer in given if (each := judgement_of(pair, rater, answer)) is not None]
    if not any(not each.is_repeat for each in judgements):
        raise LvmError(
            f"No rater of the study {study.study_id} has answered yet; `lvm preference status` lists their pages."
        )
    scores = preference_scores(
        judgements, study_id=study.study_id, model_fingerprint=study.model_fingerprint, seed=study.seed
    )
    folder = trial_folder(settings, study.trial_id)
    write_preference(scores, folder.path)
    replace_sections(folder.path, fingerprint=scores.model_fingerprint, preference=scores)
    return scores


def named_study(settings: Settings, study_id: str | None) -> "Study":
    """Return a study by its id; None: the latest. Raises LvmError if there is none."""
    from lvm_pipeline.evaluation.preference_study import STUDY_FILE, read_study

    if study_id is not None:
        return read_study(settings.preference_dir / study_id)
    known = sorted(settings.preference_dir.glob(f"*/{STUDY_FILE}"), key=lambda path: path.stat().st_mtime)
    if not known:
        raise LvmError("There is no study yet; create one with `lvm preference create`.")
    return read_study(known[-1].parent)


def _smoothed(folder: TrialFolder) -> "SmoothingScores":
    from lvm_pipeline.evaluation.smoothing import read_smoothing
    from lvm_pipeline.training.trained_model import weights_fingerprint

    scores = read_smoothing(folder.path, fingerprint=weights_fingerprint(folder.model_dir))
    if scores is None:
        raise LvmError(
            f"{folder.trial_id} has no smoothed texts to compare; run `lvm smooth --trial {folder.trial_id}` first."
        )
    return scores


def _of_same_targets(examples: "Sequence[SmoothedExample]", other: TrialFolder) -> "dict[int, SmoothedExample]":
    """Return another trial's examples by target row; on other data a row is another text, and is left out.

    Raises:
        LvmError: If none has the target of one of these examples.
    """
    targets = {(each.passage.target_row, each.passage.article_id, each.passage.truth) for each in examples}
    found = {
        passage.target_row: each
        for each in _smoothed(other).examples
        if ((passage := each.passage).target_row, passage.article_id, passage.truth) in targets
    }
    if not found:
        raise LvmError(
            f"{other.trial_id} has no smoothed texts of the same targets; run `lvm smooth --trial {other.trial_id}` on "
            "the present data with the same --seed."
        )
    return found


def _new_id(settings: Settings, trial_id: str) -> str:
    number = 1
    while _study_dir(settings, trial_id, number).exists():
        number += 1
    return _study_dir(settings, trial_id, number).name


def _study_dir(settings: Settings, trial_id: str, number: int) -> Path:
    return settings.preference_dir / f"{trial_id}-{number}"
