"""Time the extraction of concepts from Postgres against `pandas.read_sql` and `to_parquet`, in one run.

Both read the same two tables of an embedded server, in order, and write the same columns to Parquet; each runs in a
child process of its own, which reports its seconds (without imports) and its peak memory. The parent sees that both
files hold the same ids and vectors.

    python benchmarks/extraction.py --rows 42113 --json
    python benchmarks/extraction.py --data concepts.parquet      # vectors and texts of a file instead of made ones
    python benchmarks/extraction.py --scale 100000 1000000       # time and memory as the table grows; 12 GB of disk

`--scale` compares two sizes of table, and for the larger one the extraction after 1 % of the articles have changed, and
the one after a kill. Files are compared byte for byte.
"""

import argparse
import filecmp
import json
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lvm_pipeline.adapters import databases, embedded_postgres

SPEED_GOAL = 7.0
MEMORY_LIMIT_MB = 500
LINEAR_GOAL = 0.8  # of the rate of the smaller table
MEMORY_GROWTH = 1.2
INCREMENTAL_GOAL = 1.0
VECTOR_DIM = 768
ARTICLE_CONCEPTS = 37
BLOCK_ROWS = 10_000  # made and copied at once
NAMESPACE = uuid.UUID(int=42113)
SPACE_ID = b"benchmark"
# A row of cpe_vectors in the binary format of COPY: each field follows its length in bytes.
VECTOR_ROW = np.dtype(
    [
        ("num_fields", ">i2"),
        *(("id_bytes", ">i4"), ("cpe_id", "V16")),
        *(("vector_bytes", ">i4"), ("width", ">i2"), ("unused", ">i2"), ("vector", ">f4", VECTOR_DIM)),
        *(("space_bytes", ">i4"), ("space_id", f"S{len(SPACE_ID)}")),
    ]
)
VECTOR_ROW_CONSTANTS = {
    **{"num_fields": 3, "id_bytes": 16, "vector_bytes": 4 + 4 * VECTOR_DIM, "width": VECTOR_DIM},
    **{"space_bytes": len(SPACE_ID), "space_id": SPACE_ID},
}
TABLES = """
    CREATE TABLE cpe_entry (cpe_id uuid PRIMARY KEY, concept_text text NOT NULL, domain_code smallint,
        task_code smallint, modifier_code smallint, dataset_source text NOT NULL, chunk_position jsonb, batch_id uuid,
        created_at timestamptz NOT NULL DEFAULT now(), soft_negatives jsonb, hard_negatives jsonb, document_id text,
        sequence_index integer);
    CREATE TABLE cpe_vectors (cpe_id uuid PRIMARY KEY REFERENCES cpe_entry, concept_vec vector, tmd_dense vector(16),
        space_id text)"""
PANDAS_QUERY = """
    SELECT e.cpe_id::text AS cpe_id, e.document_id AS article_id, e.sequence_index AS position, e.concept_text,
        e.domain_code AS domain, e.task_code AS task, e.modifier_code AS modifier, v.tmd_dense, e.soft_negatives,
        e.hard_negatives, e.created_at, v.concept_vec AS vector
    FROM cpe_entry e JOIN cpe_vectors v USING (cpe_id) WHERE e.dataset_source = 'user_input'
    ORDER BY e.document_id, e.sequence_index"""


