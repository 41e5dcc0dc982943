import math
import resource

import numpy as np
import pytest
import torch

from lvm_pipeline.errors import LvmError
from lvm_pipeline.measures.weighted_means import ArticleMix, article_mixes
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline.training import loop
from lvm_pipeline.training.batches import vectors_on_device
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.trained_model import load_trained_model, read_trained_model_info

QUICK = {
    "preset": "smoke",
    "model": {"hidden_dim": 32, "num_layers": 1},
    "batch_size": 64,
    "epochs": 3,
    "num_threads": 1,
}


class Recorder:
    """A tracker that records what it is given."""

    run_id = run_url = None

    def __init__(self):
        self.events, self.metrics = [], []

    def start(self, run_name, *, params, tags, fingerprints):
        self.events.append("start")
        self.params, self.tags, self.fingerprints = params, tags, fingerprints

    def log_metrics(self, metrics):
        self.events.append("metrics")
        self.metrics.append({name: list(series) for name, series in metrics.items()})

    def log_model(self, model_dir):
        self.events.append("model")
        assert (model_dir / "model.safetensors").is_file()

    def finish(self, status):
        self.events.append(status)


def files_in(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def score_of(path, data, mode):
    """Mean cosine of what the saved model predicts for the validation sequences."""
    model, _ = load_trained_model(path)
    runs = data.scored_spans("validation", mode=mode)
    predictions = predict_spans(model, vectors_on_device(data.vectors, "cpu"), runs)
    return (unit_length(predictions) * data.vectors[runs.target_rows()]).sum(axis=1).mean()


@pytest.mark.parametrize("mode", ["windows", "articles"])
def test_learns_what_arithmetic_cannot(data, tmp_path, mode):
    config = TrainingConfig(**{**QUICK, "mode": mode, "epochs": 15, "learning_rate": 2e-2, "model": {"hidden_dim": 64}})
    trained = train(config, data, output_dir=tmp_path / "model")
    assert trained.info.score > trained.info.start_score + 0.05
    assert trained.info.best_epoch > 1
    assert score_of(trained.path, data, mode) == pytest.approx(trained.info.score, abs=1e-6)
    assert trained.info.mode == mode


@pytest.mark.parametrize("mode", ["windows", "articles"])
def test_starts_at_the_arithmetic_fitted_on_train(data, tmp_path, mode):
    info = train(TrainingConfig(**{**QUICK, "mode": mode, "epochs": 1}), data, output_dir=tmp_path / "model").info
    runs = data.scored_spans("validation", mode=mode)
    first_rows = np.repeat(runs.first_rows, runs.num_targets)
    mixes = unit_length(article_mixes(data.vectors, first_rows, runs.target_rows(), mix=ArticleMix(**info.arithmetic)))
    expected = (mixes * data.vectors[runs.target_rows()]).sum(axis=1).mean()
    assert info.history[0]["validation_cosine"] == pytest.approx(expected, abs=1e-5)
    assert info.start_score == info.history[0]["validation_cosine"]


def test_where_nothing_can_be_learned_the_arithmetic_is_kept(noise_data, tmp_path):
    config = TrainingConfig(**{**QUICK, "learning_rate": 0.1, "epochs": 20, "patience": 2})
    trained = train(config, noise_data, output_dir=tmp_path / "model")
    assert trained.info.best_epoch == 0
    assert len(trained.info.history) == 3  # patience ended it
    assert trained.info.score == max(epoch["validation_cosine"] for epoch in trained.info.history)


def test_the_kept_weights_are_those_of_the_best_epoch_by_the_chosen_metric(noise_data, tmp_path):
    for metric, best in (("cosine", max), ("mse", min)):
        config = TrainingConfig(
            **{**QUICK, "epochs": 6, "patience": 6, "learning_rate": 0.05, "selection_metric": metric}
        )
        info = train(config, noise_data, output_dir=tmp_path / metric).info
        values = [epoch[f"validation_{metric}"] for epoch in info.history]
        assert info.score == best(values) == values[info.best_epoch]
        model, _ = load_trained_model(tmp_path / metric)
        runs = noise_data.scored_spans("validation", mode="articles")
        predictions = predict_spans(model, vectors_on_device(noise_data.vectors, "cpu"), runs)
        targets = noise_data.vectors[runs.target_rows()]
        found = (
            (predictions * targets).sum(axis=1).mean()
            if metric == "cosine"
            else np.square(predictions - targets).mean()
        )
        assert found == pytest.approx(info.score, abs=1e-6)


def test_the_same_seed_gives_the_same_model_and_another_another(data, tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        config = TrainingConfig(**{**QUICK, "seed": seed, "model": {**QUICK["model"], "dropout": 0.3}})
        train(config, data, output_dir=tmp_path / name)
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "same", "other")}
    assert weights["one"] == weights["same"] != weights["other"]


