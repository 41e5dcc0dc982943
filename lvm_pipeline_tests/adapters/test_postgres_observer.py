"""The data version of the source tables changes when what is read from them does."""

import pytest

from lvm_pipeline.adapters.postgres_observer import observe
from lvm_pipeline.adapters.postgres_reader import PostgresReader
from lvm_pipeline_tests.adapters.source_tables import execute, good_rows, load

pytestmark = pytest.mark.postgres


def test_renamed_columns_are_another_data_version(database):
    load(database, [{**row, "domain_code": 1, "task_code": 2} for row in good_rows()])
    before = observe(PostgresReader(database))
    assert observe(PostgresReader(database)).data_version == before.data_version

    execute(
        database,
        "ALTER TABLE cpe_entry RENAME domain_code TO swapped",
        "ALTER TABLE cpe_entry RENAME task_code TO domain_code",
        "ALTER TABLE cpe_entry RENAME swapped TO task_code",
    )

    assert observe(PostgresReader(database)).data_version != before.data_version
