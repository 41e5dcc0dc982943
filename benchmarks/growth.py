"""Check the cost model of docs/scaling.md: what a small table predicts for a large one, beside what is measured on it.

Storage, an epoch of training and a report are expected to grow as the number of concepts, and the search for
near-duplicates as its power of 1.5. A ratio above 1 says that the large table costs less than predicted. The tables are
those of `evaluation.py`. Extraction needs a Postgres and has its own check, `extraction.py --scale`.

    PYTHONPATH=. python benchmarks/growth.py --sizes 100000 1000000 --json     # about a quarter of an hour
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import in_own_process, make_tables, paths
from machine import in_words, peak_megabytes, start_peak

from lvm_pipeline.sequences.rows import read_concept_rows
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline.training.loop import train

SIZES = (20_000, 100_000)
LEAST_RATIO = 0.8  # a large table may cost a quarter more than predicted


@dataclass(frozen=True)
class Stage:
    """A figure of one table, and the power of the number of concepts with which it is expected to grow."""

    name: str
    figure: str
    power: float = 1.0
    goal: float | None = LEAST_RATIO


STAGES = (
    Stage("MB of a concept table", "table_megabytes"),
    Stage("processor s of a search for near-duplicates", "search_seconds", power=1.5),
    Stage("s of an epoch", "epoch_seconds"),
    Stage("processor s of a report", "report_seconds"),
    Stage("GB of memory for a report", "report_gigabytes"),
    Stage("GB of memory for an epoch", "epoch_gigabytes"),
)


def main() -> None:
    """Measure both sizes, each stage in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=2, default=SIZES, metavar=("SMALL", "LARGE"), help="Concepts.")
    parser.add_argument("--width", type=int, default=768, help="Numbers of a vector.")
    parser.add_argument("--preset", default="small", help="Of the LSTM that is trained for an epoch.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="Keep the tables here for the next run.")
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    parser.add_argument("--stage", choices=("search", "epoch"), help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.stage is not None:
        found = searched(arguments.folder) if arguments.stage == "search" else trained(arguments)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or Path(made)
        num_small, num_large = arguments.sizes
        small, large = (measured(folder / str(size), size, arguments) for size in (num_small, num_large))
    rows = rows_of(num_small, num_large, small, large)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(in_words("cpu", num_threads=arguments.threads))
    for row in rows:
        print(f"{row['name']:58} {row['ours']:9.2f} {row['peer']:9.2f} {row['ratio']:6.2f}  {row['met']}")


def measured(folder: Path, num_concepts: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Return every figure of a table of this size."""
    make_tables(folder, num_concepts, width=arguments.width, mode="articles")
    report = in_own_process(folder, num_threads=arguments.threads)
    return {
        "table_megabytes": paths(folder)[0].stat().st_size / 1e6,
        "report_seconds": report["processor_seconds"],
        "report_gigabytes": report["gigabytes"],
        **by_own_process("search", folder, arguments),
        **by_own_process("epoch", folder, arguments),
    }


def by_own_process(stage: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure a stage in a process of its own, so that its peak of memory is its own."""
    options = ["--folder", str(folder), "--threads", str(arguments.threads), "--preset", arguments.preset]
    command = [sys.executable, "-W", "ignore", __file__, "--stage", stage, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def searched(folder: Path) -> dict[str, float]:
    """Search the table for near-duplicates; return processor seconds, reading included."""
    started = time.process_time()
    assert read_concept_rows(paths(folder)[0]).near_duplicates is not None
    return {"search_seconds": time.process_time() - started}


def trained(arguments: argparse.Namespace) -> dict[str, float]:
    """Train for an epoch; return its seconds without validation, and the peak of memory."""
    data = load_training_data(*paths(arguments.folder))
    options = {"architecture": "lstm", "preset": arguments.preset, "mode": "articles", "epochs": 1, "device": "cpu"}
    config = TrainingConfig(**options, num_threads=arguments.threads)
    start_peak("cpu")
    with tempfile.TemporaryDirectory() as folder:
        info = train(config, data, output_dir=Path(folder) / "model").info
    num_targets = int(data.article_spans("train").num_targets.sum())
    return {
        "epoch_seconds": num_targets / info.history[-1]["targets_per_second"],
        "epoch_gigabytes": peak_megabytes("cpu") / 1024,
    }


def rows_of(num_small: int, num_large: int, small: dict[str, float], large: dict[str, float]) -> list[dict[str, Any]]:
    """Return the rows of the table; the peer is what the small table predicts for the large one."""
    rows = []
    for stage in STAGES:
        predicted = small[stage.figure] * (num_large / num_small) ** stage.power
        ratio = predicted / large[stage.figure]
        rows.append(
            {
                "name": f"{stage.name}, {num_small:,} to {num_large:,} concepts",
                "ours": large[stage.figure],
                "peer": predicted,
                "ratio": ratio,
                "goal": stage.goal,
                "met": None if stage.goal is None else ratio >= stage.goal,
                "small": small[stage.figure],
            }
        )
    return rows


if __name__ == "__main__":
    main()
