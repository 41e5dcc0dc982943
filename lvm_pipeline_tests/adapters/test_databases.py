"""Promises of the database URLs: the right server, the right driver, and errors without the password."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from lvm_pipeline import lineage
from lvm_pipeline.adapters import databases
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.adapters.source_tables import good_rows, load

SECRET = "hush-hush"


def fetch(url, statement):
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(statement)]


@pytest.mark.postgres
def test_the_embedded_server_has_three_databases(lvm_home, embedded_server):
    settings = Settings(home=lvm_home)

    assert fetch(databases.source_url(settings), "SELECT '[1,2]'::vector::text") == ["[1,2]"]
    for url, database in [(databases.dagster_url(settings), "dagster"), (databases.mlflow_url(settings), "mlflow")]:
        assert url.startswith("postgresql+psycopg2://")
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT current_database()")) == database


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2", "postgresql+psycopg"])
def test_an_external_database_replaces_only_the_source(scheme, tmp_path):
    settings = Settings(home=tmp_path, database_url=f"{scheme}://me:{SECRET}@db.example:5433/mine?sslmode=require")

    assert databases.source_url(settings) == f"postgresql://me:{SECRET}@db.example:5433/mine?sslmode=require"
    assert not (tmp_path / "postgres").exists()


@pytest.mark.postgres
def test_an_external_database_can_hold_dagsters_storage(postgres_url, tmp_path):
    settings = Settings(home=tmp_path, dagster_database_url=postgres_url)

    assert databases.dagster_url(settings) == postgres_url.replace("postgresql://", "postgresql+psycopg2://")
    assert not (tmp_path / "postgres").exists()
    with pytest.raises(LvmError, match="correct the last part of LVM_DAGSTER_DATABASE_URL"):
        databases.dagster_url(Settings(home=tmp_path, dagster_database_url=f"{postgres_url}_none"))


@pytest.mark.parametrize("url", ["mysql://me:hush-hush@host/db", "hush-hush", "postgresql://me:hush/hush@host/db"])
def test_what_is_no_postgres_url_is_refused_without_repeating_it(url, tmp_path):
    with pytest.raises(LvmError, match="LVM_DATABASE_URL") as refusal:
        databases.source_url(Settings(home=tmp_path, database_url=url))

    assert "hush" not in str(refusal.value)


@pytest.mark.postgres
def test_each_way_a_database_cannot_be_reached_has_its_own_sentence(embedded_server):
    good = embedded_server.url("postgres")
    databases.check_connection(good)
    wrong = {
        "refuses the user or password": good.replace(embedded_server.password, SECRET),
        "There is no database": embedded_server.url("nowhere"),
        r"No Postgres answers.*Connection refused\)": f"postgresql://lvm:{SECRET}@127.0.0.1:1/lvm",
        "has the parameter no_such_option, which Postgres does not know": f"postgresql://lvm:{SECRET}@127.0.0.1/lvm?no_such_option=1",
    }

    for sentence, url in wrong.items():
        with pytest.raises(LvmError, match=sentence) as refusal:
            databases.check_connection(url)
        assert SECRET not in str(refusal.value)
        assert embedded_server.password not in str(refusal.value)
        assert str(refusal.value).count("\n") == 0


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        ("host/db?pgbouncer=true", "has the parameter pgbouncer, which Postgres does not know; remove it"),
        ("host/db?schema=mine", "has the parameter schema, .* write the tables as SCHEMA.TABLE in LVM_ENTRY_TABLE"),
        ("host/db?ssl=1", "has the parameter ssl, .* write sslmode=require"),
        ("host/db?sslmode", "The parameter sslmode in LVM_DATABASE_URL has no value"),
        ("host:1,other:2,third:3x/db", "has an invalid port"),
        ("host,other:1:2/db", "has an invalid port"),
        ("host/db\n?sslmode=require", "contains a line break"),
        ("host/db?connect_timeout=soon", "has an invalid connect_timeout"),
        ("host/%zz", "is not a valid Postgres URL; percent-encode"),
    ],
)
def test_what_is_wrong_with_a_url_is_named(rest, sentence, tmp_path):
    with pytest.raises(LvmError, match=sentence) as refusal:
        databases.source_url(Settings(home=tmp_path, database_url=f"postgresql://me:{SECRET}@{rest}"))

    assert SECRET not in str(refusal.value)


def test_white_space_around_a_url_is_dropped(tmp_path):
    settings = Settings(home=tmp_path, database_url=f" postgresql://me:{SECRET}@host/mine\n")

    assert databases.source_url(settings) == f"postgresql://me:{SECRET}@host/mine"


def test_the_time_to_connect_is_that_of_the_url(monkeypatch):
    asked = []
    monkeypatch.setattr(psycopg, "connect", lambda *url, **options: asked.append(make_conninfo(*url, **options)))

    for url in ("postgresql://host/db?connect_timeout=60", "postgresql://host/db"):
        databases.connect(url)

    assert [conninfo_to_dict(each)["connect_timeout"] for each in asked] == ["60", str(databases.CONNECT_SECONDS)]


@pytest.mark.postgres
def test_of_several_hosts_the_one_that_answers_is_used(database_of_rows, tmp_path):
    parts = conninfo_to_dict(database_of_rows)
    url = "postgresql://{user}:{password}@127.0.0.1:1,{host}:{port}/{dbname}?target_session_attrs=any".format(**parts)
    settings = Settings(home=tmp_path, database_url=url, dagster_database_url=url)

    with lineage.source_reader(settings).open() as table:
        assert table.describe().num_rows == 25
        assert table.describe().source.startswith("postgresql://{user}@127.0.0.1:1,{host}:{port}/".format(**parts))
    engine = sqlalchemy.create_engine(databases.dagster_url(settings), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT count(*) FROM cpe_entry")) == 25
    with psycopg.connect(databases.dagster_url(settings).replace("+psycopg2", "", 1)) as connection:
        assert connection.execute("SELECT count(*) FROM cpe_entry").fetchone() == (25,)


@pytest.mark.postgres
def test_a_service_file_names_the_server(database_of_rows, tmp_path, monkeypatch):
    parts = conninfo_to_dict(database_of_rows)
    lines = ["[mine]", *(f"{name}={value}" for name, value in parts.items())]
    (tmp_path / "services.conf").write_text("\n".join(lines))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services.conf"))
    settings = Settings(home=tmp_path, database_url="postgresql://?service=mine")

    with lineage.source_reader(settings).open() as table:
        assert table.describe().num_rows == 25
        assert table.describe().source.startswith("postgresql:///?service=mine")


@pytest.fixture
def database_of_rows(database):
    load(database, good_rows())
    return database


def test_a_shown_url_has_no_password():
    assert databases.shown(f"postgresql://me:{SECRET}@host:5433/db?password={SECRET}") == "postgresql://me@host:5433/db"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"https://{SECRET}@127.0.0.1:5998/mlflow", "https://127.0.0.1:5998/mlflow"),
        (f"https://me:{SECRET}@host?key={SECRET}", "https://host"),
        ("http://[::1]:5999", "http://[::1]:5999"),
        ("sqlite:////srv/lvm/mlflow.db", "sqlite:////srv/lvm/mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_a_shown_address_can_be_read_and_has_no_token(url, shown):
    assert databases.shown(url) == shown


@pytest.mark.postgres
def test_processes_may_create_a_database_at_once(embedded_server):
    name = f"test_{uuid.uuid4().hex[:12]}"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: databases.create_database(embedded_server, name, extension="vector"), range(4)))

    assert fetch(embedded_server.url(name), "SELECT extname FROM pg_extension WHERE extname = 'vector'") == ["vector"]
