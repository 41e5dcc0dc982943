"""Whatever a file, a variable, a URL or a request holds ends well or in one sentence.

A corpus of odd files and generated ones go through every reader; no exception but `LvmError` comes out.
"""

import json
import os
import string
import traceback

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lvm_pipeline import lineage
from lvm_pipeline.adapters.database_urls import plain_url, shown, sqlalchemy_url, with_parameters
from lvm_pipeline.concepts.schema import ConceptsMetadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.from_files import import_npz, tables_of
from lvm_pipeline.lineage.prediction import predict_on
from lvm_pipeline.settings import Settings, load_settings
from lvm_pipeline.source.load import ingest
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline_tests.evaluation.products import make_products
from lvm_pipeline_tests.odd_files import NUM_ROWS, good_table, write_odd_files
from lvm_pipeline_tests.source.memory_table import MemoryTable
from lvm_pipeline_tests.synthetic import synthetic_table

FUZZ = settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
MUCH = settings(FUZZ, max_examples=1000, derandomize=False)


def in_minutes(test):
    """Mark a test that takes minutes."""
    return pytest.mark.slow(pytest.mark.long(test))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["title", "text", "concepts", "article_id", "vector", "tmd_dense", "space_id"])
RECORDS = st.dictionaries(FIELDS, JSON, max_size=5) | JSON
LISTS = [pa.float32(), pa.float64(), pa.int32(), pa.string(), pa.list_(pa.float32())]
TYPES = st.sampled_from(
    [
        *(pa.int64(), pa.uint64(), pa.float16(), pa.string(), pa.binary(), pa.bool_(), pa.date64(), pa.null()),
        *(pa.large_string(), pa.timestamp("ns"), pa.decimal128(38, 2), pa.struct([("x", pa.float32())])),
        *map(pa.list_, LISTS),
    ]
)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A home, a small trained model, and a counter for names."""
    folder = tmp_path_factory.mktemp("odd")
    model_dir = make_products(folder / "products", lengths=[12, 9, 14, 11] * 3).train(
        "gru", mode="articles", architecture="gru", epochs=1
    )
    return Settings(home=folder / "home", num_threads=1, device="cpu"), model_dir


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    return write_odd_files(tmp_path_factory.mktemp("odd_files"))


def problem_of(read):
    """Run a reader; return what is wrong with how it ended: anything but well, or in one sentence for people."""
    try:
        read()
    except LvmError as error:
        return None if str(error).strip() and "\n" not in str(error) else f"not a sentence: {error}"
    except Exception:  # noqa: BLE001 - any other is what these tests look for
        return traceback.format_exc()
    return None


def verify_as_product(settings, path):
    settings.concepts_path.parent.mkdir(parents=True, exist_ok=True)
    settings.concepts_path.write_bytes(path.read_bytes())
    lineage.verify_products(settings)


def readers_of(path, settings, model_dir):
    """Every door through which a file comes in."""
    ingest_options = {"settings": settings, "dataset_source": "s"}
    fresh = replace_home(settings, path)
    return {
        "ingest": lambda: ingest(path, MemoryTable(), **ingest_options),
        "ingest --skip-bad": lambda: ingest(path, MemoryTable(), skip_bad=True, **ingest_options),
        "train --data": lambda: load_training_data(*tables_of(settings, path), encoders_dir=settings.encoders_dir),
        "import": lambda: import_npz(fresh, path),
        "verify": lambda: verify_as_product(fresh, path),
        "predict": lambda: list(predict_on(settings, model_dir, path, warn=lambda _: None)),
    }


def replace_home(settings, path):
    return settings.model_copy(update={"home": settings.home / "homes" / path.name})


def drive(path, odd, *names):
    found = readers_of(path, *odd)
    problems = {f"{name} {path.name}": problem_of(found[name]) for name in names or found}
    return {name: problem for name, problem in problems.items() if problem}


def test_every_odd_file_ends_well_or_in_one_sentence(odd, odd_files):
    assert len(odd_files) > 90

    problems = {name: problem for path in odd_files for name, problem in drive(path, odd).items()}

    assert not problems, "\n".join(f"{name}: {problem[-600:]}" for name, problem in problems.items())


def lines_end_well(odd, tmp_path_factory, records, encoding):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes("\n".join(map(json.dumps, records)).encode(encoding))

    assert not drive(path, odd, "ingest", "predict")


any_lines = given(st.lists(RECORDS, min_size=1, max_size=4), st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
a_key_with_a_line_break = example([{"\n": None}], "utf-8")
test_lines_of_any_json_end_well_or_in_one_sentence = FUZZ(a_key_with_a_line_break(any_lines(lines_end_well)))
test_many_lines_end_well_or_in_one_sentence = in_minutes(MUCH(any_lines(lines_end_well)))


@st.composite
def columns(draw):
    """A column of any type, or any values of the type that is expected."""
    kind = draw(TYPES)
    values = draw(st.lists(st.none() | st.integers(0, 3), min_size=NUM_ROWS, max_size=NUM_ROWS))
    try:
        return pa.array(values).cast(kind)
    except (pa.ArrowException, ValueError):
        return pa.nulls(NUM_ROWS, kind)


def parquet_ends_well(odd, tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    pq.write_table(good_table(**changes), path)

    assert not drive(path, odd, "ingest", "predict")


any_columns = given(
    st.dictionaries(
        st.sampled_from(["article_id", "position", "concept_text", "vector", "cpe_id", "tmd_dense"]), columns()
    )
)
test_parquet_of_any_types_ends_well_or_in_one_sentence = FUZZ(any_columns(parquet_ends_well))
test_much_parquet_ends_well_or_in_one_sentence = in_minutes(MUCH(any_columns(parquet_ends_well)))


PRODUCT = synthetic_table([8] * 6, vector_dim=8)
METADATA = ConceptsMetadata(
    **dict.fromkeys(("fingerprint", "space_id", "source", "dataset_source", "order_key"), "odd"),
    **dict.fromkeys(("num_concepts", "num_source_rows"), 48),
    num_articles=6,
    vector_dim=8,
    duplicates_policy="fail",
).as_parquet_metadata()
OTHER_COLUMNS = [
    None,
    pa.nulls(48),
    pa.array(["odd"] * 48),
    pa.array(range(48), pa.int64()),
    pa.array([[1, 2]] * 48),
    pa.array([[0.5, 0.5]] * 48, pa.list_(pa.float32(), 2)),
    pa.array([True] * 48),
]


def drive_odd_product(odd, folder, name, column):
    """Verify and train on a concept table of which one column is another."""
    index = PRODUCT.schema.get_field_index(name)
    changed = PRODUCT.remove_column(index)
    table = changed if column is None else changed.add_column(index, name, column)
    path = folder / "product.parquet"
    pq.write_table(table.replace_schema_metadata(METADATA), path)
    return drive(path, odd, "verify", "train --data")


@settings(FUZZ, max_examples=12)
@given(st.sampled_from(PRODUCT.schema.names), st.sampled_from(OTHER_COLUMNS))
def test_an_odd_product_ends_well_or_in_one_sentence(odd, tmp_path_factory, name, column):
    assert not drive_odd_product(odd, tmp_path_factory.getbasetemp(), name, column)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRODUCT.schema.names)
def test_every_odd_product_ends_well_or_in_one_sentence(odd, tmp_path, name):
    for column in OTHER_COLUMNS:
        assert not drive_odd_product(odd, tmp_path, name, column)


def damage_ends_well(odd, odd_files, tmp_path_factory, data):
    source = data.draw(st.sampled_from([path for path in odd_files if 100 < path.stat().st_size < 20_000]))
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / f"damaged{source.suffix}"
    path.write_bytes(content)

    assert not drive(path, odd, "ingest", "predict", "verify" if source.suffix == ".parquet" else "import")


any_damage = given(st.data())
test_damaged_files_end_well_or_in_one_sentence = FUZZ(any_damage(damage_ends_well))
test_much_damage_ends_well_or_in_one_sentence = in_minutes(MUCH(any_damage(damage_ends_well)))


SYMBOLS = [":", "@", "/", "?", "&", "=", ",", "%", "%00", "[::1]", " ", "\n", "\0", "\udce9", "'", "\\"]
WORDS = [
    "postgresql://",
    "postgres+x://",
    "host",
    "5432",
    "sslmode",
    "require",
    "service",
    "pgbouncer=true",
    "host=a,b",
]
PIECES = st.sampled_from([*SYMBOLS, *WORDS])


@FUZZ
@given(st.lists(PIECES | st.text(string.printable, max_size=4), max_size=12).map("".join))
def test_any_text_is_a_url_or_refused(text):
    def read():
        url = plain_url(text, variable="LVM_DATABASE_URL")
        assert plain_url(url, variable="LVM_DATABASE_URL") == url
        with_parameters(url, connect_timeout="10")
        sqlalchemy_url(url, "psycopg2")

    assert problem_of(read) is None
    shown(text)


VARIABLES = st.sampled_from([f"LVM_{name.upper()}" for name in Settings.model_fields] + ["LVM_CHAT_KEY_FILE"])


@FUZZ
@given(
    st.dictionaries(VARIABLES, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9))
)
def test_any_variable_is_read_or_refused(variables):
    before = dict(os.environ)
    try:
        os.environ.update(variables)
        assert problem_of(load_settings) is None
    finally:
        os.environ.clear()
        os.environ.update(before)
