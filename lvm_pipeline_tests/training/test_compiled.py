"""torch.compile changes how fast a training is, and nothing else that can be seen."""

import os

import pytest
import torch

from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.compiled import CACHE_VARIABLE, COMPILE_CACHE
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.settle import settled
from lvm_pipeline.training.trained_model import load_trained_model

# torch's compiler imports code that torch calls deprecated, and looks at gradients that it warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
]

SMALL = {
    "architecture": "rwkv4",
    "preset": "smoke",
    "model": {"hidden_dim": 16, "num_layers": 1, "head": "means"},  # the mixing head's rates enlarge rounding
    "mode": "windows",
    "batch_size": 64,
    "epochs": 1,
    "num_threads": 1,
}


@pytest.mark.slow
@pytest.mark.long
def test_a_compiled_training_ends_as_a_plain_one_does_and_leaves_the_compiled_code_for_the_next(data, tmp_path):
    torch._dynamo.reset()
    cache = tmp_path / "cache"
    plain = train(TrainingConfig(**SMALL), data, output_dir=tmp_path / "plain")
    compiled = train(
        TrainingConfig(**SMALL, compile=True), data, output_dir=tmp_path / "compiled", compile_cache_dir=cache
    )

    assert compiled.info.history[-1]["train_loss"] == pytest.approx(plain.info.history[-1]["train_loss"], rel=1e-4)
    weights = [load_trained_model(trained.path)[0].state_dict() for trained in (plain, compiled)]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "compiled", "plain"]
    assert any(path.is_file() for path in cache.rglob("*"))


def test_compiled_code_is_kept_beside_the_output_folder_and_outside_the_checkpoint(data, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, "")
    monkeypatch.setattr(torch, "compile", lambda model: model)
    train(TrainingConfig(**SMALL, compile=True), data, output_dir=tmp_path / "model")
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / COMPILE_CACHE)


@pytest.mark.parametrize(
    ("architecture", "mode", "is_compiled"),
    [("rwkv4", "windows", True), ("rwkv4", "articles", False), ("performer", "windows", False)],
)
def test_only_what_pays_is_compiled(architecture, mode, is_compiled):
    config = TrainingConfig(architecture=architecture, mode=mode, compile=True)

    assert settled(config, architecture=load_architecture(architecture), is_leaking=False).compile is is_compiled
    unasked = config.with_options(compile=False)
    assert not settled(unasked, architecture=load_architecture(architecture), is_leaking=False).compile


@pytest.mark.slow
def test_a_missing_compiler_is_reported_and_nothing_is_overwritten(data, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("earlier")
    torch._dynamo.reset()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))

    with pytest.raises(
        LvmError, match=r"torch\.compile failed .* install a C\+\+ compiler such as g\+\+, or set compile to false"
    ):
        train(TrainingConfig(**SMALL, compile=True), data, output_dir=tmp_path / "model")

    assert (tmp_path / "model" / "weights").read_text() == "earlier"
