"""Bad input gets one sentence that says what and what to do, exit code 1, and loses nothing.

Every case goes through the command line, against a real Postgres and real files, in a home that holds products of an
earlier run; these must be the same, byte for byte, when the command has failed.
"""

import shutil

import numpy as np
import psycopg
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.lineage.data import promote_with_sequences, stage_concepts
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline_tests.adapters.source_tables import DIM, execute, good_rows, id_of, load, with_changes
from lvm_pipeline_tests.exchange.test_full_disk import no_room_beyond
from lvm_pipeline_tests.synthetic import synthetic_table, write_synthetic_concepts, write_synthetic_sequences

pytestmark = pytest.mark.postgres

RUN = ("run", "--architecture", "gru", "--preset", "smoke")
NOT_A_NUMBER = [float("nan")] + [0.1] * (DIM - 1)


@pytest.fixture(scope="module")
def earlier_home(open_tmp_path_factory):
    """A home with the products of an earlier run."""
    home = open_tmp_path_factory() / "home"
    concepts_path = write_synthetic_concepts(home / "data" / "concepts.parquet", article_lengths=[12] * 12)
    write_synthetic_sequences(concepts_path, home / "data" / "sequences.parquet")
    (home / "models" / "gru").mkdir(parents=True)
    (home / "models" / "gru" / "model.safetensors").write_bytes(b"weights of an earlier training")
    return home


def products_of(home):
    return {
        path.relative_to(home): path.read_bytes()
        for folder in ("data", "models")
        for path in (home / folder).rglob("*")
        if path.is_file()
    }


@pytest.fixture
def refused(earlier_home, lvm, monkeypatch):
    """Run a command that must fail with one sentence and leave the home's products as they are; give the sentence."""
    monkeypatch.setenv("LVM_HOME", str(earlier_home))
    before = products_of(earlier_home)

    def refused(*arguments):
        code, out, err = lvm(*arguments)
        assert code == 1
        assert "Traceback" not in out + err
        sentence = err.strip()
        assert sentence.startswith("Error: ")
        assert "\n" not in sentence
        assert products_of(earlier_home) == before
        return sentence

    return refused


def broken(rows=None, **options):
    """Load the rows of a good source with changes to some: number of the row -> columns."""
    return lambda url: load(url, with_changes(good_rows(), rows or {}), **options)


def then(*statements):
    """Load a good source, then break it by statements."""

    def make(url):
        load(url, good_rows())
        execute(url, *statements)

    return make


SOURCES = {
    "missing_table": (
        lambda url: execute(url, "CREATE TABLE other (x int)"),
        ("There is no table cpe_entry", "tables: other", "lvm ingest FILE"),
    ),
    "missing_column": (
        then("ALTER TABLE cpe_entry RENAME COLUMN concept_text TO words"),
        ("The table cpe_entry has no column concept_text", "words", "Rename one or create a view"),
    ),
    "missing_vector_column": (
        broken(column="embedding"),
        ("There is no column concept_vec with vectors", "set LVM_VECTOR_COLUMN"),
    ),
    "no_rows": (then("DELETE FROM cpe_entry"), ("The table cpe_entry holds no rows", "lvm ingest FILE")),
    "missing_vectors": (
        broken(rows={4: {"vector": None}, 11: {"vector": None}}),
        (
            f"2 of 25 concepts have no vector: {id_of('0#4')}, {id_of('1#5')}",
            "or delete their articles",
        ),
    ),
    "not_a_number": (
        broken(rows={7: {"vector": NOT_A_NUMBER}}, vector_type="real[]"),
        ("vectors_are_finite_and_of_one_width", f"row 7 ({id_of('1#1')})", "encode"),
    ),
    "mixed_widths": (
        broken(rows={4: {"vector": [0.6, 0.8]}}),
        (
            f"{id_of('0#4')} (width 2)",
            "1 of width 2, 24 of width 8",
            "with the encoder of the other vectors",
        ),
    ),
    "ambiguous_order": (
        then("UPDATE cpe_entry SET sequence_index = 0, chunk_position = NULL, created_at = now()"),
        ("order_is_unambiguous", "article-0", "LVM_ARTICLE_COLUMN"),
    ),
    "one_article_only": (
        lambda url: load(url, good_rows((25,))),
        ("holds 1 article", "load more articles"),
    ),
    "short_articles_only": (
        lambda url: load(url, good_rows((5, 4, 3, 5))),
        ("longest", "6 concepts", "LVM_CONTEXT_LENGTH"),
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_cannot_be_used_is_refused(refused, postgres_url, monkeypatch, name):
    make, words = SOURCES[name]
    make(postgres_url)
    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)

    sentence = refused(*RUN)

    assert [word for word in words if word not in sentence] == [], sentence


def test_an_empty_filter_result_names_what_there_is(refused, postgres_url, monkeypatch):
    load(postgres_url, good_rows())
    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)
    monkeypatch.setenv("LVM_DATASET_SOURCE", "factoid")

    sentence = refused(*RUN)

    assert "has the dataset_source 'factoid' (it has user_input (25 rows)); correct LVM_DATASET_SOURCE" in sentence


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("port", "1", "No Postgres answers at"),
        ("password", "s3cret-word", "refuses the user or password; correct LVM_DATABASE_URL"),
        ("dbname", "nothing", "There is no database at"),
    ],
)
@pytest.mark.parametrize("arguments", [RUN, ("verify",), ("ingest", "--space", "test@1")], ids=lambda words: words[0])
def test_an_unreachable_database_is_reported(refused, given, postgres_url, monkeypatch, part, value, words, arguments):
    parts = psycopg.conninfo.conninfo_to_dict(postgres_url) | {part: value}
    monkeypatch.setenv("LVM_DATABASE_URL", "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**parts))

    sentence = refused(*arguments, *([given] if "ingest" in arguments else []))

    assert words in sentence
    assert "LVM_DATABASE_URL" in sentence
    assert parts["password"] not in sentence


@pytest.fixture
def given(tmp_path):
    """A good Parquet of concepts with vectors of width 32."""
    path = tmp_path / "given.parquet"
    columns = ["article_id", "position", "concept_text", "vector"]
    pq.write_table(synthetic_table([12] * 12).select(columns), path)
    return path


def test_vectors_of_another_width_than_the_table_takes_are_refused(refused, given, postgres_url, monkeypatch):
    load(postgres_url, good_rows(), vector_type=f"vector({DIM})")
    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)

    sentence = refused("ingest", given, "--space", "test@1")

    assert "32" in sentence
    assert str(DIM) in sentence
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM cpe_entry").fetchone() == (25,)


