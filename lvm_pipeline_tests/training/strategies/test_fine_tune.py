import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import TrainingConfig, training_config
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.strategies import staged
from lvm_pipeline_tests.training.strategies.test_contract import QUICK, config_of


def test_whole_articles_come_first_and_windows_last(data):
    config = config_of("fine_tune", learning_rate=0.01, epochs=5)
    first, last = staged(config, data).phases

    assert (first.spans.num_targets > 1).any()
    assert (last.spans.num_targets == 1).all()
    assert first.epochs + last.epochs == 5
    assert (first.learning_rate, last.learning_rate) == (0.01, 0.005)
    half = config.with_options(strategy_options={"pretraining_fraction": 0.8, "fine_tuning_rate": 1.0})
    first, last = staged(half, data).phases
    assert (first.epochs, last.epochs, last.learning_rate) == (4, 1, 0.01)


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_both_phases_together_have_the_epochs_of_the_trial(data, fraction):
    options = {"learning_rate": 0.01, "strategy_options": {"pretraining_fraction": fraction}}
    assert [phase.epochs for phase in staged(config_of("fine_tune", epochs=2, **options), data).phases] == [1, 1]
    with pytest.raises(LvmError, match="one epoch for each of its two phases; set epochs to at least 2"):
        staged(config_of("fine_tune", epochs=1, **options), data)


def test_the_language_model_of_concepts_is_pre_trained_and_fine_tuned(data, tmp_path):
    options = {**QUICK, "architecture": "lcm", "model": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2}}
    config = TrainingConfig(**options, strategy="fine_tune", mode="windows")

    info = train(config, data, output_dir=tmp_path / "model").info

    assert [row["phase"] for row in info.history] == [1, 1, 2]
    assert info.mode == "windows"
    assert "whole articles, then 1 on" in info.strategy_notes["fine_tune"]


def test_it_ends_on_windows_and_needs_whole_articles(data):
    with pytest.raises(LvmError, match="it ends on windows; set mode to windows, got auto"):
        training_config({"strategy": "fine_tune"})
    with pytest.raises(LvmError, match="which linformer cannot do"):
        staged(config_of("fine_tune", architecture="linformer", model={}, learning_rate=0.01), data)


def test_a_bootstrap_that_half_of_the_training_would_ignore_is_refused():
    with pytest.raises(LvmError, match="leave one of them out"):
        training_config({"strategy": "bagging+fine_tune", "mode": "windows"})
