import numpy as np

from lvm_pipeline.training.strategies import staged
from lvm_pipeline_tests.training.strategies.test_contract import config_of


def times_drawn(config, data):
    spans = staged(config, data).phases[0].spans
    return dict(zip(*np.unique(data.articles_of(spans.first_rows), return_counts=True), strict=True))


def test_articles_are_drawn_with_replacement_by_the_seed(data, settled):
    config = settled(config_of("bagging"))
    every = data.articles_of(staged(settled(config_of("plain")), data).phases[0].spans.first_rows)
    drawn = times_drawn(config, data)
    assert sum(drawn.values()) == len(every)
    assert set(drawn) < set(every)
    assert max(drawn.values()) > 1
    assert drawn == times_drawn(config, data)
    assert drawn != times_drawn(config.with_options(seed=1), data)
    half = config.with_options(strategy_options={"bag_fraction": 0.5})
    assert sum(times_drawn(half, data).values()) == round(len(every) / 2)
    assert staged(config, data).notes["bagging"].startswith(f"A bootstrap of {len(every)} draws")


def test_a_window_is_drawn_as_often_as_its_article(data, settled):
    config = settled(config_of("bagging")).with_options(mode="windows")
    spans = staged(config, data).phases[0].spans
    rows, times = np.unique(spans.first_rows, return_counts=True)
    articles = np.searchsorted(data.articles.first_rows, rows, side="right")
    for article in np.unique(articles):
        assert len(set(times[articles == article])) == 1
    assert times.max() > 1


def test_bagging_comes_before_the_phases_whatever_the_order_of_the_names(data, settled):
    config = settled(config_of("progressive+bagging"))
    phases = staged(config, data).phases
    assert [len(phase.spans) for phase in phases] == sorted(len(phase.spans) for phase in phases)
    drawn = data.articles_of(phases[-1].spans.first_rows)
    assert len(drawn) > len(set(drawn))
