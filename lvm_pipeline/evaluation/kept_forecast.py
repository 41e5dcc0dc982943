"""The linear forecast of a set of targets, fitted once and kept beside the scores of the baselines."""

import hashlib
import json
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from lvm_pipeline.files import mark_used, prune_cache, staged_file
from lvm_pipeline.measures.linear_forecast import LinearForecast, fit_linear_forecast
from lvm_pipeline.measures.targets import Targets
from lvm_pipeline.training.provenance import code_version

KEPT_FILES = 4


def kept_forecast(targets: Targets, *, fingerprint: str, cache_dir: Path | None) -> LinearForecast:
    """Fit the linear forecast on the train targets, or read what an earlier call kept in `cache_dir`, if given.

    `fingerprint` is that of the sequence table, which covers the concepts.
    """
    if cache_dir is None:
        return _fitted(targets)
    identity = json.dumps([fingerprint, targets.context_mode, targets.context_length, code_version()])
    path = cache_dir / f"linear-forecast-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npz"
    forecast = _read(path)
    if forecast is None:
        forecast = _fitted(targets)
        with staged_file(path) as staged, staged.open("wb") as file:
            np.savez(file, **vars(forecast))
    mark_used(path)
    prune_cache(cache_dir, "linear-forecast-*.npz", num_kept=KEPT_FILES)
    return forecast


def _fitted(targets: Targets) -> LinearForecast:
    train = targets.train
    return fit_linear_forecast(
        targets.vectors,
        train_rows=targets.train_rows,
        first_rows=train.first_rows,
        target_rows=train.target_rows,
        articles=train.articles,
    )


def _read(path: Path) -> LinearForecast | None:
    """Return what was kept; None where there is no file, or it is not whole."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {each.name: file[each.name] for each in fields(LinearForecast)}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    arrays["inputs"], arrays["penalties"] = tuple(arrays["inputs"].tolist()), tuple(arrays["penalties"].tolist())
    return LinearForecast(**arrays)
