"""The server decodes with a trained text decoder, and says how sure that is by encoding the text again."""

import json

import numpy as np
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.decoding.prefix import WEIGHTS_FILE
from lvm_pipeline.decoding.prefix_training import PrefixOptions
from lvm_pipeline.lineage.serving import loader_of, serving_app, source_of
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline.source.encoders.registry import encoder_of_space
from lvm_pipeline_tests.serving.homes import LENGTHS, call, make_home, running, texts_of, train_trial


def test_a_trained_decoder_answers_with_its_text_and_its_round_trip(tmp_path):
    settings = make_home(tmp_path / "home")
    train_trial(settings, architecture="gru", mode="articles")
    options = PrefixOptions(steps=60, hidden_dim=16, num_layers=1, vocabulary_size=300)
    lineage.train_text_decoder(settings, options=options)
    body = {"texts": texts_of(LENGTHS)[:3], "decoder": "prefix", "nearest": 2}

    with running(serving_app(settings, trial="gru")) as url:
        status, _, text = call(f"{url}/predict", body)
        _, _, health = call(f"{url}/health")

    found = json.loads(text)
    assert status == 200
    assert json.loads(health)["decoders"] == ["nearest", "prefix"]
    assert (found["decoder"], len(found["nearest"])) == ("prefix", 2)
    encoder = encoder_of_space(found["space_id"], encoders_dir=settings.encoders_dir)
    encoded = unit_length(np.asarray(encoder.encode([found["text"]]), np.float32))[0]
    expected = float(encoded @ np.array(found["prediction"], np.float32))
    assert found["confidence"] == pytest.approx(expected, abs=1e-5)


def test_the_server_searches_as_the_settings_say_and_names_what_is_damaged(tmp_path, caplog):
    settings = make_home(tmp_path / "home", text_candidates=3)
    train_trial(settings, architecture="gru", mode="articles")
    source = source_of(settings, trial="gru")()
    before = loader_of(settings)(source)
    assert (list(before.decoders), caplog.text) == ([], ""), "a decoder that was never trained is no problem"
    options = PrefixOptions(steps=2, hidden_dim=16, num_layers=1, vocabulary_size=300)
    made = lineage.train_text_decoder(settings, options=options)

    decoder = loader_of(settings)(source).decoders["prefix"]
    assert (decoder.search.candidates, decoder.encoder.space_id) == (3, before.encoder.space_id)

    (made.path / WEIGHTS_FILE).write_bytes(b"damaged")
    settings.concepts_path.write_bytes(b"damaged")
    damaged = loader_of(settings)(source)
    assert (dict(damaged.decoders), damaged.index) == ({}, None)
    assert "The decoder prefix is not used: The text decoder in" in caplog.text
    assert "The concepts are not searched: " in caplog.text
