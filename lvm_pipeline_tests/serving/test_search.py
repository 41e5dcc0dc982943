"""The search in two passes finds what the exact one does."""

import numpy as np
import pyarrow as pa
import pytest

from lvm_pipeline.decoding.nearest import ConceptBank
from lvm_pipeline.serving.search import BankSearch
from lvm_pipeline.source.encoders.encoder import unit_length


def bank_of(vectors):
    texts = pa.chunked_array([[str(row) for row in range(len(vectors))]])
    return ConceptBank(space_id="test", vectors=vectors.astype(np.float32), texts=texts)


@pytest.mark.parametrize("spread", [1.0, 0.05, 0.002])
@pytest.mark.parametrize("count", [1, 7, 60])
def test_it_finds_the_same_concepts_in_the_same_order(spread, count):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal(48) + spread * rng.standard_normal((900, 48))  # from far apart to almost alike
    vectors *= rng.uniform(0.5, 2, (900, 1))
    queries = (rng.standard_normal(48) + spread * rng.standard_normal((9, 48))).astype(np.float32)
    bank = bank_of(vectors)

    found = BankSearch(bank, may_round=True).nearest(queries, count)

    exact = unit_length(queries) @ unit_length(bank.vectors).T
    for each, cosines in zip(found, exact, strict=True):
        best = np.sort(cosines)[::-1][:count]
        np.testing.assert_allclose(each.cosines, best, atol=2e-6)
        np.testing.assert_allclose(cosines[each.rows], best, atol=2e-6)
        assert len(set(each.rows.tolist())) == count


def test_ties_are_in_table_order_and_more_than_there_are_gives_all():
    vectors = np.tile(np.eye(4), (3, 1))
    search = BankSearch(bank_of(vectors), may_round=True)

    (found,) = search.nearest(np.eye(4, dtype=np.float32)[:1], 4)
    (everything,) = search.nearest(np.eye(4, dtype=np.float32)[:1], 50)

    assert found.rows[:3].tolist() == [0, 4, 8]
    assert len(everything.rows) == 12
