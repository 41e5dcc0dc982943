"""Failing checks that a person has acknowledged: no alert about them until they get worse."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from lvm_pipeline import files
from lvm_pipeline.adapters.messages.failing import Failure
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings


def read_acknowledged(settings: Settings) -> dict[str, Failure]:
    """Return what was acknowledged, by the name of the check (`concepts:tmd_codes_are_assigned`).

    Raises:
        LvmError: If the file is damaged.
    """
    path, remedy = _path(settings), "delete it and acknowledge again with `lvm alerts ack`."
    values = files.read_json(path, remedy=remedy)
    try:
        return {state: Failure(**failure) for state, failure in values.items()}
    except TypeError as error:
        raise LvmError(f"{path} cannot be read ({error}); {remedy}") from None


def write_acknowledged(settings: Settings, acknowledged: Mapping[str, Failure]) -> None:
    files.write_json(_path(settings), {state: asdict(failure) for state, failure in acknowledged.items()})


def _path(settings: Settings) -> Path:
    return settings.dagster_dir / "acknowledged_alerts.json"
