"""A home where everything was made from unharmed data, and copies of it to be harmed."""

import dataclasses

import pytest

from lvm_pipeline_tests.defs.source_table import fill_source
from lvm_pipeline_tests.faults import runs
from lvm_pipeline_tests.timed_briefly import timed_briefly  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def unharmed_home(module_postgres_url, embedded_postgres_dir, embedded_server, open_tmp_path_factory):
    """Settings of a home where everything up to the evaluation was made from unharmed data."""
    fill_source(module_postgres_url, runs.LENGTHS, vector_dim=runs.WIDTH, kind="rotation")
    return runs.make_settings(open_tmp_path_factory() / "lvm_home", embedded_postgres_dir, module_postgres_url)


@pytest.fixture(scope="module")
def unharmed(unharmed_home):
    """What every check says of unharmed data and an honest training."""
    data, model = runs.refresh(unharmed_home), runs.train(unharmed_home)
    assert data.materialised >= {"concepts", "sequences"}, data.sentence
    assert model.materialised == {"trained_model", "evaluation_report"}, model.sentence
    return dataclasses.replace(data, checks={**data.checks, **model.checks})


@pytest.fixture
def home(unharmed, unharmed_home, open_tmp_path):
    """Settings of a copy of that home, to be harmed."""
    return runs.copied_home(unharmed_home, open_tmp_path / "lvm_home")


@pytest.fixture
def source(postgres_url, embedded_postgres_dir, open_tmp_path):
    """Settings of an empty home with a filled source table of its own, to be harmed; its ids in order."""
    ids = fill_source(postgres_url, runs.LENGTHS, vector_dim=runs.WIDTH, kind="rotation")
    return runs.make_settings(open_tmp_path / "lvm_home", embedded_postgres_dir, postgres_url), postgres_url, ids
