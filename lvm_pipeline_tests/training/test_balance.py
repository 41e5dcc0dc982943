"""The terms of a sum are balanced where the training starts, watched through it, and reported when one takes over."""

import numpy as np
import pytest

from lvm_pipeline.findings import Severity
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline.training import balance
from lvm_pipeline.training.balance import share_metrics
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.invariants import no_objective_term_dominates
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.objectives import SumOfTerms, objective_named
from lvm_pipeline_tests.training.test_loop import Recorder

QUICK = {"preset": "smoke", "model": {"hidden_dim": 16, "num_layers": 1}, "batch_size": 64, "epochs": 2}


def trained(data, folder, **options):
    tracker = Recorder()
    info = train(
        TrainingConfig(**{**QUICK, "num_threads": 1, **options}), data, output_dir=folder, tracker=tracker
    ).info
    return info, tracker


def test_every_epoch_logs_the_gradient_shares_of_a_sum(data, tmp_path):
    info, tracker = trained(data, tmp_path / "model", objective="cosine + 0.5 infonce")

    for epoch in info.history:
        for kind in ("objective_share_", "objective_value_share_"):
            assert epoch[f"{kind}cosine"] + epoch[f"{kind}infonce"] == pytest.approx(1)
    assert info.history[0]["objective_value_share_cosine"] == pytest.approx(1 / 1.5, abs=0.1)
    logged = {name for metrics in tracker.metrics for name in metrics}
    assert {"objective_share_cosine", "objective_value_share_infonce"} <= logged
    assert set(tracker.params["objective_scale"]) == {"cosine", "infonce"}
    assert no_objective_term_dominates(info.history).passed


def test_one_term_has_nothing_to_share(data, tmp_path):
    info, tracker = trained(data, tmp_path / "model")

    assert not [name for name in info.history[0] if name.startswith("objective")]
    assert tracker.params["objective_scale"] == {"cosine": 1.0}
    finding = no_objective_term_dominates(info.history)
    assert (finding.passed, finding.observed) == (True, None)


def test_a_sum_is_scaled_the_same_on_every_start(data, tmp_path):
    scales = [
        trained(data, tmp_path / name, objective="cosine + mse", epochs=1)[1].params["objective_scale"]
        for name in ("one", "two")
    ]
    assert scales[0] == scales[1]
    assert scales[0]["cosine"] != scales[0]["mse"]


def test_a_term_that_takes_over_is_a_warning_that_names_it():
    history = [
        {"epoch": 0, "objective_share_mse": 0.5, "objective_share_infonce": 0.5},
        {"epoch": 1, "objective_share_mse": 0.02, "objective_share_infonce": 0.98},
        {"epoch": 2, "objective_share_mse": 0.4, "objective_share_infonce": 0.6},
    ]

    finding = no_objective_term_dominates(history)

    assert (finding.passed, finding.severity) == (False, Severity.WARNING)
    assert "infonce: 98.0% of the gradient after epoch 1" in finding.message
    assert (finding.observed, finding.allowed) == (0.98, 0.95)
    assert finding.details["last_epoch"] == {"objective_share_mse": 0.4, "objective_share_infonce": 0.6}


def test_shares_are_means_over_a_few_batches(monkeypatch):
    rng = np.random.default_rng(0)
    predictions, targets = (unit_length(rng.standard_normal((500, 16)).astype(np.float32)) for _ in range(2))
    seen = []
    shares = SumOfTerms.shares
    monkeypatch.setattr(SumOfTerms, "shares", lambda *args, **how: seen.append(len(args[1])) or shares(*args, **how))

    objective = objective_named("cosine + mse")
    metrics = share_metrics(objective, predictions, targets, batch_size=64, is_unit=True)

    assert len(seen) == balance.BATCHES_COMPARED
    assert set(seen) == {64}
    assert metrics["objective_share_mse"] == pytest.approx(2 / 3, abs=0.01)  # |p - t|^2 = 2 (1 - cos)
