"""One small data set for the whole stage: articles that turn by a fixed rotation, which a model can learn."""

import pytest

from lvm_pipeline.sequences.build import SequenceOptions, build_sequences
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline_tests.synthetic import write_synthetic_concepts

LENGTHS = [1, 2, 9, 30, 6, 14, 7, 22, 5, 11, 18, 8, 26, 3, 12, 16, 10, 7, 9, 13, 21, 6, 8, 15]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def make_data(folder, *, kind="rotation", lengths=LENGTHS, **options):
    write_synthetic_concepts(folder / "concepts.parquet", article_lengths=lengths, vector_dim=16, kind=kind)
    build_sequences(folder / "concepts.parquet", folder / "sequences.parquet", options=SequenceOptions(**options))
    return folder


def open_data(folder):
    return load_training_data(folder / "concepts.parquet", folder / "sequences.parquet", folder / "vectors")


@pytest.fixture(scope="session")
def data(data_dir):
    return open_data(data_dir)


@pytest.fixture(scope="session")
def noise_data(tmp_path_factory):
    return open_data(make_data(tmp_path_factory.mktemp("noise"), kind="noise"))
