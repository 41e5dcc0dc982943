"""Fixtures for tests of adapters."""

import psycopg
import pytest


@pytest.fixture
def database(module_postgres_url):
    """An empty database."""
    with psycopg.connect(module_postgres_url, autocommit=True) as connection:
        connection.execute('DROP SCHEMA IF EXISTS "my data" CASCADE')
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute("CREATE EXTENSION vector")
    return module_postgres_url
