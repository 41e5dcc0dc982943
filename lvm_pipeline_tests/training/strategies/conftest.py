"""A data set that every strategy can work on: the small articles of the stage, with TMD codes, texts and negatives."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from lvm_pipeline_tests.training.conftest import make_data, open_data
from lvm_pipeline_tests.worded import with_columns


@pytest.fixture(scope="session")
def rich_dir(tmp_path_factory):
    folder = make_data(tmp_path_factory.mktemp("rich"))
    add_codes(folder / "concepts.parquet")
    return folder


@pytest.fixture(scope="session")
def rich_data(rich_dir):
    return open_data(rich_dir)


@pytest.fixture
def settled():
    """A config with what a training settles before it is staged."""
    return lambda config: config.with_options(mode="articles", learning_rate=0.01, batch_size=40)


def add_codes(path):
    """Give every concept TMD codes and their vector; every seventh has code zero."""
    table = pq.read_table(path)
    rng = np.random.default_rng(0)
    is_unknown = np.arange(table.num_rows) % 7 == 0
    columns = {
        name: np.where(is_unknown, 0, rng.integers(1, top, table.num_rows)).astype(np.int16)
        for name, top in (("domain", 15), ("task", 31), ("modifier", 63))
    }
    vectors = np.where(is_unknown[:, None], 0, rng.standard_normal((table.num_rows, 16))).astype(np.float32)
    columns["tmd_dense"] = vectors.tolist()
    replace_columns(path, columns)


def replace_columns(path, columns):
    """Replace columns of a concept table; its metadata stays."""
    pq.write_table(with_columns(pq.read_table(path), **columns), path)


def without_path(data):
    return replace(data, concepts_path=None)
