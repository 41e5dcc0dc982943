"""Promises of the database URLs: the right server, the right driver, and errors without the password."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy

from lvm_pipeline.adapters import databases
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

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
        "There is no database": embedded_server.url("nowhere").replace("lvm:", "lvm:"),
        "No Postgres answers": f"postgresql://lvm:{SECRET}@127.0.0.1:1/lvm",
        "is invalid": f"postgresql://lvm:{SECRET}@127.0.0.1/lvm?no_such_option=1",
    }

    for sentence, url in wrong.items():
        with pytest.raises(LvmError, match=sentence) as refusal:
            databases.check_connection(url)
        assert SECRET not in str(refusal.value)
        assert embedded_server.password not in str(refusal.value)
        assert str(refusal.value).count("\n") == 0


def test_a_shown_url_has_no_password():
    assert databases.shown(f"postgresql://me:{SECRET}@host:5433/db?password={SECRET}") == "postgresql://me@host:5433/db"


@pytest.mark.postgres
def test_processes_may_create_a_database_at_once(embedded_server):
    name = f"test_{uuid.uuid4().hex[:12]}"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: databases.create_database(embedded_server, name, extension="vector"), range(4)))

    assert fetch(embedded_server.url(name), "SELECT extname FROM pg_extension WHERE extname = 'vector'") == ["vector"]
