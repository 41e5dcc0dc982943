"""How often `vectors_go_with_their_texts` alarms, without a fault and with one, and how long it takes.

Data: Parquet files with `article_id`, `concept_text` and `vector`, rows of an article together; without any, made
texts whose vectors are sums of word vectors. Each trial draws whole articles at random. Faults are put into the
vectors of a trial: another space is a random rotation, which keeps width, lengths and all cosines.

    python benchmarks/text_match.py --data concepts.parquet
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import in_words
from numpy.typing import NDArray

from lvm_pipeline.concepts.sample import sample_of
from lvm_pipeline.concepts.text_match import Fault, match_texts
from lvm_pipeline_tests.worded import rotated, worded_table

FALSE_ALARM_GOAL = 0.01
FOUND_GOAL = 0.95
SECONDS_GOAL = 10.0
TIMED_CONCEPTS = 42_113
Harm = Callable[[NDArray[np.float32], NDArray[np.int64], np.random.Generator], NDArray[np.float32]]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="Parquet files of concepts.")
    parser.add_argument("--resamples", type=int, default=200, help="Trials without a fault, for each file.")
    parser.add_argument("--injections", type=int, default=20, help="Trials of each fault, for each file.")
    parser.add_argument("--articles", type=int, default=250, help="Largest number of articles of a trial.")
    parser.add_argument("--rows", type=int, default=TIMED_CONCEPTS, help="Concepts that are timed; 0 times none.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    rows: list[dict[str, Any]] = []
    for name, table in tables_of(arguments.data).items():
        rows.append(false_alarms(name, table, rng, num=arguments.resamples, max_articles=arguments.articles))
        rows += [
            found(f"{name}: {fault}", table, harm, rng, num=arguments.injections, max_articles=arguments.articles)
            for fault, harm in FAULTS.items()
        ]
        if arguments.rows:
            rows.append(timed(name, table, num_rows=arguments.rows))
    print(json.dumps(rows, indent=2) if arguments.json else as_table(rows))


def tables_of(paths: list[Path]) -> dict[str, pa.Table]:
    """Read the files, or make a table."""
    if not paths:
        return {"made": worded_table(np.random.default_rng(0).integers(6, 40, 120).tolist())}
    columns = ["article_id", "concept_text", "vector"]
    return {f"{path.parent.parent.name}/{path.stem}": pq.read_table(path, columns=columns) for path in paths}


def drawn(
    table: pa.Table, rng: np.random.Generator, *, max_articles: int
) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.float32]]:
    """Draw whole articles: texts, article of each concept, vectors."""
    codes = table["article_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    num_articles = int(codes.max()) + 1
    size = rng.integers(min(20, num_articles), min(max_articles, num_articles) + 1)
    rows = np.flatnonzero(np.isin(codes, rng.permutation(num_articles)[:size]))
    some = table.take(pa.array(rows))
    articles = np.unique(codes[rows], return_inverse=True)[1]
    return some["concept_text"].combine_chunks(), articles, full_precision(some)


def full_precision(table: pa.Table) -> NDArray[np.float32]:
    """Return the vectors of some rows as float32."""
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.float32).reshape(table.num_rows, -1)


def fault_of(texts: pa.Array, articles: NDArray[np.int64], vectors: NDArray[np.float32]) -> Fault:
    """Return what the check finds."""
    return match_texts(sample_of(texts, articles, vectors)).fault


def false_alarms(
    name: str, table: pa.Table, rng: np.random.Generator, *, num: int, max_articles: int
) -> dict[str, Any]:
    """Count the alarms on unharmed articles."""
    alarms = [fault_of(*drawn(table, rng, max_articles=max_articles)) is not Fault.NONE for _ in range(num)]
    rate = float(np.mean(alarms))
    ratio = FALSE_ALARM_GOAL / max(rate, 1 / num)  # none counts as one
    return row_of(
        f"{name}: false alarms", rate, FALSE_ALARM_GOAL, ratio, met=rate <= FALSE_ALARM_GOAL, unit=f"of {num}"
    )


def found(
    name: str, table: pa.Table, harm: Harm, rng: np.random.Generator, *, num: int, max_articles: int
) -> dict[str, Any]:
    """Count how often a fault is found."""
    alarms = []
    for _ in range(num):
        texts, articles, vectors = drawn(table, rng, max_articles=max_articles)
        alarms.append(fault_of(texts, articles, harm(vectors, articles, rng)) is not Fault.NONE)
    rate = float(np.mean(alarms))
    return row_of(f"{name} found", rate, FOUND_GOAL, rate / FOUND_GOAL, met=rate >= FOUND_GOAL, unit=f"of {num}")


def timed(name: str, table: pa.Table, *, num_rows: int) -> dict[str, Any]:
    """Time the check on a table of so many concepts; articles are repeated until there are enough."""
    codes = table["article_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    copies = -(-num_rows // len(codes))
    articles = np.concatenate([codes + copy * (codes.max() + 1) for copy in range(copies)])[:num_rows]
    texts = pa.concat_arrays([table["concept_text"].combine_chunks()] * copies)[:num_rows]
    vectors = np.concatenate([full_precision(table)] * copies)[:num_rows]
    started, started_cpu = time.perf_counter(), time.process_time()
    fault_of(texts, articles, vectors)
    seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    unit = f"seconds for {num_rows} concepts, {cpu:.1f} of processor time; {in_words('cpu', num_threads=1)}"
    ratio = SECONDS_GOAL / seconds
    return row_of(f"{name}: seconds", seconds, SECONDS_GOAL, ratio, met=seconds <= SECONDS_GOAL, unit=unit)


def row_of(name: str, ours: float, limit: float, ratio: float, *, met: bool, unit: str) -> dict[str, Any]:
    """Return one line of the table; a ratio above 1 is on the right side of the limit."""
    return {"name": name, "ours": ours, "peer": limit, "ratio": ratio, "goal": 1.0, "met": met, "unit": unit}


def of_articles(share: float, change: Harm) -> Harm:
    """Put a fault into the vectors of some articles, of at least one."""

    def harm(
        vectors: NDArray[np.float32], articles: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        order = rng.permutation(articles[-1] + 1)
        is_harmed = (order < max(1, round(share * len(order))))[articles]
        harmed = vectors.copy()
        harmed[is_harmed] = change(vectors[is_harmed], articles[is_harmed], rng)
        return harmed

    return harm


def of_rows(share: float, change: Harm) -> Harm:
    """Put a fault into the vectors of some concepts."""

    def harm(
        vectors: NDArray[np.float32], articles: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        is_harmed = rng.random(len(vectors)) < share
        harmed = vectors.copy()
        harmed[is_harmed] = change(vectors[is_harmed], articles[is_harmed], rng)
        return harmed

    return harm


def other_space(vectors: NDArray[np.float32], _: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Rotate all vectors."""
    return rotated(vectors, seed=int(rng.integers(1000)))


