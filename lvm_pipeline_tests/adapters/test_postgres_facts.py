"""Facts about a server, for `lvm doctor`."""

import pytest

from lvm_pipeline.adapters import postgres_facts
from lvm_pipeline_tests.adapters.source_tables import execute

pytestmark = pytest.mark.postgres
FILLED = "INSERT INTO {} SELECT number, repeat('text', 100) FROM generate_series(1, 2000) AS number"


def test_the_size_of_a_partitioned_table_is_that_of_its_partitions(database):
    execute(
        database,
        "CREATE TABLE plain (id int, words text)",
        "CREATE TABLE parted (id int, words text) PARTITION BY RANGE (id)",
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (1000)",
        "CREATE TABLE parted_2 PARTITION OF parted DEFAULT",
        "CREATE VIEW seen AS SELECT * FROM plain",
        FILLED.format("plain"),
        FILLED.format("parted"),
    )

    plain, parted, both = (
        postgres_facts.size_bytes(database, names) for names in (["plain"], ["parted"], ["plain", "parted"])
    )

    assert plain > 500_000
    assert parted == pytest.approx(plain, rel=0.2)
    assert both == plain + parted
    assert postgres_facts.size_bytes(database, ["seen", "missing"]) == 0
