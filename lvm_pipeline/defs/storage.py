"""Dagster's storage: the Postgres of DAGSTER_POSTGRES_URL, or else of LVM_DAGSTER_DATABASE_URL.

`dagster.yaml` names this class, so that Dagster's own commands (`dagster asset materialize`, `dagster dev`) work in any
shell: without either variable, the built-in Postgres of LVM_HOME is started.
"""

import os
from typing import Any

from dagster_postgres import DagsterPostgresStorage

from lvm_pipeline.adapters import databases
from lvm_pipeline.settings import load_settings

VARIABLE = "DAGSTER_POSTGRES_URL"


class LvmStorage(DagsterPostgresStorage):
    """Dagster's Postgres storage, which finds its URL itself."""

    @classmethod
    def config_type(cls) -> Any:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> DagsterPostgresStorage:
        url = os.environ.get(VARIABLE) or databases.dagster_url(load_settings())
        return cls(postgres_url=url, inst_data=inst_data)
