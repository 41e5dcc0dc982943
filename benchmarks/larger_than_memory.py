"""Train on vectors that do not fit into memory, and compare speed and losses with a run that has all in memory.

Both runs train the LSTM `small` on whole articles from the same memory-mapped file, each in a process of its own. The
limit is that of a memory cgroup (version 1 or 2), which counts everything: what the process allocates, and the pages of
the file that it has read. The file is dropped from the page cache before the limited run, so that it is read from disk.
`--plain` adds a limited run without `read_ahead`, which reads by page faults alone.

    sudo python benchmarks/larger_than_memory.py --json        # needs the right to make a cgroup

Losses must be equal bit for bit; the exit code is 1 if they are not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

SPEED_GOAL = 0.7
VECTOR_DIM = 768
ARTICLE_CONCEPTS = 37
BLOCK_ARTICLES = 256
CGROUPS = Path("/sys/fs/cgroup")


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=240_000, help="3 kB each; must be more than the limit.")
    parser.add_argument(
        "--limit-mb", type=int, default=700, help="Limit of memory, of which a training needs about 560 MB; 0: none."
    )
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="Also measure without reading ahead.")
    parser.add_argument("--folder", type=Path, help="Where the file is written; a disk, not a memory file system.")
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        train_child(json.loads(arguments.child))
        return
    rows, are_equal = compare(arguments)
    print(json.dumps(rows, indent=2) if arguments.json else as_table(rows))
    sys.exit(not are_equal)


def compare(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """Run all in turn; return the rows, and whether the losses are equal."""
    with tempfile.TemporaryDirectory(prefix="lvm-benchmark-", dir=arguments.folder) as name:
        path = Path(name) / "vectors.npy"
        write_vectors(path, arguments.concepts)
        options = {"path": str(path), **{each: getattr(arguments, each) for each in ("epochs", "preset", "threads")}}
        resident = run_child(options)
        limited = run_child(options, limit_mb=arguments.limit_mb or None)
        plain = run_child({**options, "is_plain": True}, limit_mb=arguments.limit_mb) if arguments.plain else None
        size_mb = path.stat().st_size / 1e6
    are_equal = limited["losses"] == resident["losses"]
    name = f"{size_mb:,.0f} MB of vectors in {arguments.limit_mb} MB"
    rows = [row(name, limited, resident, goal=SPEED_GOAL, are_equal=are_equal)]
    if plain is not None:
        is_same = plain["losses"] == resident["losses"]
        rows.append(row(f"{name}, by page faults", plain, resident, goal=None, are_equal=is_same))
    return rows, are_equal


def row(
    name: str, limited: dict[str, Any], resident: dict[str, Any], *, goal: float | None, are_equal: bool
) -> dict[str, Any]:
    """One line of the table, in targets per second."""
    ratio = limited["rate"] / resident["rate"]
    return {
        **{"name": name, "ours": limited["rate"], "peer": resident["rate"], "ratio": ratio, "goal": goal},
        "met": None if goal is None else ratio >= goal and are_equal,
        **{"unit": "targets per second", "losses_are_equal": are_equal, "peak_mb": limited["peak_mb"]},
    }


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [f"{'name':54} {'ours':>9} {'resident':>9} {'ratio':>6} {'goal':>5}  met  losses"]
    lines += [
        f"{r['name']:54} {r['ours']:9.0f} {r['peer']:9.0f} {r['ratio']:6.2f} {r['goal'] or '':>5}  "
        f"{ {True: 'yes', False: 'NO ', None: '   '}[r['met']] }  {'equal' if r['losses_are_equal'] else 'DIFFER'}"
        for r in rows
    ]
    return "\n".join(lines)


def write_vectors(path: Path, num_concepts: int) -> None:
    """Write unit vectors, those of one article near each other, block by block."""
    rng = np.random.default_rng(0)
    num_articles = num_concepts // ARTICLE_CONCEPTS
    shape = (num_articles * ARTICLE_CONCEPTS, VECTOR_DIM)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for start in range(0, num_articles, BLOCK_ARTICLES):
            num = min(BLOCK_ARTICLES, num_articles - start)
            topics = rng.standard_normal((num, 1, VECTOR_DIM), dtype=np.float32)
            block = topics + rng.standard_normal((num, ARTICLE_CONCEPTS, VECTOR_DIM), dtype=np.float32)
            file.write((block / np.linalg.norm(block, axis=2, keepdims=True)).tobytes())


def run_child(options: dict[str, Any], *, limit_mb: int | None = None) -> dict[str, Any]:
    """Train in a process of its own, with all vectors in the page cache, or with none and a limit of memory."""
    with limited_memory(limit_mb) if limit_mb else nullcontext() as cgroup:
        prepare_cache(Path(options["path"]), is_kept=cgroup is None)
        task = json.dumps({**options, "cgroup": None if cgroup is None else str(cgroup)})
        command = [sys.executable, "-W", "ignore", __file__, "--child", task]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"The training failed ({done.returncode}; -9: out of memory):\n{done.stderr}")
        return {**json.loads(done.stdout), "peak_mb": None if cgroup is None else peak_megabytes(cgroup)}


def prepare_cache(path: Path, *, is_kept: bool) -> None:
    """Read the whole file into the page cache, or drop it from there."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while is_kept and file.read(1 << 24):
            pass
        if not is_kept:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def limited_memory(limit_mb: int) -> Iterator[Path]:
    """Make a memory cgroup with a limit."""
    is_first_version = (CGROUPS / "memory").is_dir()
    folder = (CGROUPS / "memory" if is_first_version else CGROUPS) / f"lvm-benchmark-{os.getpid()}"
    folder.mkdir()
    try:
        limit = folder / ("memory.limit_in_bytes" if is_first_version else "memory.max")
        limit.write_text(str(limit_mb << 20), encoding="ascii")
        yield folder
    finally:
        folder.rmdir()


