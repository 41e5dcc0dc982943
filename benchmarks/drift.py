"""Compare the drift checks with tests of single rows: false alarms, foreign text that is missed, and seconds.

The row tests are Kolmogorov-Smirnov tests of each dimension over all rows with Bonferroni's correction, as monitoring
libraries do it. They assume that the rows of an article are independent, which they are not.

A resample draws articles of unchanged data, half of them as reference and half as the present table: every alarm is a
false one. Then foreign articles, a tenth of the present concepts, are added to the unchanged reference ("added"), or
replace articles of a present table that shares none with the reference ("among others").

    python benchmarks/drift.py --data concepts.parquet --foreign foreign.parquet --json
    python benchmarks/drift.py --peers --environments FOLDER      # beside other tools, see drift_peers.py
    python benchmarks/drift.py      # generated articles around topics instead of given ones
"""

import argparse
import hashlib
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from drift_peers import as_lines, compared
from numpy.typing import NDArray
from scipy import stats

from lvm_pipeline.concepts.drift.articles import ArticleSample, changes_between
from lvm_pipeline.concepts.drift.compare import MAX_SAMPLED_OF_ARTICLE, compare_articles, compare_concepts
from lvm_pipeline.concepts.schema import ConceptsMetadata, concepts_schema
from lvm_pipeline.concepts.store import ConceptsWriter

