"""Search by faiss: exact cosines in exact order, without what is excluded; a few concepts may be missed."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from lvm_pipeline.decoding.faiss_bank import RECALL, FaissBank, kind_of_bank
from lvm_pipeline.decoding.nearest import ConceptBank
from lvm_pipeline.errors import LvmError
from lvm_pipeline.inference.nearest import open_index
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline_tests.synthetic import synthetic_table, write_table

NUM, DIM = 4_000, 32


@pytest.fixture(scope="module")
def faiss():
    return pytest.importorskip("faiss", reason="the extra `faiss` is not installed")


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((40, DIM))
    return (topics[rng.integers(40, size=NUM)] + 0.3 * rng.standard_normal((NUM, DIM))).astype(np.float32)


def bank_of(kind, vectors, rows=None):
    texts = pa.chunked_array([[str(row) for row in range(len(vectors))]])
    return kind(space_id="test", vectors=vectors, texts=texts, rows=rows)


def test_it_finds_nearly_what_the_exact_search_finds_and_says_how_much(faiss, vectors):
    bank, exact = bank_of(FaissBank, vectors), bank_of(ConceptBank, vectors)
    queries = unit_length(vectors[7:407] + vectors[8:408])

    found, true = bank.nearest(queries, 10), exact.nearest(queries, 10)

    hits = np.mean([np.isin(each.rows, near.rows).mean() for each, near in zip(true, found, strict=True)])
    assert bank.recall >= RECALL
    assert hits >= RECALL - 0.02
    assert bank.how == f"faiss, which finds {bank.recall:.1%} of the nearest 10"
    assert exact.how == "exact"


def test_few_cells_are_looked_at(faiss, vectors):
    bank = bank_of(FaissBank, vectors)
    bank.prepare()

    assert bank._index.nprobe < bank._index.nlist / 2


def test_cosines_are_those_of_the_table_best_first(faiss, vectors):
    queries = vectors[:50] + 0.1

    for query, found in zip(unit_length(queries), bank_of(FaissBank, vectors).nearest(queries, 5), strict=True):
        np.testing.assert_allclose(found.cosines, unit_length(vectors[found.rows]) @ query, atol=2e-6)
        assert (np.diff(found.cosines) <= 0).all()


def test_rows_that_are_excluded_or_no_candidates_are_not_found(faiss, vectors):
    rows = np.arange(0, NUM, 2)
    queries, without = vectors[:20:2], [np.array([row, row + 2]) for row in range(0, 20, 2)]

    found = bank_of(FaissBank, vectors, rows).nearest(queries, 3, exclude=without)

    for each, left_out in zip(found, without, strict=True):
        assert len(each.rows) == 3
        assert not np.isin(each.rows, left_out).any()
        assert (each.rows % 2 == 0).all()


def test_all_candidates_are_found_if_all_are_asked_for(faiss, vectors):
    (found,) = bank_of(FaissBank, vectors[:300]).nearest(vectors[:1], 300)

    assert sorted(found.rows) == list(range(300))


def test_a_table_is_opened_with_it(faiss, tmp_path):
    path = write_table(synthetic_table([6, 5, 7]), tmp_path / "c.parquet")
    opened = {
        kind: open_index(path, tmp_path / "vectors", space_id="synthetic", search=kind) for kind in ("exact", "faiss")
    }
    vector = np.asarray(opened["exact"].bank.vectors[4])

    assert isinstance(opened["faiss"].bank, FaissBank)
    assert opened["faiss"].nearest(vector, 3, exclude=[4]) == opened["exact"].nearest(vector, 3, exclude=[4])


def test_faiss_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)

    assert kind_of_bank("exact") is ConceptBank
    with pytest.raises(LvmError, match=r"pip install 'lvm-pipeline\[faiss\]'"):
        kind_of_bank("faiss")
