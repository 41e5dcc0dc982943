"""Diagnose the environment of the pipeline, with a fix for each problem. Nothing is changed.

Heavy imports (torch, Dagster, MLflow) happen inside the functions that need them.
"""

from collections.abc import Iterator

from lvm_pipeline.adapters import embedded_postgres, service_guard
from lvm_pipeline.doctor.diagnosis import Diagnosis, State
from lvm_pipeline.doctor.environment import examine_environment
from lvm_pipeline.doctor.services import examine_services
from lvm_pipeline.doctor.source import examine_source
from lvm_pipeline.doctor.storage import ELSEWHERE, HOME, examine_storage
from lvm_pipeline.doctor.variables import examine_agreement, examine_names, read_settings
from lvm_pipeline.errors import LvmError


def examine() -> Iterator[Diagnosis]:
    """Yield all diagnoses.

    If the built-in Postgres is not running, it is started and stopped again. If the settings are invalid, or LVM_HOME
    cannot be read, only checks that do not need them are made.
    """
    settings, diagnosis = read_settings()
    yield from examine_environment(settings)
    yield diagnosis
    yield from examine_names()
    if settings is None:
        return
    yield from examine_agreement(settings)
    try:
        was_running = embedded_postgres.status(settings.postgres_dir).is_running
    except LvmError as error:  # LVM_HOME cannot be read
        yield HOME.refused(error, fix=ELSEWHERE)
        return
    try:
        yield from examine_source(settings)
        yield from examine_storage(settings)
        yield from examine_services(settings)
    finally:
        if not was_running:
            service_guard.stop_unless_used(settings.postgres_dir)