FALSE_ALARM_GOAL = 0.05
MISS_GOAL = 0.05
SECONDS_GOAL = 10.0
FOREIGN_FRACTION = 0.1
PLAIN_LEVEL = 0.05
NUM_PLAIN_TRIALS = 20
VECTOR_DIM = 768
ARTICLE_CONCEPTS = 37


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Parquet of concepts: article_id, vector.")
    parser.add_argument("--foreign", type=Path, help="Parquet of other text in the same space.")
    parser.add_argument("--articles", type=int, nargs="+", default=[100], help="Articles of the reference.")
    parser.add_argument("--resamples", type=int, default=200, help="Of unchanged data, for the first size.")
    parser.add_argument("--injections", type=int, default=40, help="Of foreign text, for each size and way.")
    parser.add_argument("--rows", type=int, default=42_113, help="Concepts of each table that is timed; 0 times none.")
    parser.add_argument("--repeats", type=int, default=1, help="Timed runs; the fastest counts.")
    parser.add_argument("--peers", action="store_true", help="Run other drift tools on the same articles instead.")
    parser.add_argument("--case", action="append", help="With --peers, only this case; repeat. Default: all.")
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "lvm-drift-peers")
    parser.add_argument(
        "--budget", type=float, default=120, help="Seconds that a method of a tool may take for a case."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    native = made_articles(400, rng=rng) if arguments.data is None else given_articles(arguments.data)
    foreign = made_articles(60, rng=rng, centre=2.0) if arguments.foreign is None else given_articles(arguments.foreign)
    if arguments.peers:
        found = compared(
            native,
            foreign,
            size=arguments.articles[0],
            num_unchanged=arguments.resamples,
            num_changed=arguments.injections,
            environments=arguments.environments,
            budget=arguments.budget,
            only=arguments.case,
            rng=rng,
        )
        for line in [json.dumps(list(found), indent=2)] if arguments.json else as_lines(found):
            print(line, flush=True)
        return
    rows = [false_alarms(native, arguments.articles[0], num_resamples=arguments.resamples, rng=rng)]
    for size in arguments.articles:
        rows += [
            misses(native, foreign, size, way=way, num_injections=arguments.injections, rng=rng)
            for way in ("added", "among others")
        ]
    if arguments.rows:
        rows += timed(arguments.rows, repeats=arguments.repeats, rng=rng)
    print(json.dumps(rows, indent=2) if arguments.json else as_table(rows))


def false_alarms(native: ArticleSample, size: int, *, num_resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """Count how often either way raises an alarm though nothing changed."""
    trials = (halves(native, size, rng=rng) for _ in range(num_resamples))
    ours, plain = alarm_rates(trials)
    name = f"false alarms, {size} articles"
    return rate_row(name, ours=ours, peer=plain, goal=FALSE_ALARM_GOAL, num=num_resamples)


def misses(
    native: ArticleSample,
    foreign: ArticleSample,
    size: int,
    *,
    way: str,
    num_injections: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Count how often each method raises no alarm though a tenth of the present concepts is foreign."""
    trials = (injection(native, foreign, size, way=way, rng=rng) for _ in range(num_injections))
    ours, plain = (1 - rate for rate in alarm_rates(trials))
    name = f"misses of 10 % {way}, {size} articles"
    return rate_row(name, ours=ours, peer=plain, goal=MISS_GOAL, num=num_injections)


def injection(
    native: ArticleSample, foreign: ArticleSample, size: int, *, way: str, rng: np.random.Generator
) -> tuple[ArticleSample, ArticleSample]:
    """Make a reference and a present table of which a tenth is foreign."""
    reference, others = halves(native, size, rng=rng)
    return reference, injected(reference if way == "added" else others, foreign, rng=rng)


def alarm_rates(trials: Iterable[tuple[ArticleSample, ArticleSample]]) -> tuple[float, float]:
    """Count how often our checks and the plain tests raise an alarm; both see the same articles and rows.

    The plain tests are slow and nearly always agree, so they get only the first trials.
    """
    ours, plain = [], []
    for number, (reference, present) in enumerate(trials):
        ours.append(any(not finding.passed for finding in compare_articles(reference, present)))
        if number < NUM_PLAIN_TRIALS:
            arrived = present.take(changes_between(reference, present).arrived)
            plain.append(plain_alarm(reference.vectors, arrived.vectors))
    return float(np.mean(ours)), float(np.mean(plain))


def plain_alarm(before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
    """Test each dimension over all rows, corrected for the number of dimensions."""
    p_values = np.array([stats.ks_2samp(x, y, method="asymp")[1] for x, y in zip(before.T, after.T, strict=True)])
    return bool((p_values < PLAIN_LEVEL / len(p_values)).any())


def halves(articles: ArticleSample, size: int, *, rng: np.random.Generator) -> tuple[ArticleSample, ArticleSample]:
    """Draw twice `size` articles (all, if there are fewer) and split them in half."""
    size = min(size, articles.num_articles // 2)
    drawn = rng.permutation(articles.num_articles)[: 2 * size]
    return articles.take(drawn[:size].tolist()), articles.take(drawn[size:].tolist())


def injected(articles: ArticleSample, foreign: ArticleSample, *, rng: np.random.Generator) -> ArticleSample:
    """Add foreign articles until a tenth of the concepts is theirs.

    Raises:
        SystemExit: If there are not as many.
    """
    wanted = articles.num_concepts * FOREIGN_FRACTION / (1 - FOREIGN_FRACTION)
    drawn = rng.permutation(foreign.num_articles)
    lengths = np.cumsum(foreign.lengths[drawn])
    if lengths[-1] < wanted:
        raise SystemExit(f"{wanted:.0f} foreign concepts are needed, there are {lengths[-1]}.")
    return articles.followed_by(foreign.take(drawn[: int(np.searchsorted(lengths, wanted)) + 1].tolist()))


def given_articles(path: Path) -> ArticleSample:
    """Read the articles of a file, in which the rows of an article follow each other."""
    table = pq.read_table(path, columns=["article_id", "vector"])
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    encoded = table["article_id"].combine_chunks().dictionary_encode()
    lengths = np.bincount(encoded.indices.to_numpy())
    return sample_of(encoded.dictionary.to_pylist(), lengths, flat.reshape(table.num_rows, -1))


def made_articles(num_articles: int, *, rng: np.random.Generator, centre: float = 0.0) -> ArticleSample:
    """Make articles of unit vectors around topics of their own."""
    lengths = rng.integers(5, 2 * ARTICLE_CONCEPTS - 5, num_articles)
    topics = rng.standard_normal((num_articles, VECTOR_DIM), dtype=np.float32) + centre * (
        np.arange(VECTOR_DIM) % 64 == 0
    )
    vectors = np.repeat(topics, lengths, axis=0)
    vectors += rng.standard_normal(vectors.shape, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return sample_of([str(uuid.UUID(bytes=rng.bytes(16))) for _ in lengths], lengths, vectors.astype(np.float32))


def sample_of(ids: list[str], lengths: NDArray[np.int64], vectors: NDArray[np.float32]) -> ArticleSample:
    """Gather articles without codes, with a few evenly spread vectors of each."""
    first_rows = np.cumsum(lengths) - lengths
    num_sampled = np.minimum(lengths, MAX_SAMPLED_OF_ARTICLE)
    spread = [first + n * np.arange(k) // k for first, n, k in zip(first_rows, lengths, num_sampled, strict=True)]
    return ArticleSample(
        ids=ids,
        digests=[
            hashlib.blake2b(vectors[first : first + n].tobytes()).digest()
            for first, n in zip(first_rows, lengths, strict=True)
        ],
        lengths=lengths,
        codes=np.full((len(vectors), 3), -1, np.int16),
        num_sampled=num_sampled,
        vectors=vectors[np.concatenate(spread)],
    )


def timed(num_rows: int, *, repeats: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Time a comparison of two tables without a common article, from their files."""
    with tempfile.TemporaryDirectory(prefix="lvm-benchmark-") as name:
        paths = [made_table(Path(name) / f"{side}.parquet", num_rows, rng=rng) for side in ("reference", "present")]
        ours = min(seconds_of(lambda: compare_concepts(*paths)) for _ in range(repeats))
        plain = min(seconds_of(lambda: plain_alarm(*map(vectors_of, paths))) for _ in range(repeats))
    met = ours <= SECONDS_GOAL
    unit = f"seconds for 2 x {num_rows} concepts"
    return [
        {
            "name": "seconds",
            "ours": ours,
            "peer": plain,
            "ratio": plain / ours,
            "goal": 1.0,
            "met": plain >= ours,
            "unit": unit,
        },
        {
            "name": "under 10 seconds",
            "ours": ours,
            "peer": SECONDS_GOAL,
            "ratio": SECONDS_GOAL / ours,
            "goal": 1.0,
            "met": met,
            "unit": unit,
        },
    ]


def seconds_of(work: Callable[[], Any]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def vectors_of(path: Path) -> NDArray[np.float32]:
    """Read all vectors of a table."""
    table = pq.read_table(path, columns=["vector"])
    return table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)


def made_table(path: Path, num_rows: int, *, rng: np.random.Generator) -> Path:
    """Write a concept table of random vectors and codes in articles of 37 concepts."""
    schema = concepts_schema(VECTOR_DIM)
    articles = [f"{rng.bytes(8).hex()}" for _ in range(-(-num_rows // ARTICLE_CONCEPTS))]
    rows = np.arange(num_rows)
    columns: dict[str, Any] = {
        "row": rows,
        "cpe_id": [f"{path.stem} {row}" for row in rows],
        "article_id": [articles[row // ARTICLE_CONCEPTS] for row in rows],
        "article_index": rows // ARTICLE_CONCEPTS,
        "position": rows % ARTICLE_CONCEPTS,
        "concept_text": [f"Concept {row}." for row in rows],
        **{name: rng.integers(1, 16, num_rows) for name in ("domain", "task", "modifier")},
        **{
            name: pa.nulls(num_rows, schema.field(name).type)
            for name in ("tmd_dense", "soft_negatives", "hard_negatives")
        },
        "created_at": pa.nulls(num_rows, schema.field("created_at").type),
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(rng.standard_normal(num_rows * VECTOR_DIM, dtype=np.float32)), type=schema.field("vector").type
        ),
    }
    metadata = ConceptsMetadata(
        fingerprint=path.stem,
        space_id="benchmark",
        vector_dim=VECTOR_DIM,
        source="made",
        dataset_source="made",
        order_key="made",
        num_concepts=num_rows,
        num_articles=len(articles),
        num_source_rows=num_rows,
        duplicates_policy="fail",
    )
    with ConceptsWriter(path, vector_dim=VECTOR_DIM) as writer:
        writer.write(pa.table(columns, schema=schema))
        writer.finish(metadata)
    return path


def rate_row(name: str, *, ours: float, peer: float, goal: float, num: int) -> dict[str, Any]:
    """One line of a rate that should be small; for the ratio, none in `num` trials counts as one."""
    ratio = peer / max(ours, 1 / num)
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "ratio": ratio,
        "goal": None,  # the goal is a rate, and no ratio
        "met": ours <= goal,
        "unit": f"of {num}, the peer of {min(num, NUM_PLAIN_TRIALS)}; at most {goal:g}",
    }


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [f"{'name':44} {'ours':>8} {'peer':>8} {'ratio':>7} {'goal':>6}  met"]
    lines += [
        f"{r['name']:44} {r['ours']:8.3f} {r['peer']:8.3f} {r['ratio']:7.2f} {r['goal']:6.2f}  "
        f"{'yes' if r['met'] else 'NO'}  ({r['unit']})"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
