"""Settings, an instance and a filled source table for tests that run assets."""

from dataclasses import dataclass

import dagster as dg
import pytest

from lvm_pipeline.settings import Settings, settings_environment
from lvm_pipeline_tests.defs.source_table import fill_source
from lvm_pipeline_tests.timed_briefly import timed_briefly  # noqa: F401 - a fixture


@pytest.fixture
def make_settings(lvm_home, postgres_url, monkeypatch):
    """Make settings of a fresh home and source table the ones that assets read."""

    def make(**values):
        settings = Settings(home=lvm_home, database_url=postgres_url, preset="smoke", epochs=2, num_threads=1, **values)
        for name, value in settings_environment(settings).items():
            monkeypatch.setenv(name, value)
        return settings

    return make


@dataclass(frozen=True)
class Source:
    """A filled source database and the ids of its concepts, in order."""

    url: str
    cpe_ids: list[str]


@pytest.fixture
def source(postgres_url):
    """A source table of 40 articles of 12 concepts."""
    return Source(postgres_url, fill_source(postgres_url, [12] * 40))


@pytest.fixture
def instance():
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def instance_on_disk():
    """A Dagster instance whose events can be read back by others."""
    with dg.instance_for_test() as instance:
        yield instance
