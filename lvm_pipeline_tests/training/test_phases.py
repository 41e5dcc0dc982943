"""A training of several phases: each with its own spans, objective and learning rate; resumed inside and between."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training import strategies
from lvm_pipeline.training.batches import groups_in_order
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.phases import phase_of, train_spans
from lvm_pipeline.training.strategies import STRATEGIES, load_strategy
from lvm_pipeline.training.strategies._contract import Strategy
from lvm_pipeline_tests.training.test_loop import Recorder

CONFIG = {
    "preset": "smoke",
    "model": {"hidden_dim": 32, "dropout": 0.3},
    "batch_size": 40,
    "num_threads": 1,
    "checkpoint_seconds": 0.0,
    "strategy": "staged",
    "patience": 9,
}


def staged(staging, config, data, options):
    """The first half of the spans in order by a mixed objective, then all of them."""
    spans = train_spans(config, data)
    some = spans.take(np.arange(len(spans) // 2))
    first = phase_of(config, some, name="half", epochs=2)
    changed = {"objective": "cosine + 0.5 mse", "is_shuffled": False, "learning_rate": 1e-3}
    last = {"objective": "0.5 cosine + infonce", "learning_rate": 2e-3}
    phases = (
        replace(first, **changed),
        phase_of(config, spans, name="all", epochs=3),
        replace(first, **last, name="again"),
    )
    return replace(staging, phases=phases)


STAGED = Strategy(name="staged", summary="Three phases", affects="phases", stage=staged)


@pytest.fixture(autouse=True)
def strategy(monkeypatch):
    monkeypatch.setattr(strategies, "load_strategy", lambda name: STAGED)


def test_progress_curves_and_metrics_name_the_phase(data, tmp_path):
    tracker, reports = Recorder(), []
    info = train(
        TrainingConfig(**CONFIG), data, output_dir=tmp_path / "model", tracker=tracker, progress=reports.append
    ).info

    assert [row["phase"] for row in info.history] == [1, 1, 1, 2, 2, 2, 3, 3]
    assert {(report.phase, report.epochs) for report in reports} == {(1, 2), (2, 3), (3, 2)}
    assert reports[-1].in_words().startswith("phase 3/3, epoch 2/2, cosine ")
    assert reports[-1].done_fraction == 1.0
    assert [report.done_fraction for report in reports] == sorted(report.done_fraction for report in reports)
    assert [value for metrics in tracker.metrics for _, value in metrics["phase"]] == [1, 1, 1, 2, 2, 2, 3, 3]
    assert [text.split(":")[0] for text in tracker.params["phases"]] == ["half", "all", "again"]
    assert max(rate for metrics in tracker.metrics[1:3] for _, rate in metrics["learning_rate"]) <= 1e-3
    assert "objective_share_mse" in info.history[1]
    assert "objective_share_mse" not in info.history[4]
    assert "objective_share_infonce" in info.history[7]


def weights_of(trained):
    return load_file(trained.path / "model.safetensors")


def interrupted_and_resumed(data, path, *, at_fraction):
    def interrupt(report):
        if report.done_fraction > at_fraction:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainingConfig(**CONFIG), data, output_dir=path, progress=interrupt)
    tracker = Recorder()
    resumed = train(TrainingConfig(**CONFIG), data, output_dir=path, tracker=tracker)
    assert tracker.tags["is_resumed"] == "true"
    return resumed


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """What every interrupted training must come to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategies, "load_strategy", lambda name: STAGED)
        return train(TrainingConfig(**CONFIG), data, output_dir=tmp_path_factory.mktemp("uninterrupted") / "whole")


@pytest.mark.parametrize("at_fraction", [0.2, 2 / 7 + 1e-6, 0.5, 0.9], ids=["phase 1", "between", "phase 2", "phase 3"])
def test_resumed_inside_or_between_phases_equals_uninterrupted_bit_for_bit(data, tmp_path, uninterrupted, at_fraction):
    resumed = interrupted_and_resumed(data, tmp_path / "model", at_fraction=at_fraction)

    expected, found = weights_of(uninterrupted), weights_of(resumed)
    assert all(bool((expected[name] == found[name]).all()) for name in expected)
    for one, other in zip(uninterrupted.info.history, resumed.info.history, strict=True):
        assert {**one, "targets_per_second": 0} == {**other, "targets_per_second": 0}


def test_a_phase_that_stops_early_gives_way_to_the_next(data, tmp_path):
    config = TrainingConfig(**{**CONFIG, "patience": 1, "learning_rate": 1e-30})  # nothing changes
    info = train(config, data, output_dir=tmp_path / "model").info
    assert [row["phase"] for row in info.history] == [1, 1, 1, 2, 3, 3]


def test_spans_in_order_stay_in_order(data):
    spans = data.window_spans("train")
    groups = groups_in_order(spans, 40)
    assert np.array_equal(np.concatenate(groups), np.arange(len(spans)))
    assert max(int(spans.take(group).num_targets.sum()) for group in groups) <= 60


def test_strategies_are_found_by_name(monkeypatch):
    assert "plain" in STRATEGIES
    assert all(load_strategy(name).name == name for name in STRATEGIES)
    with pytest.raises(LvmError, match=r"no strategy 'staged'; there are .*plain"):
        load_strategy("staged")