def shuffled(vectors: NDArray[np.float32], _: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Put vectors into a random order."""
    return vectors[rng.permutation(len(vectors))]


FAULTS: dict[str, Harm] = {
    "a third of the articles of another space": of_articles(1 / 3, other_space),
    "half of the articles of another space": of_articles(1 / 2, other_space),
    "a tenth of the articles of another space": of_articles(1 / 10, other_space),
    "one article of another space": of_articles(0, other_space),
    "a twentieth of the concepts of another space": of_rows(1 / 20, other_space),
    "a tenth of the concepts of another space": of_rows(1 / 10, other_space),
    "a fifth of the concepts of another space": of_rows(1 / 5, other_space),
    "half of the concepts of another space": of_rows(1 / 2, other_space),
    "a third of the concepts shuffled": of_rows(1 / 3, shuffled),
    "shifted by one": lambda vectors, articles, rng: np.roll(vectors, 1, axis=0),
    "a tenth of the articles shuffled": of_articles(1 / 10, shuffled),
    "all shuffled": shuffled,
}


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [f"{'name':72} {'ours':>7} {'goal':>6}  met"]
    lines += [
        f"{r['name']:72} {r['ours']:7.3f} {r['goal']:6.2f}  {'yes' if r['met'] else 'NO'}  ({r['unit']})" for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
