"""Train every architecture for a few epochs and compare the losses of each step with those of another version.

A change that only moves code must leave losses as they were. Each architecture trains with preset `smoke` and seed 0,
on windows and (where it is causal) on whole articles, on synthetic concepts that this script makes.

    PYTHONPATH=. python benchmarks/same_losses.py --record before.json           # keep the losses of this version
    PYTHONPATH=. python benchmarks/same_losses.py --compare before.json          # compare with them
    PYTHONPATH=. python benchmarks/same_losses.py --against ../other-checkout    # run both versions, compare speed too

`max_difference` is the largest absolute difference between two losses of the same step, 0 where they are equal bit for
bit. `speed` is the rate of this version divided by the other's, in targets per second. Rates of two separate runs say
little on a shared machine, so only `--against`, which takes turns and pairs the rounds, should be trusted for speed.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from lvm_pipeline.architectures._registry import architecture_names, load_architecture
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData, load_training_data
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.tracking import MetricSeries, Tracker
from lvm_pipeline_tests.synthetic import write_synthetic_concepts

NUM_ARTICLES, SHORTEST, LONGEST = 16, 4, 40
BATCH_SIZE = 64
LARGEST_DIFFERENCE = 1e-6


def main() -> int:
    """Record, compare, or answer requests of another process; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="Write the losses to this JSON file.")
    parser.add_argument("--compare", type=Path, help="Compare with a file written by --record.")
    parser.add_argument("--against", type=Path, help="Compare with the code of another checkout, in turns.")
    parser.add_argument("--only", default=",".join(architecture_names()), help="Architectures, between commas.")
    parser.add_argument("--rounds", type=int, default=3, help="Rounds of --against.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "auto"])
    parser.add_argument("--vector-dim", type=int, default=768)
    parser.add_argument("--json", action="store_true", help="Print the rows as JSON.")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments)
    rows = list(compared(arguments))
    if arguments.record is not None:
        arguments.record.write_text(json.dumps({row["name"]: row["ours"] for row in rows}, indent=1))
    print(json.dumps([without_losses(row) for row in rows], indent=2) if arguments.json else as_table(rows))
    return int(any(row.get("met") is False for row in rows))


def compared(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one row for each architecture and mode."""
    recorded = json.loads(arguments.compare.read_text()) if arguments.compare else {}
    other: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if arguments.against:
        other = Version(arguments.against, arguments)
    with Version(Path(__file__).parents[1], arguments) as ours, other as theirs:
        for architecture in arguments.only.split(","):
            for mode in ("windows", "articles") if load_architecture(architecture).causal else ("windows",):
                name = f"{architecture} {mode}"
                rounds = arguments.rounds if theirs else 1
                pairs = [
                    (ours.trained(architecture, mode), theirs.trained(architecture, mode) if theirs else None)
                    for _ in range(rounds)
                ]
                peers = [peer for _, peer in pairs if peer] or [found for found in [recorded.get(name)] if found]
                found = row(name, [own for own, _ in pairs], peers)
                if arguments.compare and not peers:
                    found |= {"met": False, "problem": f"{name} is not in {arguments.compare}"}
                yield found


def row(name: str, ours: list[dict[str, Any]], peers: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the runs of one architecture and mode."""
    found: dict[str, Any] = {"name": name, "ours": ours[0]}
    if peers:
        own, other = np.array(ours[0]["losses"]), np.array(peers[0]["losses"])
        difference = float(np.abs(own - other).max()) if own.shape == other.shape else float("inf")
        speeds = [own["rate"] / peer["rate"] for own, peer in zip(ours, peers, strict=False)]
        found |= {
            "max_difference": difference,
            "score_difference": abs(ours[0]["score"] - peers[0]["score"]),
            "speed": median(speeds),
            "speeds": speeds,
            "met": difference <= LARGEST_DIFFERENCE,
        }
    return found


def without_losses(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the number of steps in place of all losses."""
    return {**row, "ours": {**row["ours"], "losses": len(row["ours"]["losses"])}}


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [f"{'':24}{'steps':>6}{'last loss':>11}{'score':>9}{'difference':>12}{'speed':>7}"]
    for row in rows:
        own = row["ours"]
        line = f"{row['name']:24}{len(own['losses']):6}{own['losses'][-1]:11.6f}{own['score']:9.5f}"
        if "problem" in row:
            line += f"  {row['problem']}"
        elif "met" in row:
            line += f"{row['max_difference']:12.1e}{row['speed']:7.2f}"
        lines.append(line)
    return "\n".join(lines)


class Version:
    """A process that trains with the code of one checkout."""

    def __init__(self, checkout: Path, arguments: argparse.Namespace):
        """Start nothing yet."""
        options = ("epochs", "threads", "precision", "vector_dim")
        given = [part for name in options for part in (f"--{name.replace('_', '-')}", str(getattr(arguments, name)))]
        self.command = [sys.executable, str(Path(__file__).resolve()), "--serve", *given]
        self.checkout = checkout.resolve()

    def __enter__(self) -> "Version":
        """Start the process."""
        environment = {**os.environ, "PYTHONPATH": str(self.checkout)}
        self.process = subprocess.Popen(
            self.command, cwd=self.checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Let the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def trained(self, architecture: str, mode: str) -> dict[str, Any]:
        """Train once and return losses, score and rate."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{architecture} {mode}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"The code in {self.checkout} could not train {architecture} on {mode}; see above.")
        return json.loads(answer)


def serve(arguments: argparse.Namespace) -> int:
    """Train what each line of standard input names and answer with one line of JSON."""
    with tempfile.TemporaryDirectory(prefix="lvm-same-losses-") as folder:
        for line in sys.stdin:
            architecture, mode = line.split()
            config = TrainingConfig(
                architecture=architecture,
                preset="smoke",
                mode=mode,  # pyright: ignore[reportArgumentType]
                epochs=arguments.epochs,
                batch_size=BATCH_SIZE,
                patience=arguments.epochs,
                precision=arguments.precision,
                num_threads=arguments.threads,
                device="cpu",
            )
            data = synthetic_data(Path(folder), arguments.vector_dim)
            kept = KeptLosses()
            info = train(config, data, output_dir=Path(folder) / "model", tracker=kept).info
            rates = [epoch["targets_per_second"] for epoch in info.history[1:]]
            found = {"losses": kept.losses, "score": info.history[-1]["validation_cosine"], "rate": max(rates)}
            print(json.dumps(found), flush=True)
    return 0


@cache
def synthetic_data(folder: Path, vector_dim: int) -> TrainingData:
    """Make articles of different lengths, the same in every version, and open them."""
    lengths = np.random.default_rng(0).integers(SHORTEST, LONGEST, NUM_ARTICLES).tolist()
    concepts, sequences = folder / "concepts.parquet", folder / "sequences.parquet"
    write_synthetic_concepts(concepts, article_lengths=lengths, vector_dim=vector_dim, kind="random_walk")
    build_sequences(concepts, sequences, options=SequenceOptions())
    return load_training_data(concepts, sequences, folder / "vectors")


class KeptLosses(Tracker):
    """A tracker that keeps the loss of every step."""

    def __init__(self) -> None:
        """Start with no losses."""
        self.losses: list[float] = []

    def log_metrics(self, metrics: MetricSeries) -> None:
        """Keep the losses."""
        self.losses += [value for _, value in metrics.get("train_loss", [])]


if __name__ == "__main__":
    sys.exit(main())