def main() -> None:
    """Fill a database, run both, compare their files and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=42_113)
    parser.add_argument("--data", type=Path, help="Parquet with concept_text and vector to fill the table with.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each; the fastest counts.")
    parser.add_argument("--scale", type=int, nargs=2, metavar=("SMALL", "LARGE"), help="Compare two sizes instead.")
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        CHILDREN[arguments.child](json.loads(sys.stdin.read()))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then, too
    if arguments.scale:
        rows = compare_sizes(*arguments.scale)
    else:
        rows = compare(num_rows=arguments.rows, data_path=arguments.data, repeats=arguments.repeats)
    print(json.dumps(rows, indent=2) if arguments.json else as_table(rows))


def compare(*, num_rows: int, data_path: Path | None, repeats: int) -> list[dict[str, Any]]:
    """Run ours and the peer in turn and return the rows of the table."""
    with filled_database(num_rows, data_path=data_path) as (url, folder):
        runs = [run_child(child, url, folder) for _ in range(repeats) for child in ("ours", "pandas")]
        require_same_files(folder / "ours.parquet", folder / "pandas.parquet", num_rows=num_rows)
    ours, pandas = (min(run["seconds"] for run in runs if run["child"] == child) for child in ("ours", "pandas"))
    our_mb, pandas_mb = (max(run["peak_mb"] for run in runs if run["child"] == child) for child in ("ours", "pandas"))
    return [
        row("pandas", ours=ours, peer=pandas, goal=SPEED_GOAL, unit=f"seconds for {num_rows} rows"),
        row(f"peak memory under {MEMORY_LIMIT_MB} MB", ours=our_mb, peer=MEMORY_LIMIT_MB, goal=1.0, unit="MB"),
        row("peak memory of pandas", ours=our_mb, peer=pandas_mb, goal=1.0, unit="MB"),
    ]


@contextmanager
def filled_database(num_rows: int, *, data_path: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Yield the URL of a database with so many concepts, and a folder for files; both are deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="lvm-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server runs as another user when started by root
        server = embedded_postgres.ensure_running(folder / "postgres")
        try:
            databases.create_database(server, "benchmark", extension="vector")
            url = server.url("benchmark")
            fill(url, num_rows=num_rows, data_path=data_path)
            yield url, folder
        finally:
            embedded_postgres.stop(folder / "postgres")


def compare_sizes(small: int, large: int) -> list[dict[str, Any]]:
    """Extract two sizes in full, and the larger one again after changes and after a kill."""
    with filled_database(small) as (url, folder):
        of_small = run_child("ours", url, folder)
    with filled_database(large) as (url, folder):
        return rows_of_sizes(url, folder, of_small=of_small, small=small, large=large)


def rows_of_sizes(url: str, folder: Path, *, of_small: dict[str, Any], small: int, large: int) -> list[dict[str, Any]]:
    """Run the larger table and return the rows."""
    full = run_child("ours", url, folder)
    (folder / "ours.parquet").rename(folder / "concepts.parquet")
    resumed = resume_after_kill(url, folder)
    require_same_bytes(folder / "ours.parquet", folder / "concepts.parquet")
    num_changed = change_articles(url)
    kept = run_child("ours", url, folder, earlier="concepts.parquet")
    (folder / "ours.parquet").rename(folder / "concepts.parquet")
    again = run_child("ours", url, folder)
    require_same_bytes(folder / "ours.parquet", folder / "concepts.parquet")
    scaled, unit = of_small["seconds"] * large / small, f"seconds for {large} rows"
    grown = of_small["peak_mb"] * MEMORY_GROWTH
    changed = f"full; {num_changed} articles changed, {kept['num_read']} read"
    killed = f"full; after a kill, {resumed['num_read']} articles read"
    return [
        row(f"time as from {small} rows", ours=full["seconds"], peer=scaled, goal=LINEAR_GOAL, unit=unit),
        row(f"memory of {small} rows + 20 %", ours=full["peak_mb"], peer=grown, goal=1.0, unit="MB"),
        row(changed, ours=kept["seconds"], peer=again["seconds"], goal=INCREMENTAL_GOAL, unit=unit),
        row(killed, ours=resumed["seconds"], peer=full["seconds"], goal=INCREMENTAL_GOAL, unit=unit),
    ]


def resume_after_kill(url: str, folder: Path) -> dict[str, Any]:
    """Kill an extraction half way and run it again."""
    task = json.dumps({"url": url, "path": str(folder / "killed.parquet"), "parts": str(folder / "parts")})
    command = [sys.executable, "-W", "ignore", __file__, "--child", "ours"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as child:
        assert child.stdin is not None
        child.stdin.write(task)
        child.stdin.close()
        size = (folder / "concepts.parquet").stat().st_size
        while child.poll() is None and parts_size(folder) < size / 2:
            time.sleep(0.05)
        child.kill()
    (folder / "killed.parquet").unlink(missing_ok=True)
    return run_child("ours", url, folder, earlier="none")


def parts_size(folder: Path) -> int:
    """Return the size of the finished parts of an extraction."""
    return sum(path.stat().st_size for path in (folder / "parts").glob("*.parquet"))


def change_articles(url: str) -> int:
    """Change a vector in one article of a hundred, and return how many those are."""
    with psycopg.connect(url, autocommit=True) as connection:
        changed = connection.execute(
            "UPDATE cpe_vectors v SET concept_vec = (SELECT concept_vec FROM cpe_vectors LIMIT 1) FROM cpe_entry e "
            "WHERE v.cpe_id = e.cpe_id AND e.sequence_index = 0 AND hashtext(e.document_id) % 100 = 0"
        )
        return changed.rowcount


def require_same_bytes(one: Path, other: Path) -> None:
    """See that two files are the same. Raises SystemExit if they are not."""
    if not filecmp.cmp(one, other, shallow=False):
        raise SystemExit(f"{one.name} and {other.name} differ: the extraction is wrong.")
    one.unlink()


def row(name: str, *, ours: float, peer: float, goal: float, unit: str) -> dict[str, Any]:
    """One line of the table; a ratio above 1 says that ours is better."""
    ratio = peer / ours
    return {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "goal": goal, "met": ratio >= goal, "unit": unit}


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [f"{'name':44} {'ours':>10} {'peer':>10} {'ratio':>7} {'goal':>6}  met"]
    lines += [
        f"{r['name']:44} {r['ours']:10.2f} {r['peer']:10.2f} {r['ratio']:7.2f} {r['goal']:6.1f}  "
        f"{'yes' if r['met'] else 'NO'}  ({r['unit']})"
        for r in rows
    ]
    return "\n".join(lines)


def fill(url: str, *, num_rows: int, data_path: Path | None) -> None:
    """Create both tables and copy concepts into them in random order, so that the server has to sort."""
    given = None if data_path is None else given_concepts(data_path, num_rows)
    order = np.random.default_rng(1).permutation(num_rows)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES)
        for start in range(0, num_rows, BLOCK_ROWS):
            numbers = order[start : start + BLOCK_ROWS]
            texts, vectors = (
                made_concepts(len(numbers), seed=start)
                if given is None
                else ([given[0][number] for number in numbers], given[1][numbers])
            )
            add_concepts(connection, numbers, texts, vectors)
        connection.execute("VACUUM ANALYZE cpe_entry")
        connection.execute("VACUUM ANALYZE cpe_vectors")


def add_concepts(
    connection: psycopg.Connection, numbers: NDArray[np.int64], texts: list[str], vectors: NDArray[np.float32]
) -> None:
    """Copy some concepts into both tables; a concept's number says its article, position and id."""
    ids = [uuid.uuid5(NAMESPACE, str(number)) for number in numbers.tolist()]
    columns = "cpe_id, concept_text, domain_code, task_code, modifier_code, dataset_source, batch_id, document_id"
    with connection.cursor() as cursor, cursor.copy(f"COPY cpe_entry ({columns}, sequence_index) FROM STDIN") as copy:
        for number, cpe_id, text in zip(numbers.tolist(), ids, texts, strict=True):
            article = uuid.uuid5(NAMESPACE, f"article {number // ARTICLE_CONCEPTS}")
            codes = (number % 16, number % 32, 1 + number % 63)
            copy.write_row((cpe_id, text, *codes, "user_input", article, str(article), number % ARTICLE_CONCEPTS))
    rows = np.zeros(len(ids), VECTOR_ROW)
    for name, value in VECTOR_ROW_CONSTANTS.items():
        rows[name] = value
    rows["cpe_id"] = np.frombuffer(b"".join(cpe_id.bytes for cpe_id in ids), "V16")
    rows["vector"] = vectors
    command = "COPY cpe_vectors (cpe_id, concept_vec, space_id) FROM STDIN (FORMAT binary)"
    with connection.cursor() as cursor, cursor.copy(command) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        copy.write(rows.tobytes())
        copy.write(b"\xff\xff")


