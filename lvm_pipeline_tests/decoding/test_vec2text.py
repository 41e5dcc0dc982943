"""vec2text as a child process: what is refused, what is missing, and real plumbing on random weights."""

import subprocess
import sys

import numpy as np
import pytest

from lvm_pipeline.decoding.vec2text import VARIANTS, WEIGHTS, is_decoded, open_vec2text
from lvm_pipeline.errors import LvmError

SPACES = {name: f"{variant.space}@0123456789ab" for name, variant in VARIANTS.items()}
VECTORS = np.random.default_rng(0).standard_normal((3, 768)).astype(np.float32)

TINY_WEIGHTS = """
import os, sys
from pathlib import Path
import torch, transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from vec2text.models import CorrectorEncoderModel, InversionModel
from vec2text.models.config import InversionConfig
folder, is_st = Path(sys.argv[1]), sys.argv[2] == "ielab"
torch.manual_seed(0)
words = ["<pad>", "</s>", "<unk>", *(f"word{n}" for n in range(60))]
tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=128
)
sizes = {"d_ff": 32, "d_kv": 16, "num_heads": 2, "num_layers": 1, "vocab_size": len(words)}
ends = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
for name, width in (("base", 32), ("plain", 768)):
    config = transformers.T5Config(d_model=width, **sizes, **ends)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder / name)
    fast.save_pretrained(folder / name)
if is_st:
    from sentence_transformers import SentenceTransformer, models as parts
    word = parts.Transformer(str(folder / "plain"))
    pooled = parts.Pooling(768, pooling_mode="mean")
    SentenceTransformer(modules=[word, pooled, parts.Dense(768, 768), parts.Normalize()]).save(str(folder / "embedder"))
else:
    os.rename(folder / "plain", folder / "embedder")
import vec2text.models.inversion as inversion
sys.path.insert(0, sys.argv[3])
import vec2text_child
inversion.load_embedder_and_tokenizer = lambda name, **_: vec2text_child.local_embedder(name, folder / "embedder")
config = InversionConfig(
    model_name_or_path=str(folder / "base"), embedder_model_name="gtr_base_st" if is_st else "gtr_base",
    embedder_model_api=None, embedder_fake_with_zeros=False, use_frozen_embeddings_as_input=False,
    encoder_dropout_disabled=False, decoder_dropout_disabled=False, embeddings_from_layer_n=None, use_lora=False,
    max_seq_length=32, num_repeat_tokens=4, embedder_no_grad=True, embedder_torch_dtype="float32",
    corrector_ignore_hypothesis_embedding=False,
)
InversionModel(config).save_pretrained(folder / "inversion")
CorrectorEncoderModel(config).save_pretrained(folder / "corrector")
for name in ("inversion", "corrector"):  # as published weights: the names of the hub and not of this folder
    path = folder / name / "config.json"
    path.write_text(path.read_text().replace(str(folder / "base"), "t5-base"))
"""


@pytest.fixture
def folder(tmp_path):
    """An installation whose interpreter has no vec2text, with weights that are only names."""
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").symlink_to(sys.executable)
    for variant in VARIANTS:
        for part in WEIGHTS:
            (tmp_path / variant / part).mkdir(parents=True)
            (tmp_path / variant / part / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_space_has_its_own_weights(folder, variant):
    decoder = open_vec2text(folder, space_id=SPACES[variant])

    assert decoder.name == f"vec2text {variant}"
    assert decoder.space_id == SPACES[variant]
    assert decoder.weights_dir == folder / variant
    assert is_decoded(SPACES[variant])


@pytest.mark.parametrize("space_id", ["gtr-t5-base", "all-mpnet-base-v2/mean/no-dense/l2@0", "lsa-768@0", "undeclared"])
def test_foreign_spaces_are_refused(folder, space_id):
    with pytest.raises(LvmError, match=f"does not decode vectors of space {space_id}, only of gtr-t5-base/mean/dense"):
        open_vec2text(folder, space_id=space_id)
    assert not is_decoded(space_id)


def test_what_is_missing_is_said(folder, tmp_path):
    (folder / "jxe" / "corrector" / "config.json").unlink()
    with pytest.raises(LvmError, match=r"missing in .*jxe/corrector; download jxm/gtr__nq__32 and .* --weights jxe"):
        open_vec2text(folder, space_id=SPACES["jxe"])
    with pytest.raises(LvmError, match="not installed; run `lvm vec2text install`"):
        open_vec2text(tmp_path / "nothing", space_id=SPACES["jxe"])


def test_vectors_of_another_width_or_with_nan_are_refused_before_a_process_starts(folder):
    decoder = open_vec2text(folder, space_id=SPACES["ielab"])

    with pytest.raises(LvmError, match=r"shape \(n, 768\)"):
        decoder.decode(VECTORS[:, :5])
    with pytest.raises(LvmError, match="not finite"):
        decoder.decode(np.full_like(VECTORS, np.nan))
    assert decoder.decode(VECTORS[:0]) == []


def test_an_environment_without_vec2text_gives_its_reason(folder):
    with pytest.raises(LvmError, match=r"vec2text ielab failed \(ModuleNotFoundError: No module named"):
        open_vec2text(folder, space_id=SPACES["ielab"]).decode(VECTORS)


def test_a_process_that_dies_gives_its_reason(folder):
    python = folder / "env" / "bin" / "python"
    python.unlink()
    python.write_text("#!/bin/sh\necho first >&2\nprintf 'out of memory \\377\\n' >&2\nexit 7\n")
    python.chmod(0o755)

    with pytest.raises(LvmError, match=r"did not answer \(its process ended with code 7: out of memory .\); run"):
        open_vec2text(folder, space_id=SPACES["ielab"]).decode(VECTORS)
    python.unlink()
    python.symlink_to("/bin/false")
    with pytest.raises(LvmError, match=r"did not answer \(its process ended with code 1\); run"):
        open_vec2text(folder, space_id=SPACES["ielab"]).decode(VECTORS)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_random_weights_are_loaded_and_decode_each_vector(vec2text_environment, tmp_path, monkeypatch, variant):
    from lvm_pipeline.decoding import vec2text

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "env").symlink_to(vec2text_environment, target_is_directory=True)
    child_dir = vec2text.__file__.rpartition("/")[0]
    command = [vec2text_environment / "bin" / "python", "-c", TINY_WEIGHTS, tmp_path / variant, variant, child_dir]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]

    decoder = open_vec2text(tmp_path, space_id=SPACES[variant], num_steps=2)
    texts = decoder.decode(VECTORS)

    assert len(texts) == len(VECTORS)
    assert decoder.decode(VECTORS) == texts
    assert all(isinstance(text, str) for text in texts)
    assert any("word" in text for text in texts)
