"""Time the first report on a large table, and measure its peak memory: every baseline fitted and ranked, nothing kept.

The table is made: articles of 6 to 90 concepts whose vectors have a topic, a drift and noise, in directions of falling
variance. The validation split holds about a ninth of them: 58,000 targets at 583,000 concepts. The model is a small
LSTM that was trained for a moment on a table of the same kind. Texts are not decoded.

    PYTHONPATH=. python benchmarks/evaluation.py --json
    PYTHONPATH=. python benchmarks/evaluation.py --concepts 40000 --concepts 150000     # what is not linear?
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from machine import in_words, peak_megabytes, start_peak
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import ConceptsMetadata, concepts_schema
from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.evaluation.evaluate import evaluate_model
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.trained_model import load_tensors, read_trained_model_info, save_trained_model
from lvm_pipeline_tests.synthetic import write_concepts

LARGE = 583_000  # concepts
SECONDS, GIGABYTES = 180, 4
TRAINED_ON = 3000  # concepts
ARTICLES_AT_ONCE = 400
VALIDATION_FRACTION = 0.112
COLUMNS = ("tmd_dense", "soft_negatives", "hard_negatives", "created_at", "domain", "task", "modifier")


def main() -> None:
    """Make the tables, write the report of each in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, action="append", help=f"Repeat; default: {LARGE}.")
    parser.add_argument("--width", type=int, default=768, help="Numbers of a vector.")
    parser.add_argument("--mode", choices=("articles", "windows"), default="articles", help="What the model reads.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="Keep the tables here for the next run.")
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    parser.add_argument("--report-on", type=Path, help=argparse.SUPPRESS)  # in the process of its own
    arguments = parser.parse_args()
    if arguments.report_on is not None:
        print(json.dumps(measured(arguments.report_on, num_threads=arguments.threads)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        for num in arguments.concepts or [LARGE]:
            folder = (arguments.folder or Path(made)) / f"{num}-{arguments.width}-{arguments.mode}"
            make_tables(folder, num, width=arguments.width, mode=arguments.mode)
            rows += rows_of(num, in_own_process(folder, num_threads=arguments.threads))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(in_words("cpu", num_threads=arguments.threads))
    for row in rows:
        print(f"{row['name']:52} {row['ours']:9.2f} {row['peer'] or '':>9}  {row['met']}")


def make_tables(folder: Path, num_concepts: int, *, width: int, mode: str) -> None:
    """Write concepts, sequences and a model, unless an earlier run did."""
    if (folder / "model").is_dir():
        return
    make_table(folder / "small", TRAINED_ON, width=width, seed=1)
    make_table(folder, num_concepts, width=width, seed=0)
    options = {"architecture": "lstm", "preset": "smoke", "mode": mode, "epochs": 1, "num_threads": 1}
    small, large = (load_training_data(*paths(each)) for each in (folder / "small", folder))
    trained = train(TrainingConfig(**options), small, output_dir=folder / "small" / "model")
    info = replace(read_trained_model_info(trained.path), fingerprints=large.fingerprints)
    save_trained_model(folder / "model", load_tensors(trained.path / "model.safetensors"), info)


def make_table(folder: Path, num_concepts: int, *, width: int, seed: int) -> None:
    """Write a concept table and its sequences; that no two concepts are alike is known and not searched for."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 91, 1 + num_concepts // 40)
    lengths = lengths[: 1 + int(np.searchsorted(np.cumsum(lengths), num_concepts))]
    metadata = ConceptsMetadata(
        fingerprint=f"{num_concepts}-{width}-{seed}".rjust(64, "0"),
        space_id="made",
        vector_dim=width,
        source="made",
        dataset_source="made",
        order_key="document_id, sequence_index",
        num_concepts=int(lengths.sum()),
        num_articles=len(lengths),
        num_source_rows=int(lengths.sum()),
        duplicates_policy="fail",
    )
    concepts = folder / "concepts.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    write_concepts(concepts, tables_of(lengths, width=width, rng=rng), metadata)
    write_no_links(folder / "links.json", concepts, metadata)
    options = SequenceOptions(validation_fraction=VALIDATION_FRACTION)
    build_sequences(concepts, folder / "sequences.parquet", options=options, links_path=folder / "links.json")


def write_no_links(path: Path, concepts: Path, metadata: ConceptsMetadata) -> None:
    """Write what a search for near-duplicates that finds none leaves for the next step."""
    from lvm_pipeline.sequences.near_duplicates import NearDuplicateLinks, save_links
    from lvm_pipeline.sequences.rows import read_concept_rows

    rows, none = read_concept_rows(concepts), np.zeros((0, 2), np.int64)
    links = NearDuplicateLinks(articles=none, rows=none, groups=np.arange(metadata.num_articles))
    save_links(path, links, key=rows.links_key)


def tables_of(lengths: NDArray[np.int64], *, width: int, rng: np.random.Generator) -> Iterator[pa.Table]:
    """Yield the concepts of some hundred articles at a time."""
    schema = concepts_schema(width)
    for begin in range(0, len(lengths), ARTICLES_AT_ONCE):
        part = lengths[begin : begin + ARTICLES_AT_ONCE]
        articles, num = np.repeat(np.arange(begin, begin + len(part)), part), int(part.sum())
        first = int(lengths[:begin].sum())
        flat = pa.array(vectors_of(part, width=width, rng=rng).ravel())
        columns = {
            "row": np.arange(first, first + num),
            "cpe_id": [f"c{row}" for row in range(first, first + num)],
            "article_id": [f"a{article:07}" for article in articles],
            "article_index": articles,
            "position": np.concatenate([np.arange(each) for each in part]),
            "concept_text": [f"Concept {row}." for row in range(first, first + num)],
            "vector": pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type),
            **{name: pa.nulls(num, schema.field(name).type) for name in COLUMNS},
        }
        yield pa.table(columns, schema=schema)


def vectors_of(lengths: NDArray[np.int64], *, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return unit vectors, (n, D): the topic of the article, a drift away from it, and noise of each concept."""
    num, articles = int(lengths.sum()), np.repeat(np.arange(len(lengths)), lengths)
    scale = (1 + np.arange(width, dtype=np.float32) / 20) ** -0.5
    topics, steps, noise = (rng.standard_normal((rows, width), np.float32) for rows in (len(lengths), num, num))
    drift = np.cumsum(steps, axis=0)
    firsts = np.cumsum(lengths) - lengths
    drift -= np.repeat(drift[firsts], lengths, axis=0)
    vectors = (0.4 + topics[articles] + 0.12 * drift + 0.9 * noise) * scale
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def paths(folder: Path) -> tuple[Path, Path, Path]:
    """Return concept table, sequence table and the folder of memory-mapped vectors."""
    return folder / "concepts.parquet", folder / "sequences.parquet", folder / "vectors"


def in_own_process(folder: Path, *, num_threads: int) -> dict[str, Any]:
    """Write the report in a process of its own, whose peak of memory is that of the report."""
    command = [sys.executable, "-W", "ignore", __file__, "--report-on", str(folder), "--threads", str(num_threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(folder: Path, *, num_threads: int) -> dict[str, Any]:
    """Evaluate the model with an empty cache; return seconds, processor seconds, gigabytes and a few figures."""
    from threadpoolctl import threadpool_limits

    load_training_data(*paths(folder))  # the vectors are mapped before
    read_columns(paths(folder)[0], ["article_id"])
    start_peak("cpu")  # of this process alone: a child's own figure would include its parent's
    started, spent = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as cache, threadpool_limits(num_threads):
        report = evaluate_model(
            folder / "model",
            *paths(folder)[:2],
            vectors_dir=folder / "vectors",
            device="cpu",
            num_threads=num_threads,
            cache_dir=Path(cache),
        )
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - spent,
        "gigabytes": peak_megabytes("cpu") / 1024,
        "targets": report.counts.targets,
        "pool": report.pool.size,
        "baselines": len(report.baselines),
        "mrr": {name: found.retrieval[report.pool.exclusion].mrr for name, found in report.baselines.items()},
    }


def rows_of(num_concepts: int, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table; a ratio above 1 is below the limit. Goals are for the large table."""
    is_judged = num_concepts >= LARGE
    facts = {name: found[name] for name in ("targets", "pool", "baselines", "mrr")}
    limits = {"seconds": SECONDS, "processor_seconds": None, "gigabytes": GIGABYTES}
    return [
        {
            "name": f"{name.replace('_', ' ')} of a report on {num_concepts:,} concepts",
            "ours": found[name],
            "peer": limit,
            "ratio": None if limit is None else limit / found[name],
            "goal": 1 if is_judged and limit is not None else None,
            "met": found[name] <= limit if is_judged and limit is not None else None,
            **facts,
        }
        for name, limit in limits.items()
    ]


if __name__ == "__main__":
    main()
