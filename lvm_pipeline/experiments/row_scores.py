"""Cosines of a trained model on the validation targets, kept on disk: a hundred trials are compared more than once."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np

from lvm_pipeline.architectures._registry import PACKAGE as ARCHITECTURES
from lvm_pipeline.evaluation import scoring
from lvm_pipeline.evaluation.scoring import RowScores, ScoredModel, score_model
from lvm_pipeline.files import mark_used, prune_cache, staged_file
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
    """Return a model's cosines on a split, from `cache_dir` (None keeps nothing) or measured now; see `score_model`."""
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
    with (
        staged_file(_path(cache_dir, model_dir, scored.data, scored.split)) as staged,
        staged.open("wb") as file,
    ):
        np.savez(file, facts=np.array(json.dumps(facts)), **{name: getattr(found, name) for name in ARRAYS})
    prune_cache(cache_dir, "row_scores-*.npz", num_kept=KEPT_FILES)


def _read(cache_dir: Path, model_dir: Path, data: TrainingData, split: Split) -> RowScores | None:
    path = _path(cache_dir, model_dir, data, split)
    if read_trained_model_info(model_dir).fingerprints != data.fingerprints:
        return None  # whether it may be scored at all is for `score_model` to say
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays, facts = {name: file[name] for name in ARRAYS}, json.loads(str(file["facts"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    mark_used(path)
    return RowScores(**facts, **arrays, fingerprint=data.sequences.metadata.fingerprint, split=split)


def _path(cache_dir: Path, model_dir: Path, data: TrainingData, split: Split) -> Path:
    info = read_trained_model_info(model_dir)
    architectures = sorted({info.architecture, *(member.architecture for member in info.members)})
    code = code_version(scoring.__name__, *(f"{ARCHITECTURES}.{name}" for name in architectures))
    identity = json.dumps([weights_fingerprint(model_dir), info.identity, info.mode, data.fingerprints, split, code])
    return cache_dir / f"row_scores-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npz"
