import json

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Severity
from lvm_pipeline.measures.metrics import Spread
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.invariants import (
    check_trained_model,
    checkpoint_reproduces_its_score,
    prediction_is_not_the_mean_vector,
    training_takes_under_an_hour,
)
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.rescore import Rescore, rescore

QUICK = {"preset": "smoke", "model": {"hidden_dim": 16, "num_layers": 1}, "epochs": 1, "num_threads": 1}
HONEST = Spread(prediction_variance=0.6, target_variance=0.9, cosine_to_mean=0.3)


@pytest.fixture
def paths(data, data_dir, tmp_path):
    model_dir = train(TrainingConfig(**QUICK), data, output_dir=tmp_path / "model").path
    return model_dir, data_dir / "concepts.parquet", data_dir / "sequences.parquet", data_dir / "vectors"


def test_a_sound_model_passes_everything_in_a_fresh_process(paths):
    findings = {finding.name: finding for finding in check_trained_model(*paths)}
    assert set(findings) == {
        "checkpoint_reproduces_its_score",
        "prediction_is_not_the_mean_vector",
        "no_objective_term_dominates",
        "preset_has_its_declared_size",
        "training_takes_under_an_hour",
    }
    assert all(finding.passed for finding in findings.values())
    assert findings["checkpoint_reproduces_its_score"].observed == pytest.approx(0, abs=1e-6)


def test_a_model_that_cannot_be_loaded_there_fails(paths):
    weights = paths[0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    finding = check_trained_model(*paths)[0]
    assert not finding.passed
    assert finding.severity is Severity.BLOCKING
    assert "model.safetensors" in finding.message


def test_a_score_that_the_weights_do_not_give_fails(paths):
    found = rescore(*paths)
    assert checkpoint_reproduces_its_score(found.score, found).passed
    assert not checkpoint_reproduces_its_score(found.score + 1e-3, found).passed


def test_another_device_is_allowed_its_rounding():
    elsewhere = Rescore(score=0.6, spread=HONEST, is_same_device=False)
    assert checkpoint_reproduces_its_score(0.601, elsewhere).passed
    assert not checkpoint_reproduces_its_score(0.62, elsewhere).passed


def test_other_data_is_refused(paths):
    info = paths[0] / "trained_model.json"
    values = json.loads(info.read_text())
    values["fingerprints"]["sequences"] = "0" * 64
    info.write_text(json.dumps(values))
    with pytest.raises(LvmError, match="other data"):
        rescore(*paths)


def test_a_collapse_to_the_mean_vector_fails():
    assert prediction_is_not_the_mean_vector(HONEST).passed
    collapsed = Spread(prediction_variance=0.01, target_variance=0.9, cosine_to_mean=0.99)
    finding = prediction_is_not_the_mean_vector(collapsed)
    assert not finding.passed
    assert finding.severity is Severity.BLOCKING


def test_a_long_training_is_a_warning():
    finding = training_takes_under_an_hour(4000.0)
    assert not finding.passed
    assert finding.severity is Severity.WARNING
