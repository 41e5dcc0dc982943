import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def rows_of(script, *arguments):
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / script), "--json", "--repeats", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


@pytest.mark.slow
@pytest.mark.postgres
def test_extraction_is_measured_against_pandas_on_the_same_rows():
    rows = rows_of("extraction.py", "--rows", "300")

    assert rows["pandas"]["goal"] == 5
    assert rows["peak memory under 600 MB"]["peer"] == 600
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
        assert row["met"] == (row["ratio"] >= row["goal"])


def test_the_measured_encoding_is_the_one_that_is_used():
    rows = rows_of("parquet_encodings.py", "--rows", "64")

    assert rows["MB: plain, uncompressed"]["met"]
