import numpy as np
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import training_config
from lvm_pipeline.training.strategies import staged
from lvm_pipeline_tests.training.strategies.test_contract import config_of


@pytest.mark.parametrize("mode", ["articles", "windows"])
def test_subsets_grow_in_whole_articles_and_contain_one_another(data, mode):
    config = config_of("progressive", learning_rate=0.01, mode=mode, seed=3)
    staging = staged(config, data)
    articles = [set(data.articles_of(phase.spans.first_rows)) for phase in staging.phases]
    assert articles[0] < articles[1] < articles[2]
    lengths = data.articles.lengths
    for size, chosen, phase in zip((60, 120), articles, staging.phases, strict=False):
        counted = sum(lengths[index] for index in chosen)
        assert size <= counted < size + lengths.max()
        assert phase.name == f"{counted} concepts"
        every = staging.phases[-1].spans
        assert len(phase.spans) == np.isin(data.articles_of(every.first_rows), list(chosen)).sum()
    assert [phase.epochs for phase in staging.phases] == [1, 1, 2]
    another = staged(config.with_options(seed=4), data)
    assert set(data.articles_of(another.phases[0].spans.first_rows)) != articles[0]


def test_sizes_beyond_the_data_are_left_out_with_a_note_and_too_few_data_are_refused(data):
    config = config_of("progressive", learning_rate=0.01, mode="articles", strategy_options={"sizes": [60, 10**6]})
    staging = staged(config, data)
    assert len(staging.phases) == 2
    assert "left out, since the train split is no larger: 1000000." in staging.notes["progressive"]
    with pytest.raises(LvmError, match=r"starts with 1,000 concepts, but the train split has \d+; load more"):
        staged(config.with_options(strategy_options={}), data)


def test_sizes_must_grow():
    with pytest.raises(LvmError, match=r"sizes must grow, got \[5, 3\]"):
        training_config({"strategy": "progressive", "strategy_options": {"sizes": [5, 3]}})
