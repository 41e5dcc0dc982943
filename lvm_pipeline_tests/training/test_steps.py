"""What every optimiser step does: its batch, learning rate, precision, clipping and the average of the weights."""

import numpy as np
import pytest
import torch

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.training import loop
from lvm_pipeline.training.averaging import WeightAverage
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.training.test_loop import QUICK, Recorder


def trained_with(data, folder, **changes):
    """Train in many small steps; return the record and every series of values by step."""
    tracker = Recorder()
    config = TrainingConfig(**{**QUICK, "batch_size": 10, **changes})
    info = train(config, data, output_dir=folder / "model", tracker=tracker).info
    series = {}
    for metrics in tracker.metrics:
        for name, values in metrics.items():
            series.setdefault(name, []).extend(value for _, value in values)
    return info, series


def losses_with(data, folder, **changes):
    return trained_with(data, folder, **changes)[1]["train_loss"]


def test_gradients_are_clipped(data, tmp_path):
    losses = losses_with(data, tmp_path / "default")
    clipped = losses_with(data, tmp_path / "clipped", clip_norm=1e-12)

    assert losses[0] == clipped[0]
    assert losses[1:] != clipped[1:]


def test_the_learning_rate_rises_and_falls_with_progress(data, tmp_path):
    rates = trained_with(data, tmp_path)[1]["learning_rate"]

    assert rates[0] < max(rates) > rates[-1]


def test_the_model_gets_the_number_of_each_step(data, tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(Backbone, "start_step", lambda model, step: steps.append(step))

    info, _ = trained_with(data, tmp_path)

    assert steps == list(range(1, info.history[-1]["step"] + 1))


def test_every_epoch_has_another_order_of_the_same_spans(data, tmp_path, monkeypatch):
    orders = []

    def recorded(*arguments, **options):
        groups = group_spans(*arguments, **options)
        orders.append(np.concatenate(groups).tolist())
        return groups

    group_spans = loop.group_spans
    monkeypatch.setattr(loop, "group_spans", recorded)
    trained_with(data, tmp_path)

    assert len({tuple(order) for order in orders}) == len(orders) == 3
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_bfloat16_changes_the_losses_a_little(data, tmp_path):
    exact = losses_with(data, tmp_path / "float32", precision="float32")
    rounded = losses_with(data, tmp_path / "bfloat16", precision="bfloat16")

    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.05)


def test_averaged_weights_are_saved_where_they_are_best(data, tmp_path, monkeypatch):
    averages, scores = [], iter(range(2, 100))  # above every cosine
    update = WeightAverage.update

    def recorded(average, model, *, step):
        update(average, model, step=step)
        averages.append({name: weights.clone() for name, weights in average.weights.items()})

    monkeypatch.setattr(WeightAverage, "update", recorded)
    monkeypatch.setattr(loop.Validation, "score", lambda validation, model: float(next(scores)))
    info, _ = trained_with(data, tmp_path, ema_decay=0.9)

    saved = dict(load_trained_model(tmp_path / "model")[0].named_parameters())
    assert info.best_epoch == QUICK["epochs"]
    assert len(averages) == info.history[-1]["step"]
    assert not torch.equal(averages[0]["output_projection.0.weight"], averages[-1]["output_projection.0.weight"])
    assert saved.keys() == averages[-1].keys()
    assert all(torch.equal(saved[name], weights) for name, weights in averages[-1].items())
