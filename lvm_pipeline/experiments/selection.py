"""Score trained models and the present champion on the same validation targets, and apply the champion rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.baseline_scores import baseline_scores
from lvm_pipeline.evaluation.evaluate import best_baseline
from lvm_pipeline.evaluation.scoring import RowScores, ScoredModel, score_model
from lvm_pipeline.experiments.champion import DECIDING_SPLIT, ChampionDecision, decide
from lvm_pipeline.training.data import TrainingData, load_training_data


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rule's decision, the folder of the challenger, and why a present champion could not be scored."""

    decision: ChampionDecision
    challenger_dir: Path
    incumbent_problem: str | None


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

    Args:
        challenger_dirs: Folders of trained models, by name; all trained on these data.
        incumbent_dir: Folder of the present champion, which may have been trained on other data; None: there is none.
        concepts_path: The concept table.
        sequences_path: The sequence table whose validation targets decide.
        vectors_dir: Where the memory-mapped vectors are kept.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        cache_dir: Where scores of baselines are kept.
        num_threads: PyTorch threads on a CPU; None: as in training.
        seed: Of the resampling.

    Returns:
        The decision.

    Raises:
        LvmError: If no trained model is given, or one cannot be scored on these data.
    """
    if not challenger_dirs:
        raise LvmError("There is no trained model to choose a champion from; train one with `lvm run`.")
    data = load_training_data(concepts_path, sequences_path, vectors_dir)

    def score(model_dir: Path, *, is_challenger: bool) -> ScoredModel:
        return score_model(
            model_dir,
            data,
            split=DECIDING_SPLIT,
            device=device,
            num_threads=num_threads,
            require_same_data=is_challenger,
        )

    challenger, challenger_dir = _best_of(challenger_dirs, score)
    row_scores = challenger.row_scores()
    incumbent, problem, told = None, None, ""
    if incumbent_dir is not None:
        try:
            found = score(incumbent_dir, is_challenger=False)
            incumbent = found.row_scores()
            if found.info.fingerprints != data.fingerprints:
                told = " The champion was trained on other data and may have seen these articles."
        except LvmError as error:
            problem = str(error)
            told = f" The present champion could not be scored: {problem}"
    baseline = _best_baseline(data, challenger, cache_dir=cache_dir)
    decision = decide(row_scores, incumbent=incumbent, best_baseline=baseline, seed=seed)
    decision = replace(decision, reason=decision.reason + told)
    return Selection(decision=decision, challenger_dir=challenger_dir, incumbent_problem=problem)


def _best_of(challenger_dirs: Mapping[str, Path], score: Callable[..., ScoredModel]) -> tuple[ScoredModel, Path]:
    """Score one model after the other and keep the best, so that memory holds two."""
    best, best_dir = None, None
    for model_dir in challenger_dirs.values():
        found = score(model_dir, is_challenger=True)
        if best is None or found.row_scores().cosine > best.row_scores().cosine:
            best, best_dir = found, model_dir
    assert best is not None
    assert best_dir is not None
    return best, best_dir


def _best_baseline(data: TrainingData, scored: ScoredModel, *, cache_dir: Path | None) -> RowScores:
    """Return the best baseline on what the challenger reads."""
    baselines = baseline_scores(
        scored.targets,
        fingerprint=data.sequences.metadata.fingerprint,
        split=scored.split,
        cache_dir=cache_dir,
    )
    best = best_baseline(baselines)
    return scored.baseline_row_scores(best, baselines[best].scores)
