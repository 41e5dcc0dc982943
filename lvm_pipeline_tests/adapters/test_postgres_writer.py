import json
import threading
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from lvm_pipeline.adapters.postgres_writer import PostgresWriter, vector_rows
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.articles import make_cpe_id
from lvm_pipeline.source.deduplication import Location, TableState
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline.source.load import EntryBatch, ingest
from lvm_pipeline.source.records import Concept, text_digest, vector_digests

pytestmark = pytest.mark.postgres
DIM = 8


def batch(num=3, *, article_id="a0", dim=DIM, seed=0, source="s"):
    concepts = [
        Concept(
            number=position + 1,
            cpe_id=make_cpe_id(source, article_id, position),
            article_id=article_id,
            title="Tïtle 'quoted' \\ \t",
            position=position,
            text=f"text {position} of {article_id}\nÜber \\N \t 字",
        )
        for position in range(num)
    ]
    vectors = unit_length(np.random.default_rng(seed).standard_normal((num, dim)))
    locations = [Location(article_index=4, position=position) for position in range(num)]
    return EntryBatch(concepts=concepts, locations=locations, vectors=vectors)


def write(writer, *batches, dataset_source="s", space_id="space@1"):
    return writer.write(batches, dataset_source=dataset_source, space_id=space_id)


def query(url, text, *parameters):
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(text, parameters)
        return cursor.fetchall() if cursor.description else None


def with_user(url, user, password):
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, f"{user}:{password}@{parts.hostname}:{parts.port}", parts.path, "", ""))


@pytest.fixture
def plain_user(database):
    """URL of a user without any rights of its own."""
    name = "plain_reader"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret-word'").format(sql.Identifier(name)))
    yield with_user(database, name, "secret-word")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_rows_are_read_as_written(database):
    given = batch()
    writer = PostgresWriter(database)
    assert writer.state("s") == TableState()
    assert write(writer, given, batch(article_id="a1", seed=1)) == 6

    rows = query(
        database,
        "SELECT e.cpe_id::text, concept_text, dataset_source, document_id, sequence_index, chunk_position,"
        " batch_id::text, concept_vec::real[], space_id, created_at IS NOT NULL"
        " FROM cpe_entry e JOIN cpe_vectors USING (cpe_id) WHERE document_id = 'a0' ORDER BY sequence_index",
    )
    for concept, vector, row in zip(given.concepts, given.vectors, rows, strict=True):
        position = concept.position
        chunk = {"article_index": 4, "chunk_index": position, "article_title": concept.title}
        assert row[:6] == (concept.cpe_id, concept.text, "s", "a0", position, chunk)
        np.testing.assert_array_equal(np.array(row[7], np.float32), vector)
        assert row[8:] == ("space@1", True)
    assert len({row[6] for row in rows}) == 1


def test_the_state_describes_the_tables(database):
    given = batch()
    writer = PostgresWriter(database)
    write(writer, given)
    write(writer, batch(article_id="a1", source="t", dim=3), dataset_source="t", space_id="space@2")

    state = writer.state("s")
    assert state.space_counts == {"space@1": 3}
    assert set(state.rows) == {concept.cpe_id for concept in given.concepts}
    for concept, digest in zip(given.concepts, vector_digests(given.vectors), strict=True):
        row = state.rows[concept.cpe_id]
        assert (row.article_id, row.position, row.article_index) == ("a0", concept.position, 4)
        assert row.text_digest == text_digest(concept.text)
        assert row.vector_digest == digest
    assert writer.state("nobody") == TableState()


