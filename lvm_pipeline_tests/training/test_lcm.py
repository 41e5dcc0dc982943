"""Models with a normaliser, and one with a loss of its own that draws noise, in the one training loop."""

import numpy as np
import pytest
from safetensors.torch import load_file

from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.training.test_loop import score_of

QUICK = {"preset": "smoke", "model": {"hidden_dim": 32}, "batch_size": 40, "epochs": 3, "num_threads": 1}
NAMES = ("lcm", "lcm_two_tower")


@pytest.mark.parametrize("mode", ["articles", "windows"])
@pytest.mark.parametrize("name", NAMES)
def test_learns_what_follows_and_keeps_it(name, mode, data, tmp_path):
    trained = train(TrainingConfig(architecture=name, mode=mode, **QUICK), data, output_dir=tmp_path / "model")
    assert trained.info.best_epoch > 0
    assert trained.info.score > trained.info.start_score + 0.02
    assert score_of(trained.path, data, mode) == pytest.approx(trained.info.score, abs=1e-5)


@pytest.fixture(scope="module")
def resumed(data, tmp_path_factory):
    """A two-tower training that was interrupted in the middle and went on."""

    def interrupt(report):
        if report.done_fraction > 0.5:
            raise KeyboardInterrupt

    path = tmp_path_factory.mktemp("interrupted") / "model"
    with pytest.raises(KeyboardInterrupt):
        train(two_tower(), data, output_dir=path, progress=interrupt)
    return train(two_tower(), data, output_dir=path)


def two_tower():
    return TrainingConfig(architecture="lcm_two_tower", checkpoint_seconds=0.0, **QUICK)


def test_interrupted_and_resumed_a_loss_draws_the_noise_it_would_have_drawn(data, resumed, tmp_path):
    uninterrupted = train(two_tower(), data, output_dir=tmp_path / "model")
    expected, found = (load_file(model.path / "model.safetensors") for model in (uninterrupted, resumed))
    assert all(bool((expected[name] == found[name]).all()) for name in expected)


def test_the_normaliser_is_fitted_on_train_rows(data, resumed):
    model, _ = load_trained_model(resumed.path)
    train_rows, all_rows = (np.median(rows, axis=0) for rows in (data.train_sample(), data.vectors))
    np.testing.assert_allclose(model.normaliser.center, train_rows, atol=1e-6)
    assert np.abs(model.normaliser.center.numpy() - all_rows).max() > 1e-3
