"""The decoder with a frozen language model: a tiny one of random weights, and a real one where it is named."""

import json

import numpy as np
import pytest
import torch

from lvm_pipeline.decoding._contract import DifferentiableDecoder
from lvm_pipeline.decoding._tokens import train_tokenizer
from lvm_pipeline.decoding.lm import LmOptions, open_language_model, train_lm
from lvm_pipeline.decoding.prefix import load_prefix_decoder, save_prefix_decoder
from lvm_pipeline.decoding.search import Search
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.encoders.lsa import fit_lsa
from lvm_pipeline_tests.decoding.test_prefix import RECORD, TEXTS

transformers = pytest.importorskip("transformers", reason="the extra `lm` is not installed")
OPTIONS = LmOptions(steps=150, batch_size=16, num_soft_tokens=4, max_tokens=40, learning_rate=3e-2)


def write_tiny_lm(folder, *, seed=0):
    """A Llama of random weights with a tokenizer of the texts, in the layout of transformers."""
    tokens = train_tokenizer(TEXTS, vocabulary_size=300)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens.tokenizer, eos_token="<end>")
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.3,
        eos_token_id=fast.eos_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lm_folder(tmp_path_factory):
    return write_tiny_lm(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def encoder():
    return fit_lsa(TEXTS)


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode(TEXTS)


@pytest.fixture(scope="module")
def trained(lm_folder, vectors):
    return train_lm(vectors, TEXTS, OPTIONS, language_model=open_language_model(str(lm_folder)))


@pytest.fixture
def folder(trained, encoder, tmp_path):
    save_prefix_decoder(tmp_path / "lm", trained, space_id=encoder.space_id, **RECORD)
    return tmp_path / "lm"


def test_only_the_soft_tokens_are_trained_and_saved(trained, folder, lm_folder, vectors):
    info = json.loads((folder / "decoder.json").read_text())
    untouched = open_language_model(str(lm_folder))

    assert info["num_params"] == (vectors.shape[1] + 1) * 4 * 32
    assert info["language_model"] == {"folder": str(lm_folder), "fingerprint": untouched.fingerprint}
    assert all(
        torch.equal(each, untouched.model.state_dict()[name]) for name, each in trained.model.lm.state_dict().items()
    )
    assert (folder / "decoder.safetensors").stat().st_size < 6 * info["num_params"]


def test_it_keeps_the_contract_of_a_decoder(folder, vectors, encoder):
    decoder = load_prefix_decoder(folder, space_id=encoder.space_id)
    given = torch.from_numpy(vectors).requires_grad_()

    own, other = decoder.nll(given, TEXTS), decoder.nll(given, TEXTS[1:] + TEXTS[:1])
    own.sum().backward()

    assert decoder.name == "lm"
    assert isinstance(decoder, DifferentiableDecoder)
    assert float((own < other).float().mean()) > 0.9
    assert (given.grad.abs().sum(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in decoder.model.parameters())
    texts = decoder.decode(vectors)
    assert all(texts)
    assert texts == decoder.decode(vectors)
    assert len(set(texts)) > 1
    assert decoder.decode(vectors[:0]) == []


def test_the_likelihood_is_that_of_the_tokens_one_by_one(folder, vectors):
    decoder, texts = load_prefix_decoder(folder), [TEXTS[0], TEXTS[1] + " And more."]
    lines = decoder.tokens.encode(texts, max_tokens=decoder.model.max_tokens)
    expected = []
    for vector, line in zip(torch.from_numpy(vectors[:2]), lines, strict=True):
        logits, state = decoder.model.start(vector[None])
        found = []
        for token in line:
            found.append(-logits.log_softmax(dim=-1)[0, token])
            logits, state = decoder.model.go_on(torch.tensor([token]), state)
        expected.append(torch.stack(found).mean())

    torch.testing.assert_close(decoder.nll(torch.from_numpy(vectors[:2]), texts), torch.stack(expected))


def test_it_searches_as_the_prefix_decoder_does(folder, vectors, encoder):
    greedy = load_prefix_decoder(folder)
    wide = greedy.searching(Search(beam=4), None).decode(vectors[:8])
    best = greedy.searching(Search(candidates=4, corrections=1), encoder).decode(vectors[:8])

    def likelihood(texts):
        return -greedy.nll(torch.from_numpy(vectors[:8]), texts).mean()

    def cosine(texts):
        return np.einsum("bd,bd->b", encoder.encode(texts), vectors[:8])

    first = greedy.decode(vectors[:8])
    assert likelihood(wide) > likelihood(first) - 1e-5
    assert (cosine(best) >= cosine(first) - 1e-6).all()


def test_another_language_model_in_its_place_and_a_missing_one_are_refused(folder, tmp_path, lm_folder):
    path = folder / "decoder.json"
    record = json.loads(path.read_text())
    other = write_tiny_lm(tmp_path / "other", seed=1)
    record["language_model"]["folder"] = str(other)
    path.write_text(json.dumps(record))
    with pytest.raises(LvmError, match="is not the one that the decoder was trained with"):
        load_prefix_decoder(folder)

    record["language_model"]["folder"] = str(tmp_path / "nowhere")
    path.write_text(json.dumps(record))
    with pytest.raises(LvmError, match=r"language model .*nowhere cannot be opened .*; name a folder or a GGUF file"):
        load_prefix_decoder(folder)


@pytest.mark.parametrize(("file", "content"), [("model.safetensors", b"{"), ("config.json", b"[]")])
def test_a_damaged_language_model_is_refused(tmp_path, file, content):
    damaged = write_tiny_lm(tmp_path / "damaged")
    (damaged / file).write_bytes(content)

    with pytest.raises(LvmError, match=r"language model .*damaged cannot be opened .*; name a folder or a GGUF file"):
        open_language_model(str(damaged))


def test_a_language_model_in_the_home_folder_of_nobody_is_refused():
    with pytest.raises(LvmError, match=r"cannot be opened \(the home folder ~nobody-has-this-name is unknown"):
        open_language_model("~nobody-has-this-name/model")


def test_options_that_cannot_be_used_are_refused(vectors, lm_folder):
    with pytest.raises(LvmError, match=r"decoder option num_soft_tokens cannot be used .*got 0"):
        train_lm(vectors, TEXTS, LmOptions(num_soft_tokens=0), language_model=open_language_model(str(lm_folder)))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_real_language_model_learns_to_write_after_soft_tokens(language_model, encoder, vectors):
    opened = open_language_model(str(language_model))
    trained = train_lm(
        vectors, TEXTS, LmOptions(steps=60, batch_size=4, max_tokens=24, learning_rate=5e-3), language_model=opened
    )
    untrained = train_lm(vectors, TEXTS, LmOptions(steps=1, batch_size=4, max_tokens=24), language_model=opened)

    assert trained.loss < untrained.loss / 2