def test_rows_of_replaced_articles_are_deleted_in_the_same_transaction(database):
    writer = PostgresWriter(database)
    write(writer, batch(), batch(article_id="a1", seed=1))
    write(writer, batch(source="t"), dataset_source="t")

    def counts():
        return query(
            database,
            "SELECT dataset_source, document_id, count(*), count(concept_vec) FROM cpe_entry"
            " LEFT JOIN cpe_vectors USING (cpe_id) GROUP BY 1, 2 ORDER BY 1, 2",
        )

    def broken():
        yield batch(num=2, seed=2)
        raise RuntimeError("broken off")

    before = counts()
    with pytest.raises(RuntimeError, match="broken off"):
        writer.write(broken(), dataset_source="s", space_id="space@1", replaced=["a0"])
    assert counts() == before == [("s", "a0", 3, 3), ("s", "a1", 3, 3), ("t", "a0", 3, 3)]

    assert writer.write([batch(num=2, seed=2)], dataset_source="s", space_id="space@1", replaced=["a0"]) == 2
    assert counts() == [("s", "a0", 2, 2), ("s", "a1", 3, 3), ("t", "a0", 3, 3)]
    assert query(database, "SELECT count(*) FROM cpe_vectors") == [(8,)]


def test_nothing_stays_of_a_load_that_breaks_off(database):
    writer = PostgresWriter(database)

    def broken():
        yield batch()
        raise LvmError("the file ended")

    with pytest.raises(LvmError, match="the file ended"):
        writer.write(broken(), dataset_source="s", space_id="x")
    assert query(database, "SELECT to_regclass('cpe_entry') IS NULL") == [(True,)]

    write(writer, batch(article_id="first"))
    with pytest.raises(LvmError, match="already, under another dataset source"):
        write(writer, batch(article_id="second"), batch(article_id="first"), dataset_source="other")
    assert query(database, "SELECT count(*) FROM cpe_entry") == [(3,)]
    assert query(database, "SELECT count(*) FROM cpe_vectors") == [(3,)]


def test_parquet_is_ingested_once_and_again_without_effect(database, tmp_path):
    vectors = unit_length(np.random.default_rng(0).standard_normal((40, DIM))).astype(np.float16)
    table = pa.table(
        {
            "article_id": [f"a{row // 10}" for row in range(40)],
            "position": [row % 10 for row in range(40)],
            "concept_text": [f"text {row % 39}" for row in range(40)],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
        }
    )
    path = tmp_path / "given.parquet"
    pq.write_table(table, path, row_group_size=7)
    writer, settings = PostgresWriter(database), Settings(home=tmp_path)

    first = ingest(path, writer, settings=settings)
    before = query(database, "SELECT e.*, v.* FROM cpe_entry e JOIN cpe_vectors v USING (cpe_id) ORDER BY 1")
    second = ingest(path, writer, settings=settings)
    after = query(database, "SELECT e.*, v.* FROM cpe_entry e JOIN cpe_vectors v USING (cpe_id) ORDER BY 1")

    assert (first.num_inserted, len(first.duplicates)) == (39, 1)
    assert (second.num_inserted, second.num_known, len(second.duplicates)) == (0, 39, 1)
    assert before == after
    stored = query(database, "SELECT concept_vec::real[] FROM cpe_vectors JOIN cpe_entry USING (cpe_id)"
                             " ORDER BY substr(concept_text, 6)::int")  # fmt: skip
    np.testing.assert_array_equal(np.array(stored, np.float32)[:, 0], vectors[:39].astype(np.float32))


def test_two_loads_at_once_both_end_well(database):
    writer = PostgresWriter(database)
    errors = []

    def load(name):
        try:
            write(writer, *(batch(20, article_id=f"{name}{i}", seed=i) for i in range(5)))
        except LvmError as error:
            errors.append(error)

    threads = [threading.Thread(target=load, args=[name]) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert query(database, "SELECT count(*) FROM cpe_entry") == [(300,)]


@pytest.mark.parametrize("space_id", ["one@1", "two@1"])
def test_of_two_loads_at_once_that_read_the_same_state_one_is_refused(database, tmp_path, space_id):
    """Both would give their articles the same places, or mix vector spaces."""

    class Encoder:
        vector_dim = DIM

        def __init__(self, space_id, before=None):
            self.space_id, self._before = space_id, before

        def encode(self, texts, *, progress=None):
            if self._before:
                self._before()
            return unit_length(np.random.default_rng(len(texts[0])).standard_normal((len(texts), DIM)))

    def load(name, encoder):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps({"title": name, "concepts": [f"{name} says {thing}." for thing in "abc"]}))
        return ingest(path, PostgresWriter(database), settings=Settings(home=tmp_path), encoder=encoder)

    with pytest.raises(LvmError, match="Another load changed user_input meanwhile; nothing was written"):
        load("second", Encoder(space_id, before=lambda: load("first", Encoder("one@1"))))
    assert query(database, "SELECT space_id, count(*) FROM cpe_vectors GROUP BY 1") == [("one@1", 3)]
    assert load("second", Encoder("one@1")).num_inserted == 3