def peak_megabytes(cgroup: Path) -> float:
    """Return the most memory that the cgroup has used."""
    paths = (cgroup / name for name in ("memory.max_usage_in_bytes", "memory.peak"))
    return next(int(path.read_text(encoding="ascii")) / (1 << 20) for path in paths if path.exists())


def train_child(task: dict[str, Any]) -> None:
    """Join the cgroup, train, and print rate and losses."""
    if task["cgroup"] is not None:
        (Path(task["cgroup"]) / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    from training import training_data

    from lvm_pipeline.training import batches, loop
    from lvm_pipeline.training.config import TrainingConfig
    from lvm_pipeline.training.tracking import Tracker

    if task.get("is_plain"):
        loop.read_ahead = batches.read_ahead = lambda _, spans: iter(spans)  # pyright: ignore[reportAttributeAccessIssue]
        loop.read_in_any_order = nullcontext  # pyright: ignore[reportAttributeAccessIssue]
    vectors = np.lib.format.open_memmap(task["path"], mode="r")
    data = training_data(np.arange(len(vectors)) // ARTICLE_CONCEPTS, vectors)
    config = TrainingConfig(
        **{"architecture": "lstm", "preset": task["preset"], "mode": "articles", "device": "cpu"},
        **{"epochs": task["epochs"], "num_threads": task["threads"], "checkpoint_seconds": 1e9},
    )
    with tempfile.TemporaryDirectory(prefix="lvm-benchmark-") as folder:
        info = loop.train(config, data, output_dir=Path(folder) / "model", tracker=Tracker()).info
    losses = [
        {name: value for name, value in epoch.items() if "loss" in name or "cosine" in name} for epoch in info.history
    ]
    print(json.dumps({"rate": max(epoch["targets_per_second"] for epoch in info.history[1:]), "losses": losses}))


if __name__ == "__main__":
    main()
