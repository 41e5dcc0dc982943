"""Score trained models and the present champion on the same validation targets, and apply the champion rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.baseline_scores import baseline_scores
from lvm_pipeline.evaluation.evaluate import best_baseline
from lvm_pipeline.evaluation.scoring import RowScores, targets_of
from lvm_pipeline.experiments.champion import DECIDING_SPLIT, ChampionDecision, decide
from lvm_pipeline.experiments.row_scores import row_scores_of
from lvm_pipeline.training.data import TrainingData, load_training_data
from lvm_pipeline.training.trained_model import read_trained_model_info


@dataclass(frozen=True, kw_only=True)
class Selection:
    decision: ChampionDecision
    challenger_dir: Path  # its folder


def select_champion(
    challenger_dirs: Mapping[str, Path],
    *,
    incumbent_dir: Path | None,
    concepts_path: Path,
    sequences_path: Path,
    vectors_dir: Path,
    device: str,
    cache_dir: Path | None = None,
    num_threads: int | None = None,
    seed: int = 0,
) -> Selection:
    """Decide whether one of some trained models becomes champion.

    Models that cannot be scored are left out, and the decision's reason names them. So are models whose scores leak, as
    long as there is another one.

    Args:
        challenger_dirs: Folders of trained models, by name; all trained on these data.
        incumbent_dir: Folder of the present champion, which may have been trained on other data; None: there is none.
        sequences_path: The sequence table whose validation targets decide.
        num_threads: PyTorch threads on a CPU; None: as in training.

    Raises:
        LvmError: If no trained model is given, or none can be scored on these data.
    """
    if not challenger_dirs:
        raise LvmError("There is no trained model to choose a champion from; train one with `lvm run`.")
    data = load_training_data(concepts_path, sequences_path, vectors_dir)

    def score(model_dir: Path, *, is_challenger: bool) -> RowScores:
        return row_scores_of(
            model_dir,
            data,
            split=DECIDING_SPLIT,
            device=device,
            cache_dir=cache_dir,
            num_threads=num_threads,
            require_same_data=is_challenger,
        )

    candidates, left_out = _scored(challenger_dirs, lambda model_dir: score(model_dir, is_challenger=True))
    challenger_dir = max(candidates, key=lambda model_dir: candidates[model_dir].cosine)
    challenger = candidates.pop(challenger_dir)
    incumbent, remark = None, ""
    if incumbent_dir is not None:
        try:
            incumbent = score(incumbent_dir, is_challenger=False)
            if read_trained_model_info(incumbent_dir).fingerprints != data.fingerprints:
                remark = " The champion was trained on other data and may have seen these articles."
        except LvmError as error:
            remark = f" The present champion could not be scored: {error}"
    baseline = _best_baseline(data, challenger, read_trained_model_info(challenger_dir).mode, cache_dir=cache_dir)
    decision = decide(
        challenger, incumbent=incumbent, best_baseline=baseline, others=list(candidates.values()), seed=seed
    )
    decision = replace(decision, reason=decision.reason + remark + left_out)
    return Selection(decision=decision, challenger_dir=challenger_dir)


def _scored(
    challenger_dirs: Mapping[str, Path], score: Callable[[Path], RowScores]
) -> tuple[dict[Path, RowScores], str]:
    """Return the scores of the models that may be promoted, and a sentence on each that cannot be scored.

    If all scores leak, they are returned, so that the rule says why nothing is promoted.

    Raises:
        LvmError: If no model can be scored; why the first one cannot.
    """
    found, errors = {}, {}
    for name, model_dir in challenger_dirs.items():
        try:
            found[model_dir] = score(model_dir)
        except LvmError as error:
            errors[name] = error
    if not found:
        raise LvmError(str(next(iter(errors.values()))))
    without_leak = {model_dir: scores for model_dir, scores in found.items() if not scores.is_leaking}
    return without_leak or found, "".join(f" {name} was left out: {error}" for name, error in errors.items())


def _best_baseline(data: TrainingData, challenger: RowScores, mode: Any, *, cache_dir: Path | None) -> RowScores:
    targets = targets_of(data, split=DECIDING_SPLIT, context_mode=mode)
    baselines = baseline_scores(
        targets, fingerprint=data.sequences.metadata.fingerprint, split=DECIDING_SPLIT, cache_dir=cache_dir
    )
    best = best_baseline(baselines)
    return replace(challenger, name=best, cosines=baselines[best].scores.closeness.cosine, model_fingerprint=None)
