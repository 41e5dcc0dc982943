"""The nearest concept: exact over blocks, without what is excluded, of one space."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.decoding import nearest
from lvm_pipeline.decoding._contract import DifferentiableDecoder, refuse_other_space
from lvm_pipeline.decoding.nearest import NearestConcept, open_bank
from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.synthetic import synthetic_table, write_table

LENGTHS = [6, 5, 7]


@pytest.fixture(scope="module")
def table():
    return synthetic_table(LENGTHS)


@pytest.fixture(scope="module")
def opened(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    path = write_table(table, folder / "c.parquet")
    return lambda **options: open_bank(path, folder / "vectors", **{"space_id": "synthetic", **options})


def vectors_of(table):
    return np.stack(table["vector"].to_numpy())


@given(st.integers(1, 20), st.integers(1, 7), st.sets(st.integers(0, 17)), st.sets(st.integers(0, 17), min_size=1))
def test_it_is_the_highest_cosine_of_every_candidate_however_they_are_cut(table, opened, count, block, excluded, rows):
    asked = np.random.default_rng(count).standard_normal((2, 32)).astype(np.float32)
    vectors, candidates = vectors_of(table), np.array(sorted(rows - excluded), int)
    cosines = asked @ vectors.T / np.linalg.norm(vectors, axis=1) / np.linalg.norm(asked, axis=1, keepdims=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "BLOCK", block)
        found = opened(rows=np.array(sorted(rows))).nearest(asked, count, exclude=[np.array(sorted(excluded), int)] * 2)

    for line, best in zip(cosines, found, strict=True):
        assert best.rows.tolist() == candidates[np.argsort(-line[candidates], kind="stable")][:count].tolist()
        np.testing.assert_allclose(best.cosines, line[best.rows], atol=2e-6)


def test_equal_vectors_are_found_in_table_order(table, opened):
    bank = opened()
    twice = nearest.ConceptBank(
        space_id="synthetic", vectors=np.repeat(bank.vectors[:3], 4, axis=0), texts=table["concept_text"]
    )

    assert twice.nearest(bank.vectors[1:2], 3)[0].rows.tolist() == [4, 5, 6]


def test_the_decoder_answers_with_the_text_and_never_with_what_was_read(table, opened):
    decoder, vectors = NearestConcept(bank=opened()), vectors_of(table)
    texts = table["concept_text"].to_pylist()

    assert decoder.decode(vectors) == texts
    without_itself = decoder.decode(vectors, exclude=[np.array([row]) for row in range(18)])
    assert all(text != own for text, own in zip(without_itself, texts, strict=True))
    assert set(without_itself) <= set(texts)
    assert decoder.decode(vectors[:1], exclude=[np.arange(18)]) == [""]
    assert decoder.decode(vectors[:0]) == []


def test_rows_are_recognised_by_vector_or_text(table, opened):
    bank, vectors = opened(), vectors_of(table)

    assert bank.rows_like(3 * vectors[4]).tolist() == [4]
    assert bank.rows_like(vectors[4], table["concept_text"][9].as_py()).tolist() == [4, 9]
    assert bank.rows_like(-vectors[4], "something else").tolist() == []
    assert opened(rows=np.array([5, 6])).rows_like(vectors[4]).tolist() == []


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((2, 5), np.float32), r"reads vectors of shape \(n, 32\), got \(2, 5\)"),
        (np.zeros(32, np.float32), r"got \(32,\)"),
        (np.full((1, 32), np.nan, np.float32), "not finite"),
    ],
)
def test_what_is_no_matrix_of_its_vectors_is_refused(opened, vectors, message):
    with pytest.raises(LvmError, match=message):
        NearestConcept(bank=opened()).decode(vectors)


def test_a_foreign_space_is_refused(opened):
    decoder = NearestConcept(bank=opened())

    refuse_other_space(decoder, "synthetic")
    with pytest.raises(LvmError, match="The decoder nearest reads vectors of space synthetic and these are of gtr"):
        refuse_other_space(decoder, "gtr")
    with pytest.raises(LvmError, match="are of space synthetic and the vectors are of gtr"):
        opened(space_id="gtr")
    assert not isinstance(decoder, DifferentiableDecoder)
