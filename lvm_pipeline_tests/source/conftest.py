"""A table in memory, and files loaded into it."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.settings import Settings
from lvm_pipeline.source.load import ingest
from lvm_pipeline_tests.source.memory_table import MemoryTable


@pytest.fixture
def table():
    return MemoryTable()


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


@pytest.fixture
def load(tmp_path, table, settings):
    """Write lines to a JSONL file, or rows to a Parquet file, and ingest it."""

    def run(content, **options):
        if isinstance(content, pa.Table):
            path = tmp_path / "given.parquet"
            pq.write_table(content, path)
        else:
            path = tmp_path / "given.jsonl"
            lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in content]
            path.write_bytes(b"\n".join(lines) + b"\n")
        return ingest(path, table, settings=settings, **options)

    return run
