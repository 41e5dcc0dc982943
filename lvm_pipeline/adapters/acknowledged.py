"""Failing checks that a person has acknowledged: no alert about them until they get worse."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from lvm_pipeline import files
from lvm_pipeline.adapters.messages.failing import Failure
from lvm_pipeline.settings import Settings


def read_acknowledged(settings: Settings) -> dict[str, Failure]:
    """Return what was acknowledged, by the name of the check (`concepts:tmd_codes_are_assigned`)."""
    path = _path(settings)
    if not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    return {state: Failure(**failure) for state, failure in values.items()}


def write_acknowledged(settings: Settings, acknowledged: Mapping[str, Failure]) -> None:
    files.write_json(_path(settings), {state: asdict(failure) for state, failure in acknowledged.items()})


def _path(settings: Settings) -> Path:
    return settings.dagster_dir / "acknowledged_alerts.json"
