"""URLs of the databases: source tables, Dagster's storage, MLflow's store, Optuna's studies.

On the embedded server each is a database of its own, because all have a table `alembic_version`.
URLs contain their password: they are passed to drivers and child environments, and never printed (see
`database_urls.shown`).
"""

import time
from typing import Any

import psycopg
from psycopg import errors as postgres_errors
from psycopg import sql

from lvm_pipeline.adapters import embedded_postgres
from lvm_pipeline.adapters.database_urls import plain_url, shown, sqlalchemy_url, with_parameters
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

SOURCE_DATABASE = "lvm"
DAGSTER_DATABASE = "dagster"
MLFLOW_DATABASE = "mlflow"
OPTUNA_DATABASE = "optuna"
SOURCE_VARIABLE = "LVM_DATABASE_URL"
DAGSTER_VARIABLE = "LVM_DAGSTER_DATABASE_URL"
CONNECT_SECONDS = 10
CLIENT_ENCODING = "UTF8"
CREATE_ATTEMPTS = 20
HINT = "Is the server running"  # libpq's line after the reason

_known: set[tuple[embedded_postgres.Server, str]] = set()  # databases that this process has seen or created


def source_url(settings: Settings) -> str:
    """Return the `postgresql://` URL of the database with the source tables, for ADBC and psycopg.

    This is `LVM_DATABASE_URL`, or by default the embedded server with pgvector, started if needed.

    Raises:
        LvmError: If the URL is no Postgres URL, or the embedded server does not start.
    """
    if settings.database_url is not None:
        return plain_url(settings.database_url.get_secret_value(), variable=SOURCE_VARIABLE)
    return _embedded_url(settings, SOURCE_DATABASE, extension="vector")


def dagster_url(settings: Settings) -> str:
    """Return the URL of Dagster's storage: `LVM_DAGSTER_DATABASE_URL`, or by default on the embedded server.

    The driver is psycopg2: the default of SQLAlchemy 2.1, psycopg 3, fails in dagster-postgres on every event.

    Raises:
        LvmError: If the database cannot be used, or the embedded server does not start.
    """
    if settings.dagster_database_url is None:
        return sqlalchemy_url(_embedded_url(settings, DAGSTER_DATABASE), "psycopg2")
    url = plain_url(settings.dagster_database_url.get_secret_value(), variable=DAGSTER_VARIABLE)
    check_connection(url, variable=DAGSTER_VARIABLE)
    return sqlalchemy_url(url, "psycopg2")


def mlflow_url(settings: Settings) -> str:
    """Return the URL of MLflow's store on the embedded server, with psycopg2 as for Dagster."""
    return sqlalchemy_url(_embedded_url(settings, MLFLOW_DATABASE), "psycopg2")


def connect(url: str, **options: Any) -> psycopg.Connection:
    """Open a connection on which texts are UTF-8, whatever the encoding of the database and of its clients is.

    It must be made within `CONNECT_SECONDS`, unless the URL has another `connect_timeout`.
    """
    url = with_parameters(url, connect_timeout=str(CONNECT_SECONDS))
    return psycopg.connect(url, client_encoding=CLIENT_ENCODING, **options)


def optuna_url(settings: Settings) -> str:
    """Return the URL of Optuna's studies on the embedded server, with psycopg2 as for Dagster."""
    return sqlalchemy_url(_embedded_url(settings, OPTUNA_DATABASE), "psycopg2")


def check_connection(url: str, *, variable: str = SOURCE_VARIABLE) -> None:
    """Connect once to the database in a variable, so that a wrong URL fails at once.

    Raises:
        LvmError: If there is no server or database, or the user or password is refused.
    """
    try:
        with connect(url):
            pass
    except psycopg.ProgrammingError:  # libpq's message contains the URL
        plain_url(url, variable=variable)  # raises a precise error
        raise LvmError(
            f"The URL of {shown(url)} is invalid; percent-encode special characters in {variable}."
        ) from None
    except psycopg.Error as error:
        raise LvmError(_connection_problem(url, str(error), variable)) from None


def _embedded_url(settings: Settings, database: str, *, extension: str | None = None) -> str:
    server = embedded_postgres.ensure_running(settings.postgres_dir)
    if (server, database) not in _known:
        create_database(server, database, extension=extension)
        _known.add((server, database))
    return server.url(database)


def create_database(server: embedded_postgres.Server, database: str, *, extension: str | None = None) -> None:
    """Create a database and an extension if they are missing; two processes may do so at once."""
    with psycopg.connect(server.url("postgres"), autocommit=True, connect_timeout=CONNECT_SECONDS) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone()
        if known is None:
            _create_database(connection, database)
    if extension is not None:
        with psycopg.connect(server.url(database), autocommit=True, connect_timeout=CONNECT_SECONDS) as connection:
            known = connection.execute("SELECT 1 FROM pg_extension WHERE extname = %s", [extension]).fetchone()
            if known is None:
                _create_extension(connection, extension)


def _create_database(connection: psycopg.Connection, database: str) -> None:
    for attempt in range(CREATE_ATTEMPTS):
        try:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        except (postgres_errors.DuplicateDatabase, postgres_errors.UniqueViolation):
            return  # another process was faster
        except postgres_errors.ObjectInUse:  # another process is copying the template
            if attempt == CREATE_ATTEMPTS - 1:
                raise
            time.sleep(0.2)
        else:
            return


def _create_extension(connection: psycopg.Connection, extension: str) -> None:
    try:
        connection.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(extension)))
    except (postgres_errors.UniqueViolation, postgres_errors.DuplicateObject):
        return  # IF NOT EXISTS is no lock: another process was faster


def not_utf8(url: str) -> str:
    """Return the message about a database (of the encoding SQL_ASCII) whose texts are not all UTF-8."""
    return (
        f"The database at {shown(url)} holds texts that are not UTF-8 and does not say in which encoding they are; "
        "convert it to UTF8."
    )


def _connection_problem(url: str, message: str, variable: str) -> str:
    """Convert libpq's message to one sentence with what to do."""
    where = shown(url)
    lines = [line.strip() for line in message.splitlines() if line.strip() and HINT not in line]
    reason = lines[-1].removeprefix("connection failed: ") if lines else "no reason given"
    if "password authentication failed" in message or "no password supplied" in message:
        return f"The database at {where} refuses the user or password; correct {variable}."
    if "does not exist" in message and "database" in message:
        return f"There is no database at {where}; create it or correct the last part of {variable}."
    if "refused" in message or "timeout" in message or "could not translate" in message or "resolve" in message:
        return f"No Postgres answers at {where} ({reason}); start it or correct {variable}."
    return f"The database at {where} cannot be used ({reason.removesuffix('.')}); correct {variable} or the server."