def test_tables_may_have_other_names_and_schemas(database):
    query(database, 'CREATE SCHEMA "my data"')
    writer = PostgresWriter(database, entry_table='"my data".entries', vector_table='"my data".vectors')
    assert write(writer, batch()) == 3
    assert len(writer.state("s").rows) == 3
    assert query(database, 'SELECT count(*) FROM "my data".vectors') == [(3,)]


def test_the_form_of_url_that_names_a_driver_works(database):
    writer = PostgresWriter(database.replace("postgresql://", "postgresql+psycopg2://"))
    assert write(writer, batch()) == 3


def test_a_found_table_with_text_keys_is_filled(database):
    query(
        database,
        "CREATE TABLE cpe_entry (cpe_id text PRIMARY KEY, concept_text text, dataset_source text, document_id text,"
        " sequence_index bigint, batch_id text, created_at timestamptz DEFAULT now());"
        "CREATE TABLE cpe_vectors (cpe_id text PRIMARY KEY, concept_vec vector(8), space_id varchar)",
    )
    writer = PostgresWriter(database)
    assert write(writer, batch()) == 3
    assert len(writer.state("s").rows) == 3
    with pytest.raises(LvmError, match="expected 8 dimensions, not 5"):
        write(writer, batch(article_id="b", dim=5))


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            "ALTER TABLE cpe_entry DROP COLUMN sequence_index",
            "run ALTER TABLE cpe_entry ADD COLUMN sequence_index integer",
        ),
        ("ALTER TABLE cpe_vectors DROP COLUMN space_id", "run ALTER TABLE cpe_vectors ADD COLUMN space_id text"),
        ("ALTER TABLE cpe_entry DROP COLUMN concept_text", "lacks the column concept_text"),
        ("DROP TABLE cpe_vectors", "cpe_vectors is missing beside the other one"),
        ("ALTER TABLE cpe_vectors ALTER concept_vec TYPE real[]", "has the type _float4"),
        ("ALTER TABLE cpe_entry ALTER validation_status SET NOT NULL", 'null value in column "validation_status"'),
    ],
)
def test_tables_that_cannot_take_the_rows_are_reported(database, statement, reason):
    writer = PostgresWriter(database)
    writer.write([], dataset_source="s", space_id="x")  # makes the tables
    query(database, statement)
    with pytest.raises(LvmError) as caught:
        write(writer, batch())
    assert reason in str(caught.value)


def test_missing_privileges_are_reported_before_anything_is_encoded(database, plain_user):
    writer = PostgresWriter(plain_user)
    with pytest.raises(LvmError, match="grant CREATE on the schema"):
        writer.state("s")
    write(PostgresWriter(database), batch())
    query(database, "GRANT USAGE ON SCHEMA public TO plain_reader")
    with pytest.raises(LvmError, match="grant SELECT and INSERT"):
        writer.state("s")
    with pytest.raises(LvmError, match="lacks a privilege") as caught:
        write(writer, batch(article_id="b"))
    assert "secret-word" not in str(caught.value)


def test_a_missing_extension_is_reported(database, plain_user):
    query(database, "DROP EXTENSION vector")
    with pytest.raises(LvmError, match="run CREATE EXTENSION vector"):
        PostgresWriter(plain_user).state("s")
    assert write(PostgresWriter(database), batch()) == 3  # who may make it, makes it


def test_a_wrong_password_is_reported_without_printing_it(database):
    writer = PostgresWriter(with_user(database, urlsplit(database).username, "wrong-word"))
    with pytest.raises(LvmError, match="refuses the user or password") as caught:
        writer.state("s")
    assert "wrong-word" not in str(caught.value)
    assert "wrong-word" not in repr(writer)


