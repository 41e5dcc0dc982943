import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.training.batches import gather
from lvm_pipeline.training.strategies import staged
from lvm_pipeline.training.terms import TermSources
from lvm_pipeline_tests.training.strategies.test_contract import config_of


def term_of(data, **options):
    config = config_of("decode_in_the_loop", learning_rate=0.01, mode="articles", strategy_options=options)
    staging = staged(config, data)
    (term,) = staging.phases[0].terms
    vectors = torch.from_numpy(np.array(data.vectors))
    sources = TermSources(model=torch.nn.Linear(1, 1), vectors=vectors, data=data)  # pyright: ignore[reportArgumentType]
    return term, term.make(sources), gather(vectors, staging.phases[0].spans.take(np.arange(4))), staging


@pytest.fixture
def predictions(data):
    torch.manual_seed(0)
    _, _, batch, _ = term_of(data)
    return F.normalize(torch.randn(int(batch.is_target.sum()), data.concepts.vector_dim), dim=-1)


def test_with_the_whole_bank_it_is_the_cross_entropy_among_all_train_concepts_each_once(data, predictions):
    term, module, batch, _ = term_of(data, bank_sample=10**6, decode_temperature=0.2, decode_weight=0.3)
    rows = data.train_rows()
    logits = predictions @ torch.from_numpy(np.array(data.vectors[rows])).T / 0.2
    own = torch.from_numpy(np.searchsorted(rows, batch.rows[batch.is_target].numpy()))

    found = module(predictions, batch, None)

    expected = F.cross_entropy(logits, own) / np.log(len(rows) + 1)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert term.weight == 0.3


def test_a_sample_is_drawn_anew_from_torchs_random_state(data, predictions):
    _, module, batch, _ = term_of(data, bank_sample=9)
    state = torch.get_rng_state()
    one, other = module(predictions, batch, None), module(predictions, batch, None)
    torch.set_rng_state(state)
    assert float(module(predictions, batch, None)) == float(one) != float(other)


def test_concepts_of_other_splits_are_not_in_the_bank(data, predictions):
    _, module, batch, _ = term_of(data, bank_sample=10**6)
    before = module(predictions, batch, None)
    others = np.setdiff1d(np.arange(len(data.vectors)), data.train_rows())
    assert len(others)
    module.vectors[others] = 7.0
    assert float(module(predictions, batch, None)) == float(before)


def test_it_says_that_a_bank_stands_in_for_the_decoder(data):
    *_, staging = term_of(data, bank_sample=9)
    size = len(data.train_rows())
    assert staging.notes["decode_in_the_loop"] == (
        "No text decoder is used; in its place is the nearest concept of a bank: cross-entropy of the true next "
        f"concept among itself and 9 of {size} train concepts, drawn at each step."
    )
