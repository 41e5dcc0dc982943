"""Cache of each trained model's cosines on the validation targets, so that trials are scored only once."""

from pathlib import Path

from lvm_pipeline.architectures._registry import PACKAGE as ARCHITECTURES
from lvm_pipeline.evaluation import scoring
from lvm_pipeline.evaluation.kept import kept_path, read_kept, write_kept
from lvm_pipeline.evaluation.scoring import RowScores, ScoredModel, score_model
from lvm_pipeline.files import mark_used, prune_cache
from lvm_pipeline.sequences.schema import Split
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.provenance import code_version
from lvm_pipeline.training.trained_model import read_trained_model_info, weights_fingerprint

KEPT_FILES = 400
ARRAYS = ("target_rows", "articles", "cosines")


def row_scores_of(
    model_dir: Path,
    data: TrainingData,
    *,
    split: Split,
    device: str,
    cache_dir: Path | None,
    num_threads: int | None = None,
    require_same_data: bool = True,
) -> RowScores:
    """Return a model's cosines on a split, from `cache_dir` (None: no cache) or measured now; see `score_model`."""
    kept = None if cache_dir is None else _read(cache_dir, model_dir, data, split)
    if kept is not None:
        return kept
    scored = score_model(
        model_dir, data, split=split, device=device, num_threads=num_threads, require_same_data=require_same_data
    )
    if cache_dir is not None:
        keep_row_scores(cache_dir, model_dir, scored)
    return scored.row_scores()


def keep_row_scores(cache_dir: Path, model_dir: Path, scored: ScoredModel) -> None:
    """Keep the cosines of a model that was just scored."""
    found = scored.row_scores()
    facts = {"name": found.name, "is_leaking": found.is_leaking, "model_fingerprint": found.model_fingerprint}
    arrays = {name: getattr(found, name) for name in ARRAYS}
    write_kept(_path(cache_dir, model_dir, scored.data, scored.split), arrays, facts)
    prune_cache(cache_dir, "row_scores-*.npz", num_kept=KEPT_FILES)


def _read(cache_dir: Path, model_dir: Path, data: TrainingData, split: Split) -> RowScores | None:
    path = _path(cache_dir, model_dir, data, split)
    if read_trained_model_info(model_dir).fingerprints != data.fingerprints:
        return None  # `score_model` decides whether it may be scored
    kept = read_kept(path, lambda arrays, facts: {**facts, **{name: arrays[name] for name in ARRAYS}})
    if kept is None:
        return None
    mark_used(path)
    return RowScores(**kept, fingerprint=data.sequences.metadata.fingerprint, split=split)


def _path(cache_dir: Path, model_dir: Path, data: TrainingData, split: Split) -> Path:
    info = read_trained_model_info(model_dir)
    architectures = sorted({info.architecture, *(member.architecture for member in info.members)})
    code = code_version(scoring.__name__, *(f"{ARCHITECTURES}.{name}" for name in architectures))
    identity = [weights_fingerprint(model_dir), info.identity, info.mode, data.fingerprints, split, code]
    content = info.content_in(data.concepts)
    identity += [] if content is None else [content]
    return kept_path(cache_dir, "row_scores", identity)
