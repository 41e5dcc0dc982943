"""Time the search for near-duplicates across articles against scikit-learn's brute-force neighbours, in one run.

Both look for pairs of concepts at cosine 0.99 or above; the near-duplicates that were put in must be found by both.

    python benchmarks/near_duplicates.py --json
    python benchmarks/near_duplicates.py --data concepts.parquet      # vectors and texts of a file beside the made ones
"""

import argparse
import json
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

from lvm_pipeline.sequences.near_duplicates import MIN_COSINE, find_near_duplicates

SECONDS_FOR_TEN_THOUSAND = 1.0
MEGABYTES_FOR_TEN_THOUSAND = 10.0  # beside the vectors: a hundred float32 a concept, and the tiles
TILE_MEGABYTES = 64.0
WIDTH = 768
ARTICLE_CONCEPTS = 37
MADE = "made"
NUM_COPIED = 20  # articles of the made concepts of which one concept is nearly repeated elsewhere


@dataclass(frozen=True)
class Concepts:
    """What is searched: vectors (N, D), texts and articles."""

    name: str
    vectors: NDArray[np.float32]
    texts: list[str]
    articles: NDArray[np.int64]


def main() -> None:
    """Search made concepts, and those of a file, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="Concepts to make.")
    parser.add_argument("--data", type=Path, help="Parquet with article_id, concept_text and vector.")
    parser.add_argument("--repeats", type=int, default=3, help="Searches by ours; the fastest counts.")
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    arguments = parser.parse_args()
    chosen = [made_concepts(arguments.rows)]
    if arguments.data is not None:
        chosen.append(given_concepts(arguments.data))
    rows = [row for concepts in chosen for row in compare(concepts, repeats=arguments.repeats)]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['name']:48} {row['ours']:9.2f} {row['peer']:9.2f} {row['ratio']:7.2f}  {row['met']}")


def compare(concepts: Concepts, *, repeats: int) -> list[dict[str, Any]]:
    """Search by both and return the rows of the table; a ratio above 1 says that ours is better."""
    seconds = min(timed(lambda: our_groups(concepts))[0] for _ in range(repeats))
    tracemalloc.start()
    ours = our_groups(concepts)
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    peer_seconds, peer = timed(lambda: brute_force_groups(concepts))
    refuse_other_groups(ours, peer, has_equal_texts=concepts.name != MADE)
    scale = len(concepts.vectors) / 10_000
    allowed = MEGABYTES_FOR_TEN_THOUSAND * scale + TILE_MEGABYTES
    name = f"{concepts.name}, {len(concepts.vectors)} concepts"
    return [
        row(f"{name}: brute force", ours=seconds, peer=peer_seconds, unit="seconds"),
        row(f"{name}: 1 s for 10,000", ours=seconds / scale, peer=SECONDS_FOR_TEN_THOUSAND, unit="seconds"),
        row(f"{name}: bounded memory", ours=megabytes, peer=allowed, unit="MB beside the vectors"),
    ]


def refuse_other_groups(ours: NDArray[np.int64], peer: list[tuple[int, int]], *, has_equal_texts: bool) -> None:
    """Stop if both do not find the same: the time of a search that finds too little or too much says nothing.

    Ours joins articles with equal texts, too.

    Raises:
        SystemExit: If near-duplicates were missed, or other groups were found.
    """
    missed = sum(ours[left] != ours[right] for left, right in peer)
    pairs = np.array(peer or np.empty((0, 2)), np.int64)
    joined = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(ours), len(ours)))
    num_ours, num_peer = len(np.unique(ours)), connected_components(joined, directed=False)[0]
    is_same = num_ours <= num_peer if has_equal_texts else num_ours == num_peer < len(ours)
    if missed or not is_same:
        raise SystemExit(
            f"The benchmark compares nothing: {len(peer)} near-duplicates were found by brute force, of which {missed} "
            f"were missed; there are {num_peer} groups, and {num_ours} were found."
        )


def row(name: str, *, ours: float, peer: float, unit: str) -> dict[str, Any]:
    """One line of the table."""
    ratio = peer / ours
    return {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "goal": 1.0, "met": ratio >= 1.0, "unit": unit}


def timed(search: Any) -> tuple[float, Any]:
    """Return the processor time of all cores together, so that other processes do not count, and what was found."""
    started = time.process_time()
    found = search()
    return time.process_time() - started, found


def our_groups(concepts: Concepts) -> NDArray[np.int64]:
    """Group of each article by ours, by number of article."""
    return find_near_duplicates(concepts.vectors, concepts.texts, concepts.articles).groups


def brute_force_groups(concepts: Concepts) -> list[tuple[int, int]]:
    """Pairs of articles that share a near-duplicate vector, by comparing every vector with every other."""
    vectors = concepts.vectors / np.linalg.norm(concepts.vectors, axis=1, keepdims=True)
    search = NearestNeighbors(metric="cosine", algorithm="brute", radius=1 - MIN_COSINE).fit(vectors)
    near = search.radius_neighbors(vectors, return_distance=False)
    articles = concepts.articles
    return [
        (int(articles[row]), int(articles[other]))
        for row, others in enumerate(near)
        for other in others
        if articles[row] < articles[other]
    ]


def made_concepts(num_rows: int) -> Concepts:
    """Make articles around topics of their own, a few of which nearly repeat a concept of another."""
    rng = np.random.default_rng(0)
    articles = np.arange(num_rows) // ARTICLE_CONCEPTS
    topics = rng.standard_normal((int(articles[-1]) + 1, WIDTH), dtype=np.float32)
    vectors = topics[articles] + rng.standard_normal((num_rows, WIDTH), dtype=np.float32)
    copied = np.arange(NUM_COPIED) * ARTICLE_CONCEPTS
    vectors[copied + num_rows // 2] = vectors[copied] + 0.05 * rng.standard_normal(WIDTH, dtype=np.float32)
    texts = [f"Concept number {number} says what no other concept says." for number in range(num_rows)]
    return Concepts(MADE, vectors, texts, articles)


def given_concepts(path: Path) -> Concepts:
    """Take those of a file."""
    table = pq.read_table(path, columns=["article_id", "concept_text", "vector"])
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    articles = table["article_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return Concepts(path.stem, flat.reshape(table.num_rows, -1), table["concept_text"].to_pylist(), articles)


if __name__ == "__main__":
    main()