def test_an_absent_server_is_reported():
    with pytest.raises(LvmError, match="No Postgres answers"):
        PostgresWriter("postgresql://me:word@127.0.0.1:1/x").state("s")


def test_vector_rows_are_what_copy_wants():
    rows = vector_rows(
        ["00000000-0000-0000-0000-000000000001"], np.array([[1, -0.0]], np.float32), space_id="ab", is_uuid=True
    )
    expected = (
        "0003"
        + "00000010"
        + "0" * 31
        + "1"
        + "0000000c"
        + "0002"
        + "0000"
        + "3f800000"
        + "00000000"
        + "00000002"
        + "6162"
    )
    assert rows.hex() == expected


def test_codes_are_written_where_there_are_none_and_a_second_time_changes_nothing(database):
    writer = PostgresWriter(database, entry_table="coded_entry", vector_table="coded_vectors")
    given = batch(4)
    write(writer, given)
    ids = [concept.cpe_id for concept in given.concepts]
    query(
        database, "UPDATE coded_entry SET domain_code = 9, task_code = 0, modifier_code = 0 WHERE cpe_id = %s", ids[0]
    )
    query(
        database, "UPDATE coded_entry SET domain_code = 0, task_code = 0, modifier_code = 0 WHERE cpe_id = %s", ids[1]
    )

    codes = [(cpe_id, (15, 0, 18)) for cpe_id in ids[:3]]
    assert writer.write_codes(codes) == 2
    assert writer.write_codes(codes) == 0

    columns = "domain_code, task_code, modifier_code, tmd_bits"
    found = dict(query(database, f"SELECT cpe_id::text, ROW({columns})::text FROM coded_entry"))
    assert found[ids[0]] == "(9,0,0,)"
    assert found[ids[1]] == found[ids[2]] == "(15,0,18,30738)"
    assert found[ids[3]] == "(,,,)"


def test_a_table_without_columns_for_codes_is_refused(database):
    writer = PostgresWriter(database, entry_table="uncoded_entry", vector_table="uncoded_vectors")
    write(writer, batch(1))
    query(database, "ALTER TABLE uncoded_entry DROP COLUMN task_code")
    with pytest.raises(LvmError, match="uncoded_entry has no column task_code for TMD codes; add it"):
        writer.write_codes([])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("9, NULL, 4", "(9,2,4,18564)"),
        ("NULL, 0, 3", "(7,0,3,14339)"),
        ("0, NULL, NULL", "(7,2,1,14465)"),  # no code above 0: as good as none
        ("-1, 5, -1", "(7,5,1,14657)"),
        ("30, NULL, 1", "(30,2,1,)"),  # 30 is out of range
    ],
)
def test_missing_codes_are_filled_and_present_ones_kept(database, before, after):
    writer = PostgresWriter(database, entry_table="partly_entry", vector_table="partly_vectors")
    given = batch(1)
    query(database, "DROP TABLE IF EXISTS partly_entry, partly_vectors CASCADE")
    write(writer, given)
    query(database, f"UPDATE partly_entry SET (domain_code, task_code, modifier_code) = ROW({before})")

    codes = [(given.concepts[0].cpe_id, (7, 2, 1))]
    assert writer.write_codes(codes) == 1
    assert writer.write_codes(codes) == 0

    columns = "domain_code, task_code, modifier_code, tmd_bits"
    assert query(database, f"SELECT ROW({columns})::text FROM partly_entry") == [(after,)]


def test_codes_are_not_written_into_columns_of_text(database):
    writer = PostgresWriter(database, entry_table="texts_entry", vector_table="texts_vectors")
    write(writer, batch(1))
    query(database, "ALTER TABLE texts_entry DROP CONSTRAINT IF EXISTS x, ALTER COLUMN domain_code TYPE text")
    with pytest.raises(LvmError, match=r"texts_entry\.domain_code has the type text"):
        writer.write_codes([])
