"""Tables and what was exported from them."""

import pytest

from lvm_pipeline.exchange.npz_export import export_npz
from lvm_pipeline_tests.exchange.npz_files import LENGTHS
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences


@pytest.fixture
def concepts_path(tmp_path):
    return write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=LENGTHS, kind="noise")


@pytest.fixture
def sequences_path(concepts_path, tmp_path):
    return write_synthetic_sequences(concepts_path, tmp_path / "sequences.parquet")


@pytest.fixture
def exported(concepts_path, sequences_path, tmp_path):
    return export_npz(concepts_path, sequences_path, tmp_path / "npz")