@pytest.mark.parametrize("command", [("train", "--data"), ("evaluate", "--test-data"), ("ingest",)], ids=lambda c: c[0])
@pytest.mark.parametrize("damage", ["cut", "overwritten", "empty"])
def test_a_corrupt_parquet_is_refused(refused, given, postgres_url, monkeypatch, command, damage):
    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)
    content = given.read_bytes()
    broken_bytes = {"cut": content[: len(content) // 2], "overwritten": b"\0" * len(content), "empty": b""}
    given.write_bytes(broken_bytes[damage])

    sentence = refused(*command, given)

    if command[0] != "evaluate":  # which looks at the model first
        assert "given.parquet" in sentence


@pytest.mark.parametrize("command", [("train", "--data"), ("import",)], ids=lambda c: c[0])
@pytest.mark.parametrize("damage", ["cut", "overwritten", "empty"])
def test_a_corrupt_npz_is_refused(refused, tmp_path, command, damage):
    path = tmp_path / "given.npz"
    np.savez(path, cpe_ids=np.array(["a", "b"]), vectors=np.ones((2, DIM), np.float32))
    content = path.read_bytes()
    broken_bytes = {"cut": content[: len(content) // 2], "overwritten": b"\0" * len(content), "empty": b""}
    path.write_bytes(broken_bytes[damage])

    assert "given.npz" in refused(*command, path)


def test_whole_products_are_reported(lvm, earlier_home, tmp_path, monkeypatch):
    home = tmp_path / "home"
    shutil.copytree(earlier_home / "data", home / "data")
    monkeypatch.setenv("LVM_HOME", str(home))

    code, out, _ = lvm("verify", "--products")

    assert code == 0
    assert "144 concepts in 12 articles" in out
    assert "checkpoint_reproduces_its_score" not in out, "there is no champion"
    assert "No blocking invariant fails." in out


def test_a_corrupt_product_is_reported_with_its_path(lvm, earlier_home, tmp_path, monkeypatch):
    home = tmp_path / "home"
    shutil.copytree(earlier_home / "data", home / "data")
    monkeypatch.setenv("LVM_HOME", str(home))
    path = home / "data" / "concepts.parquet"
    path.write_bytes(path.read_bytes()[:-100])

    code, out, err = lvm("verify", "--products")

    assert code == 1
    assert str(path) in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("num_bytes", [1, 1000, 5000])
def test_a_full_disk_is_reported(refused, postgres_url, monkeypatch, num_bytes):
    load(postgres_url, good_rows((40, 40, 40)))
    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)

    with no_room_beyond(num_bytes):
        sentence = refused(*RUN)

    assert "is full; free space and try again" in sentence


def test_a_good_source_takes_the_place_of_both_products(fresh_settings, postgres_url):
    load(postgres_url, good_rows((12, 12, 12, 12, 12, 12)))

    promote_with_sequences(fresh_settings, stage_concepts(fresh_settings))

    concepts = read_concepts_metadata(fresh_settings.concepts_path)
    assert concepts.num_concepts == 72
    assert read_sequences_metadata(fresh_settings.sequences_path).concepts_fingerprint == concepts.fingerprint
    assert not list(fresh_settings.staging_dir.iterdir())
