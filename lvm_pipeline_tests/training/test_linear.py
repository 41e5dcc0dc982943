"""The linear forecast as a trained model: the baseline's predictions, without an epoch."""

import numpy as np
import pytest
import torch

from lvm_pipeline.architectures._registry import ARCHITECTURES
from lvm_pipeline.architectures.linear import LinearConfig
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.scoring import targets_of
from lvm_pipeline.inference.context import ReadingModel
from lvm_pipeline.measures.baselines import LINEAR_FORECAST, fit_baselines
from lvm_pipeline.measures.linear_forecast import DECAYS, INPUTS, LEADING_DIRECTIONS
from lvm_pipeline.training.batches import vectors_on_device
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.trained_model import load_trained_model

MODES = ("articles", "windows")


@pytest.fixture(scope="module", params=MODES)
def trained(request, data, tmp_path_factory):
    config = TrainingConfig(architecture="linear", mode=request.param, num_threads=1, device="cpu")
    return train(config, data, output_dir=tmp_path_factory.mktemp("linear") / "model")


def test_predictions_are_those_of_the_baseline(trained, data):
    mode = trained.info.mode
    targets = targets_of(data, split="validation", context_mode=mode)
    baseline = next(each for each in fit_baselines(targets) if each.name == LINEAR_FORECAST)
    expected = baseline.predict(targets.scored)
    model, _ = load_trained_model(trained.path)

    found = predict_spans(model, vectors_on_device(data.vectors, "cpu"), data.scored_spans("validation", mode=mode))

    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


def test_no_epoch_is_trained(trained):
    info = trained.info

    assert [epoch["epoch"] for epoch in info.history] == [0]
    assert info.best_epoch == 0
    assert info.score == info.start_score == info.history[0]["validation_cosine"]
    assert info.score > 0.9  # the articles turn by a fixed rotation


def test_an_article_read_one_by_one_is_predicted_as_a_whole(trained):
    model, _ = load_trained_model(trained.path)
    vectors = torch.nn.functional.normalize(torch.randn(150, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    reading = ReadingModel(model, window=None)

    found = np.stack([reading.read(vector) for vector in vectors.numpy()])

    np.testing.assert_allclose(found, model(vectors[None])[0].detach().numpy(), atol=1e-5)


def test_model_options_reach_the_fit(data, tmp_path):
    options = {"scales": [0.0, 0.6], "leading_directions": 4}
    config = TrainingConfig(architecture="linear", model=options, num_threads=1, device="cpu")

    model, _ = load_trained_model(train(config, data, output_dir=tmp_path / "model").path)

    shapes = {name: tuple(values.shape) for name, values in model.named_parameters()}
    assert (shapes["weights"], shapes["low_rank"]) == ((3, 16), (12, 16))


def test_it_is_fitted_as_the_baseline_is_unless_options_say_otherwise():
    config = LinearConfig()

    assert ARCHITECTURES["linear"].preset("small").config == config
    assert (config.scales, config.inputs, config.leading_directions) == (DECAYS, INPUTS, LEADING_DIRECTIONS)


@pytest.mark.parametrize("options", [{"ema_decay": 0.9}, {"strategy": "progressive"}])
def test_what_only_epochs_could_do_is_refused(data, tmp_path, options):
    config = TrainingConfig(architecture="linear", num_threads=1, device="cpu", **options)

    with pytest.raises(LvmError, match="closed form"):
        train(config, data, output_dir=tmp_path / "model")


def test_arrays_of_another_shape_are_refused():
    config = ARCHITECTURES["linear"].preset("small").config
    model = ARCHITECTURES["linear"].build(config)

    with pytest.raises(LvmError, match="basis has shape"):
        model.set_linear_forecast({name: np.zeros((2, 2)) for name, _ in model.named_parameters()})
