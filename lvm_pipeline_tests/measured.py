"""Run a script of `benchmarks/` and read its rows."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NEEDED = {"name", "ours", "peer", "ratio", "goal", "met"}


def rows_of(script, *arguments):
    """The rows that a script prints, by name."""
    return {row["name"]: row for row in rows_in(script, *arguments)}


def rows_in(script, *arguments):
    """The rows that a script prints, in order."""
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / script), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert rows, done.stderr
    for row in rows:
        assert row.keys() >= NEEDED, row
    return rows