def test_training_leaves_the_callers_random_state_and_threads_alone(data, tmp_path):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(TrainingConfig(**{**QUICK, "num_threads": threads + 1}), data, output_dir=tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_tracker_hears_once_an_epoch_and_of_every_step(data, tmp_path):
    tracker = Recorder()
    info = train(TrainingConfig(**QUICK), data, output_dir=tmp_path / "model", tracker=tracker).info
    assert tracker.events == ["start", *["metrics"] * 4, "model", "FINISHED"]
    assert tracker.fingerprints == data.fingerprints == info.fingerprints
    assert tracker.tags["architecture"] == "lstm"
    assert tracker.params["model"]["hidden_dim"] == 32
    steps = [step for metrics in tracker.metrics for step, _ in metrics.get("train_loss", [])]
    assert steps == list(range(1, info.history[-1]["step"] + 1))
    last = tracker.metrics[-1]
    assert {"validation_cosine", "validation_mse", "prediction_variance", "cosine_to_mean", "gradient_norm"} <= set(
        last
    )
    assert all(
        math.isfinite(value) for metrics in tracker.metrics for series in metrics.values() for _, value in series
    )


def test_progress_is_reported_until_the_end(data, tmp_path):
    reports = []
    train(TrainingConfig(**QUICK), data, output_dir=tmp_path / "model", progress=reports.append)
    assert reports[-1].done_fraction == 1.0
    assert [report.done_fraction for report in reports] == sorted(report.done_fraction for report in reports)
    assert {report.epochs for report in reports} == {3}


def test_everything_a_training_did_travels_with_the_weights(data, tmp_path):
    train(TrainingConfig(**QUICK), data, output_dir=tmp_path / "model")
    info = read_trained_model_info(tmp_path / "model")
    assert info.training["batch_size"] == 64
    assert info.space_id == data.concepts.space_id
    assert info.config["vector_dim"] == 16
    assert info.split["rule"] == "seeded_hash"
    assert not info.is_leaking
    assert info.context_length == 5
    assert set(info.packages) >= {"python", "torch"}
    assert info.training_seconds > 0
    assert info.num_params == sum(p.numel() for p in load_trained_model(tmp_path / "model")[0].parameters())


@pytest.fixture
def earlier_model(data, tmp_path):
    train(TrainingConfig(**QUICK), data, output_dir=tmp_path / "model")
    return tmp_path / "model", files_in(tmp_path / "model")


def test_a_loss_that_is_not_finite_ends_with_a_sentence_and_loses_nothing(data, earlier_model):
    path, before = earlier_model
    tracker = Recorder()
    config = TrainingConfig(**{**QUICK, "learning_rate": 1e30, "clip_norm": 1e30, "batch_size": 10})
    with pytest.raises(LvmError, match=r"the loss at step \d+ is .*smaller learning rate"):
        train(config, data, output_dir=path, tracker=tracker)
    assert tracker.events[-1] == "FAILED"
    assert files_in(path) == before


def test_an_interrupt_is_reported_and_loses_nothing(data, earlier_model):
    path, before = earlier_model
    tracker = Recorder()

    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainingConfig(**QUICK), data, output_dir=path, tracker=tracker, progress=interrupt)
    assert tracker.events[-1] == "KILLED"
    assert files_in(path) == before


def test_a_full_disk_ends_with_a_sentence_and_loses_nothing(data, earlier_model):
    path, before = earlier_model
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(LvmError, match=r"disk that holds .* is full"):
            train(TrainingConfig(**QUICK, seed=1), data, output_dir=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert files_in(path) == before
    assert not [found for found in path.parent.iterdir() if found.name.startswith(f".{path.name}.") and found.is_file()]


def test_nothing_is_left_beside_a_finished_model(earlier_model):
    path, _ = earlier_model
    assert [found.name for found in path.parent.iterdir()] == ["model"]
    assert sorted(files_in(path)) == ["model.safetensors", "trained_model.json"]


def test_a_head_that_is_off_trains_too(data, tmp_path):
    config = TrainingConfig(**{**QUICK, "model": {**QUICK["model"], "head": "none"}})
    info = train(config, data, output_dir=tmp_path / "model").info
    assert info.history[-1]["validation_cosine"] > info.history[0]["validation_cosine"]


def test_a_model_that_reads_little_trains_on_cut_articles(data, tmp_path, monkeypatch):
    build = loop.Architecture.build

    def build_short(self, config):
        model = build(self, config)
        model.max_context = 6
        return model

    monkeypatch.setattr(loop.Architecture, "build", build_short)
    assert train(TrainingConfig(**QUICK), data, output_dir=tmp_path / "model").info.score > 0
