"""Fixtures for tests of adapters."""

import psycopg
import pytest

from lvm_pipeline.adapters import embedded_postgres
from lvm_pipeline_tests.adapters.processes import processes_of
from lvm_pipeline_tests.adapters.running_services import WITH_SMALL_DEFINITIONS, RunningServices


@pytest.fixture
def database(module_postgres_url):
    """An empty database."""
    with psycopg.connect(module_postgres_url, autocommit=True) as connection:
        connection.execute('DROP SCHEMA IF EXISTS "my data" CASCADE')
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute("CREATE EXTENSION vector")
    return module_postgres_url


@pytest.fixture
def home(open_tmp_path):
    """An empty home."""
    return open_tmp_path / "home"


@pytest.fixture
def start_services(home):
    """Start the services of the home; whatever the test did, nothing of them is left after it."""
    started = []

    def start(*command):
        started.append(RunningServices(home, *(command or WITH_SMALL_DEFINITIONS)))
        return started[-1].wait_until_up()

    yield start
    for process in processes_of(home):
        process.kill()
    for services_ in started:
        services_.process.communicate()


@pytest.fixture(scope="module")
def module_directory(open_tmp_path_factory):
    """Folder of a server that the tests of this module stop, kill and start again."""
    directory = open_tmp_path_factory() / "postgres"
    yield directory
    embedded_postgres.stop(directory)


@pytest.fixture
def directory(module_directory):
    """That folder, its server running."""
    embedded_postgres.ensure_running(module_directory)
    return module_directory
