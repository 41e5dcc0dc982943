from itertools import pairwise

import numpy as np
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.strategies import staged
from lvm_pipeline.training.strategies.curriculum import context_target_cosines
from lvm_pipeline_tests.training.conftest import make_data, open_data
from lvm_pipeline_tests.training.strategies.test_contract import config_of


@pytest.fixture(scope="module")
def drifting(tmp_path_factory):
    """Articles in which some targets lie closer to their context than others."""
    return open_data(make_data(tmp_path_factory.mktemp("noise"), kind="noise"))


def test_the_cosine_is_that_to_the_mean_of_the_last_concepts(drifting, settled):
    spans = staged(settled(config_of("plain")), drifting).phases[0].spans
    rows, found = context_target_cosines(spans, drifting)
    assert (np.sort(spans.target_rows()) == rows).all()
    for row, cosine in [*zip(rows, found, strict=True)][::17]:
        article = np.searchsorted(drifting.articles.first_rows, row, side="right") - 1
        first = max(drifting.articles.first_rows[article], row - drifting.context_length)
        mean, target = drifting.vectors[first:row].mean(axis=0), drifting.vectors[row]
        assert cosine == pytest.approx(mean @ target / np.linalg.norm(mean) / np.linalg.norm(target), abs=1e-5)


@pytest.mark.parametrize("mode", ["articles", "windows"])
@pytest.mark.parametrize("is_cumulative", [True, False])
def test_parts_go_from_easy_to_hard(drifting, settled, mode, is_cumulative):
    options = {"quantiles": 3, "is_cumulative": is_cumulative}
    config = settled(config_of("curriculum")).with_options(mode=mode, strategy_options=options)
    phases = staged(config, drifting).phases
    rows, cosines = context_target_cosines(phases[-1].spans, drifting)
    parts = [set(rows) & set(np.flatnonzero(phase.counted)) for phase in phases]
    cosine_of = dict(zip(rows, cosines, strict=True))
    if is_cumulative:
        assert parts[0] < parts[1] < parts[2] == set(rows)
        parts = [parts[0], parts[1] - parts[0], parts[2] - parts[1]]
    assert set().union(*parts) == set(rows)
    assert sum(map(len, parts)) == len(rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for easier, harder in pairwise(parts):
        assert min(cosine_of[row] for row in easier) >= max(cosine_of[row] for row in harder)
    assert phases[-1].epochs == config.epochs


def test_too_few_different_targets_are_refused(drifting, settled):
    config = settled(config_of("curriculum")).with_options(strategy_options={"quantiles": 100_000})
    with pytest.raises(LvmError, match=r"cannot divide \d+ train targets into 100000 parts"):
        staged(config, drifting)
