"""Cached fits of the baselines on the train targets.

The validation and the test split, and several kinds of reports, use the same fits.

Shapes: K = lags * D, D = vector width.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from lvm_pipeline.evaluation.kept import kept_or_made
from lvm_pipeline.measures.baselines import fitted_forecast, fitted_ridges
from lvm_pipeline.measures.linear_forecast import LinearForecast
from lvm_pipeline.measures.ridge import AffineMap
from lvm_pipeline.measures.targets import Targets
from lvm_pipeline.training.provenance import code_version

KEPT_FORECASTS = 4
KEPT_RIDGES = 2  # two maps (K, D) each: 24 MB at five lags of 768 numbers


def kept_forecast(targets: Targets, *, fingerprint: str, cache_dir: Path | None) -> LinearForecast:
    """Fit the linear forecast on the train targets, or read what an earlier call cached in `cache_dir`, if given.

    `fingerprint` is that of the sequence table, which covers the concepts.
    """
    return kept_or_made(
        cache_dir,
        "linear-forecast",
        [fingerprint, targets.context_mode, targets.context_length, code_version(__name__)],
        make=lambda: fitted_forecast(targets),
        pack=lambda forecast: (vars(forecast), None),
        unpack=_forecast,
        num_kept=KEPT_FORECASTS,
    )


def kept_ridges(targets: Targets, *, fingerprint: str, cache_dir: Path | None) -> dict[str, AffineMap]:
    """Fit the ridge regressions on the train targets, or read what an earlier call cached in `cache_dir`, if given.

    Their targets may be the same in both context modes; then both share one file.
    """
    rows = hashlib.sha256(np.ascontiguousarray(targets.train.target_rows, dtype="<i8").tobytes()).hexdigest()
    return kept_or_made(
        cache_dir,
        "ridges",
        [fingerprint, rows, targets.context_length, code_version(__name__)],
        make=lambda: fitted_ridges(targets),
        pack=lambda ridges: (
            {f"{name}/{part}": value for name, found in ridges.items() for part, value in vars(found).items()},
            list(ridges),
        ),
        unpack=lambda file, names: {
            name: AffineMap(
                coefficients=file[f"{name}/coefficients"],
                intercept=file[f"{name}/intercept"],
                penalty=float(file[f"{name}/penalty"]),
            )
            for name in names
        },
        num_kept=KEPT_RIDGES,
    )


def _forecast(file: Mapping[str, Any], _facts: Any) -> LinearForecast:
    arrays = {each.name: file[each.name] for each in fields(LinearForecast)}
    arrays["inputs"], arrays["penalties"] = tuple(arrays["inputs"].tolist()), tuple(arrays["penalties"].tolist())
    return LinearForecast(**arrays)
