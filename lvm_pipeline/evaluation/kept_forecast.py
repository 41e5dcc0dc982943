"""The linear forecast of a set of targets, fitted once and kept beside the scores of the baselines."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from lvm_pipeline.evaluation.kept import kept_or_made
from lvm_pipeline.measures.baselines import fitted_forecast
from lvm_pipeline.measures.linear_forecast import LinearForecast
from lvm_pipeline.measures.targets import Targets
from lvm_pipeline.training.provenance import code_version

KEPT_FILES = 4


def kept_forecast(targets: Targets, *, fingerprint: str, cache_dir: Path | None) -> LinearForecast:
    """Fit the linear forecast on the train targets, or read what an earlier call kept in `cache_dir`, if given.

    `fingerprint` is that of the sequence table, which covers the concepts.
    """
    return kept_or_made(
        cache_dir,
        "linear-forecast",
        [fingerprint, targets.context_mode, targets.context_length, code_version(__name__)],
        make=lambda: fitted_forecast(targets),
        pack=lambda forecast: (vars(forecast), None),
        unpack=_unpacked,
        num_kept=KEPT_FILES,
    )


def _unpacked(file: Mapping[str, Any], _facts: Any) -> LinearForecast:
    arrays = {each.name: file[each.name] for each in fields(LinearForecast)}
    arrays["inputs"], arrays["penalties"] = tuple(arrays["inputs"].tolist()), tuple(arrays["penalties"].tolist())
    return LinearForecast(**arrays)