def made_concepts(num_rows: int, *, seed: int) -> tuple[list[str], NDArray[np.float32]]:
    """Make texts of 37 words and random unit vectors."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("abcdefghijklmnop"), 1 + n % 9)) for n in range(2000)])
    rng = np.random.default_rng([1, seed])
    texts = [" ".join(words[chosen]) for chosen in rng.integers(0, len(words), (num_rows, 37))]
    vectors = rng.standard_normal((num_rows, VECTOR_DIM), dtype=np.float32)
    return texts, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def given_concepts(path: Path, num_rows: int) -> tuple[list[str], NDArray[np.float32]]:
    """Take texts and vectors of a file, again from its start (marked and a little turned) when it has fewer rows."""
    table = pq.read_table(path, columns=["concept_text", "vector"])
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    known, texts = flat.reshape(table.num_rows, -1), table["concept_text"].to_pylist()
    rounds = [divmod(number, table.num_rows) for number in range(num_rows)]
    vectors = known[[index for _, index in rounds]]
    vectors[:, 0] += 0.001 * np.array([round_number for round_number, _ in rounds], np.float32)
    return [f"{texts[index]} {number or ''}" for number, index in rounds], vectors


def run_child(child: str, url: str, folder: Path, *, earlier: str | None = None) -> dict[str, Any]:
    """Run one of both in a process of its own; the URL goes through a pipe, as it holds a password."""
    task: dict[str, Any] = {"url": url, "path": str(folder / f"{child}.parquet")}
    if earlier is not None:
        task |= {"earlier": str(folder / earlier), "parts": str(folder / "parts")}
    command = [sys.executable, "-W", "ignore", __file__, "--child", child]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The run of {child} failed:\n{done.stderr}")
    return {"child": child, **json.loads(done.stdout)}


def run_ours(task: dict[str, Any]) -> None:
    """Extract as the pipeline does."""
    import adbc_driver_postgresql.dbapi  # noqa: F401, it would be imported with the first connection

    from lvm_pipeline.adapters.postgres_reader import PostgresReader
    from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
    from lvm_pipeline.concepts.kept import EarlierExtractions

    earlier = None
    if "parts" in task:
        earlier = EarlierExtractions(concepts_path=Path(task.get("earlier", "none")), parts_dir=Path(task["parts"]))
    started = time.perf_counter()
    extraction = extract_concepts(
        PostgresReader(task["url"]), options=ExtractOptions(), staged_path=Path(task["path"]), earlier=earlier
    )
    print_figures(started, num_read=extraction.num_articles_read)


def run_pandas(task: dict[str, Any]) -> None:
    """Do what a competent user would: one ordered query, vectors parsed by the fastest parser found, one Parquet file.

    Of `np.fromstring`, `json.loads` and splitting, the first was the fastest.
    """
    import pandas
    import psycopg2  # noqa: F401, this and the next one would be imported when they are needed
    import pyarrow.parquet  # noqa: F401
    import sqlalchemy

    started = time.perf_counter()
    engine = sqlalchemy.create_engine(task["url"].replace("postgresql://", "postgresql+psycopg2://"))
    frame = pandas.read_sql(PANDAS_QUERY, engine)
    frame["vector"] = [np.fromstring(text[1:-1], sep=",", dtype=np.float32) for text in frame["vector"]]
    frame.insert(0, "row", range(len(frame)))
    frame.insert(3, "article_index", pandas.factorize(frame["article_id"])[0].astype(np.int32))
    frame.to_parquet(task["path"], index=False)
    print_figures(started)


def print_figures(started: float, **further: int) -> None:
    """Print the seconds since `started`, the processor seconds and the peak memory of this process."""
    seconds = time.perf_counter() - started
    figures = {"seconds": seconds, "cpu_seconds": time.process_time(), "peak_mb": peak_megabytes(), **further}
    print(json.dumps(figures))


def peak_megabytes() -> float:
    """Peak memory of this process; `ru_maxrss` would count its parent's, which a child starts as a copy of."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def require_same_files(ours: Path, theirs: Path, *, num_rows: int) -> None:
    """See that both wrote the same concepts in the same order.

    Raises:
        SystemExit: If they did not.
    """
    for left, right in zip(id_and_vector_batches(ours), id_and_vector_batches(theirs), strict=True):
        if left[0] != right[0] or not np.array_equal(left[1], right[1]):
            raise SystemExit("The two files differ: the benchmark compares nothing.")
    if pq.read_metadata(ours).num_rows != num_rows:
        raise SystemExit(f"{ours} holds {pq.read_metadata(ours).num_rows} rows, expected {num_rows}.")


def id_and_vector_batches(path: Path) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yield ids and vectors of 500 rows at a time."""
    table = pq.read_table(path, columns=["cpe_id", "vector"])
    for start in range(0, table.num_rows, 500):
        piece = table.slice(start, 500)
        vectors = np.concatenate([chunk.flatten().to_numpy() for chunk in piece["vector"].chunks])
        yield piece["cpe_id"].to_pylist(), vectors


CHILDREN = {"ours": run_ours, "pandas": run_pandas}

if __name__ == "__main__":
    main()
