"""Which articles are read again after changes in Postgres, and after a kill."""

import signal
import subprocess
import sys

import pytest

from lvm_pipeline.adapters.postgres_reader import PostgresReader
from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.concepts.kept import EarlierExtractions
from lvm_pipeline_tests.adapters.source_tables import execute, extract, good_rows, id_of, load, without

pytestmark = pytest.mark.postgres

LENGTHS = (6, 7, 12, 5, 9)
KILLED = """
import sys, time
from pathlib import Path
from lvm_pipeline.adapters import postgres_reader
from lvm_pipeline.adapters.postgres_reader import PostgresReader
from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.concepts.kept import EarlierExtractions
postgres_reader.BATCH_BYTES = 20_000
folder = Path(sys.argv[1])
earlier = EarlierExtractions(concepts_path=folder / "none", parts_dir=folder / "parts", part_concepts=500)
def progress(done, total):
    if len(list((folder / "parts").glob("*.parquet"))) >= 2:
        print("has parts", flush=True)
        time.sleep(60)
extract_concepts(
    PostgresReader(sys.stdin.readline().strip()), options=ExtractOptions(), staged_path=folder / "staged",
    progress=progress, earlier=earlier,
)
"""


def extracted_twice(database, tmp_path, *, earlier, options=None, **reader):
    """Extract with and without earlier extractions; return the articles kept and read after comparing the bytes."""
    full = extract(database, tmp_path, options=options, **reader)
    expected = full.path.read_bytes()
    extraction = extract_concepts(
        PostgresReader(database, **reader),
        options=options or ExtractOptions(),
        staged_path=tmp_path / "again.parquet",
        earlier=earlier,
    )
    assert (tmp_path / "again.parquet").read_bytes() == expected
    return extraction.num_articles_kept, extraction.num_articles_read


@pytest.fixture
def earlier(tmp_path):
    return EarlierExtractions(concepts_path=tmp_path / "concepts.parquet", parts_dir=tmp_path / "parts")


def promote(database, tmp_path, earlier, **options):
    extract(database, tmp_path, **options).path.rename(earlier.concepts_path)


CHANGES = {
    "UPDATE cpe_entry SET concept_text = 'New.' WHERE sequence_index = 2 AND document_id = 'article-1'": (4, 1),
    "UPDATE cpe_vectors SET concept_vec = concept_vec * '[-1,1,1,1,1,1,1,1]'::vector "
    f"WHERE cpe_id = '{id_of('2#3')}'": (4, 1),
    "DELETE FROM cpe_entry WHERE document_id = 'article-0'": (4, 0),
    "DELETE FROM cpe_entry WHERE document_id = 'article-4' AND sequence_index = 8": (4, 1),
    # swaps two positions: no row is new, and the articles have as many
    "UPDATE cpe_entry SET sequence_index = 5 - sequence_index WHERE document_id = 'article-0' "
    "AND sequence_index IN (2, 3)": (4, 1),
    # moves a row to another article
    "UPDATE cpe_entry SET document_id = 'article-5', sequence_index = 0 "
    "WHERE document_id = 'article-2' AND sequence_index = 11": (4, 2),
    "INSERT INTO cpe_entry (cpe_id, concept_text, dataset_source, document_id, sequence_index) "
    "SELECT gen_random_uuid(), 'Of another source', 'other', 'article-0', 0": (5, 0),
    "ALTER TABLE cpe_entry ADD COLUMN task_code smallint DEFAULT 3": (0, 5),  # no row has a new version
    "VACUUM FULL cpe_entry": (0, 5),
    "VACUUM cpe_entry": (5, 0),
    "ANALYZE": (5, 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(database, tmp_path, earlier, change):
    load(database, without(good_rows(LENGTHS), "chunk_position", "batch_id"))
    promote(database, tmp_path, earlier, dataset_source="user_input")

    execute(database, change)

    found = extracted_twice(database, tmp_path, earlier=earlier, dataset_source="user_input")
    assert found == CHANGES[change]


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER TABLE cpe_entry DROP modifier_code", "ALTER TABLE cpe_entry ADD modifier_code smallint DEFAULT 3"),
        (
            "ALTER TABLE cpe_entry RENAME domain_code TO swapped",
            "ALTER TABLE cpe_entry RENAME task_code TO domain_code",
            "ALTER TABLE cpe_entry RENAME swapped TO task_code",
        ),
    ],
    ids=["dropped and added", "swapped"],
)
def test_columns_that_changed_without_a_new_version_of_any_row_are_seen(database, tmp_path, earlier, statements):
    codes = {"domain_code": 1, "task_code": 2, "modifier_code": 0}
    load(database, [{**row, **codes} for row in good_rows(LENGTHS)])
    promote(database, tmp_path, earlier)

    execute(database, *statements)

    assert extracted_twice(database, tmp_path, earlier=earlier) == (0, 5)


def test_appended_articles_are_read(database, tmp_path, earlier):
    rows = good_rows(LENGTHS)
    load(database, rows[:13])
    promote(database, tmp_path, earlier)
    execute(
        database, "ALTER TABLE cpe_entry RENAME TO earlier_entry", "ALTER TABLE cpe_vectors RENAME TO earlier_vectors"
    )
    load(database, rows[13:])
    execute(
        database,
        "INSERT INTO earlier_entry SELECT * FROM cpe_entry",
        "INSERT INTO earlier_vectors SELECT * FROM cpe_vectors",
        "DROP TABLE cpe_entry, cpe_vectors",
        "ALTER TABLE earlier_entry RENAME TO cpe_entry",
        "ALTER TABLE earlier_vectors RENAME TO cpe_vectors",
    )

    assert extracted_twice(database, tmp_path, earlier=earlier) == (2, 3)


@pytest.mark.parametrize(
    "option", [{"article_column": "batch_id", "position_column": "sequence_index"}, {"accept_table_order": True}]
)
def test_another_order_reads_everything_again(database, tmp_path, earlier, option):
    load(database, good_rows(LENGTHS))
    promote(database, tmp_path, earlier)
    if "accept_table_order" in option:
        execute(database, "ALTER TABLE cpe_entry DROP document_id, DROP chunk_position, DROP created_at")

    found = extracted_twice(database, tmp_path, earlier=earlier, options=ExtractOptions(**option))

    assert found == (0, 5)


def test_a_view_is_read_in_full(database, tmp_path, earlier):
    load(database, good_rows(LENGTHS))
    execute(database, "CREATE VIEW concepts AS SELECT * FROM cpe_entry")
    promote(database, tmp_path, earlier, entry_table="concepts")

    assert extracted_twice(database, tmp_path, earlier=earlier, entry_table="concepts") == (0, 5)


def test_a_killed_extraction_goes_on(database, tmp_path):
    rows = good_rows((30,) * 100)
    load(database, without(rows, "chunk_position", "batch_id", "created_at"))
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{database}\n")
    child.stdin.flush()
    assert child.stdout.readline() == "has parts\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    earlier = EarlierExtractions(concepts_path=tmp_path / "none", parts_dir=tmp_path / "parts", part_concepts=500)

    kept, read = extracted_twice(database, tmp_path, earlier=earlier)

    assert kept >= 33
    assert kept + read == 100
    assert not earlier.parts_dir.exists()
