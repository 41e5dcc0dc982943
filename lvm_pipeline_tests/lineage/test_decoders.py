"""The text decoder of a home: trained once per data, refused where it does not belong, and used line by line."""

import json
from types import SimpleNamespace

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from typer.testing import CliRunner

from lvm_pipeline import lineage
from lvm_pipeline.cli.commands import app
from lvm_pipeline.decoding.prefix_training import PrefixOptions
from lvm_pipeline.decoding.search import Search
from lvm_pipeline.defs.evaluation_report import verdict
from lvm_pipeline.defs.text_decoder import text_decoder
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage import decoders
from lvm_pipeline.lineage.decoders import decoders_at_hand, text_request
from lvm_pipeline.lineage.smoothing import open_decoder
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.encoders.lsa import fit_lsa
from lvm_pipeline.source.encoders.registry import remember_encoder
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline_tests.lineage.small_trials import OPTIONS as TRIAL
from lvm_pipeline_tests.lineage.small_trials import make_data
from lvm_pipeline_tests.rescored_here import rescored_here
from lvm_pipeline_tests.synthetic import synthetic_table, write_table
from lvm_pipeline_tests.synthetic import write_synthetic_sequences as write_sequences
from lvm_pipeline_tests.worded import with_columns

OPTIONS = PrefixOptions(steps=4, hidden_dim=16, num_layers=1, vocabulary_size=300)


def make_home(home, *, seed=0):
    """A home whose concepts have the vectors of an LSA encoder that is at hand."""
    settings = Settings(home=home, device="cpu", num_threads=1, decoder_steps=2)
    table = synthetic_table([8, 9, 7] * 8, vector_dim=768, seed=seed)
    encoder = fit_lsa(table["concept_text"].to_pylist())
    remember_encoder(encoder, encoders_dir=settings.encoders_dir)
    vectors = torch.from_numpy(encoder.encode(table["concept_text"].to_pylist()))
    index = table.schema.get_field_index("vector")
    column = type(table["vector"].chunk(0)).from_arrays(vectors.numpy().ravel(), type=table.schema.field(index).type)
    table = table.set_column(index, table.schema.field(index), column)
    write_table(table, settings.concepts_path, space_id=encoder.space_id)
    write_sequences(settings.concepts_path, settings.sequences_path)
    return settings, encoder


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "home")


def data_of(settings):
    return load_training_data(settings.concepts_path, settings.sequences_path, settings.vectors_dir)


def test_it_is_trained_on_train_articles_once_for_the_same_data_code_and_options(home, monkeypatch):
    settings, encoder = home
    seen = []

    made = lineage.train_text_decoder(settings, options=OPTIONS, progress=lambda *step: seen.append(step))
    again = lineage.train_text_decoder(settings, options=OPTIONS)

    data = data_of(settings)
    assert (made.was_trained, again.was_trained) == (True, False)
    assert made.info.num_texts == len(data.train_rows()) < len(data.vectors)
    assert made.info.fingerprints == data.fingerprints
    assert made.info.space_id == encoder.space_id
    assert [step[:2] for step in seen] == [(n, 4) for n in range(1, 5)]
    assert lineage.train_text_decoder(settings, options=OPTIONS, again=True).was_trained
    assert lineage.train_text_decoder(settings).info.num_steps == 2  # the setting
    monkeypatch.setattr("lvm_pipeline.training.provenance.code_version", lambda *_: "other")
    assert lineage.train_text_decoder(settings).was_trained


def test_a_decoder_of_other_data_is_not_at_hand_and_is_trained_again(home, tmp_path):
    settings, _ = home
    lineage.train_text_decoder(settings, options=OPTIONS)
    found = decoders_at_hand(settings, data_of(settings))
    assert [each.name for each in found.decoders] == ["prefix"]
    assert not found.missing

    write_sequences(settings.concepts_path, settings.sequences_path, split_seed=99)
    other = decoders_at_hand(settings, data_of(settings))
    assert not other.decoders
    assert "was trained on other data, perhaps on the articles that are scored" in other.missing["prefix"]
    assert lineage.train_text_decoder(settings, options=OPTIONS).was_trained

    none = decoders_at_hand(make_home(tmp_path / "empty")[0], data_of(settings))
    assert none.missing["prefix"].endswith("train one with `lvm decoder train`.")


def test_a_decoder_of_other_texts_is_not_at_hand_and_is_trained_again(home):
    settings, encoder = home
    lineage.train_text_decoder(settings, options=OPTIONS)
    table = pq.read_table(settings.concepts_path)
    texts = pa.array([f"{text} Edited." for text in table["concept_text"].to_pylist()])
    write_table(with_columns(table, concept_text=texts), settings.concepts_path, space_id=encoder.space_id)

    other = decoders_at_hand(settings, data_of(settings))
    assert "was trained on other data" in other.missing["prefix"]
    assert lineage.train_text_decoder(settings, options=OPTIONS).was_trained
    assert decoders_at_hand(settings, data_of(settings)).decoders


def test_a_frozen_language_model_is_a_second_decoder(home, tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the extra `lm` is not installed")
    from lvm_pipeline_tests.decoding.test_lm import write_tiny_lm

    settings, encoder = home
    monkeypatch.setenv("LVM_HOME", str(settings.home))
    monkeypatch.setenv("LVM_DECODER_LANGUAGE_MODEL", str(write_tiny_lm(tmp_path / "tiny")))
    run = CliRunner().invoke
    lineage.train_text_decoder(settings, options=OPTIONS)

    trained = run(app, ["decoder", "train", "--kind", "lm", "--steps", "2", "--soft-tokens", "3", "--json"])
    again = run(app, ["decoder", "train", "--kind", "lm", "--steps", "2", "--soft-tokens", "3"])
    decoded = run(app, ["decoder", "decode", "--kind", "lm", "--beam", "2"], input="Concept 3 of article 2\n")

    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout)["language_model"]["folder"] == str(tmp_path / "tiny")
    assert "was trained before" in again.output
    assert json.loads(decoded.stdout)["text"]
    found = decoders_at_hand(settings.model_copy(update={"text_beam": 2}), data_of(settings), encoder=encoder)
    assert [(each.name, each.search.beam) for each in found.decoders] == [("prefix", 2), ("lm", 2)]
    write_sequences(settings.concepts_path, settings.sequences_path, split_seed=99)
    assert set(decoders_at_hand(settings, data_of(settings)).missing) == {"prefix", "lm"}


def test_several_candidates_need_the_encoder(home):
    settings, encoder = home
    lineage.train_text_decoder(settings, options=OPTIONS)
    several = settings.model_copy(update={"text_candidates": 3})

    assert decoders_at_hand(several, data_of(settings), encoder=encoder).decoders[0].search.candidates == 3
    assert decoders_at_hand(several, data_of(settings)).decoders[0].encoder is None


def test_a_report_uses_every_available_decoder_and_lists_those_that_are_missing(home):
    settings, _ = home

    before = text_request(settings)
    lineage.train_text_decoder(settings, options=OPTIONS)
    after = text_request(settings)

    assert (before.num_targets, before.decoders) == (settings.text_targets, ())
    assert "train one with `lvm decoder train`" in before.missing["prefix"]
    assert ([each.name for each in after.decoders], after.missing) == (["prefix"], {})
    assert text_request(settings.model_copy(update={"text_targets": 0})).num_targets == 0


def test_the_report_of_a_trial_has_decoded_predictions(tmp_path, monkeypatch):
    rescored_here(monkeypatch)
    settings = Settings(home=tmp_path / "home", device="cpu", text_targets=5, **TRIAL)
    make_data(settings)
    trial = lineage.train_trial(settings, lineage.training_config_of(settings))

    report = lineage.evaluate_trial(settings, trial.folder)

    assert report.text.num_targets == 5
    assert [each.name for each in report.text.decoders] == ["nearest"]
    assert "train one with <code>lvm decoder train</code>" in (trial.folder.path / "report.html").read_text()
    assert verdict(settings, trial.folder, report)["text_accuracy"] == pytest.approx(report.text.accuracy, rel=1e-3)


def test_another_process_that_trains_it_is_named(home):
    settings, _ = home
    settings.decoders_dir.mkdir(parents=True)

    with (
        FileLock(settings.decoders_dir / ".prefix.lock"),
        pytest.raises(LvmError, match="Another process is training the text decoder now"),
    ):
        lineage.train_text_decoder(settings, options=OPTIONS)


def test_lines_of_texts_vectors_and_predictions_are_decoded_with_their_round_trip(home):
    settings, encoder = home
    lineage.train_text_decoder(settings, options=OPTIONS)
    vector = encoder.encode(["Concept 3 of article 2"])[0]
    lines = [
        json.dumps({"article_id": "a", "text": "Concept 3 of article 2"}).encode(),
        json.dumps({"vector": vector.tolist()}).encode(),
        json.dumps({"article_id": "a", "position": 3, "num_context": 4, "prediction": vector.tolist()}).encode(),
        b"Concept 3 of article 2",
    ]

    records = list(lineage.decode_lines(settings, lines))

    assert len({record["text"] for record in records}) == 1
    assert [record.get("article_id") for record in records] == ["a", None, "a", None]
    expected = float(encoder.encode([records[0]["text"]])[0] @ vector)
    assert [record["round_trip_cosine"] for record in records] == pytest.approx([expected] * 4, abs=1e-5)
    (best,) = lineage.decode_lines(settings, lines[:1], search=Search(candidates=4))
    assert best["round_trip_cosine"] >= records[0]["round_trip_cosine"] - 1e-6


@pytest.mark.parametrize(
    ("line", "num_candidates", "message"),
    [
        (json.dumps({"vector": [1.0] * 768, "space_id": "gtr"}), 1, "and these are of gtr"),
        (json.dumps({"vector": [1.0] * 5}), 1, r"shape \(n, 768\), got \(1, 5\)"),
        ("[" * 100_000, 1, "nested too deeply"),
        ("A text.", 1, "is not on this machine, so texts cannot be encoded"),
        (json.dumps({"vector": [1.0] * 768}), 2, "is not on this machine"),
    ],
)
def test_a_line_that_cannot_be_decoded_is_refused(home, monkeypatch, line, num_candidates, message):
    settings, _ = home
    lineage.train_text_decoder(settings, options=OPTIONS)
    monkeypatch.setattr("lvm_pipeline.source.encoders.registry.encoder_of_space", lambda *_, **__: None)

    with pytest.raises(LvmError, match=message):
        list(lineage.decode_lines(settings, [line.encode()], search=Search(candidates=num_candidates)))
    if "A text" not in line and num_candidates == 1:
        return
    (record,) = lineage.decode_lines(settings, [json.dumps({"vector": [1.0] * 768}).encode()])
    assert record["round_trip_cosine"] is None


def test_the_commands_train_and_decode(home, monkeypatch):
    settings, _ = home
    for name, value in {"HOME": settings.home, "NUM_THREADS": 1, "DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"LVM_{name}", str(value))
    run = CliRunner().invoke

    trained = run(app, ["decoder", "train", "--steps", "2", "--json"])
    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout)["num_steps"] == 2
    assert "was trained before" in run(app, ["decoder", "train", "--steps", "2"]).output
    decoded = run(app, ["decoder", "decode"], input="Concept 3 of article 2\n")
    assert decoded.exit_code == 0, decoded.output
    assert json.loads(decoded.stdout).keys() == {"text", "round_trip_cosine"}
    monkeypatch.setenv("LVM_TEXT_CANDIDATES", "2")
    monkeypatch.setenv("LVM_TEXT_TEMPERATURE", "0")
    unset = run(app, ["decoder", "decode"], input="Concept 3 of article 2\n")
    assert "Several candidates are all the same text" in str(unset.exception), "the settings are heeded"
    drawn = run(app, ["decoder", "decode", "--temperature", "0.5"], input="Concept 3 of article 2\n")
    assert drawn.exit_code == 0, drawn.output
    missing = run(app, ["decoder", "decode", str(settings.home / "missing.txt")])
    assert isinstance(missing.exception, LvmError)
    assert "missing.txt cannot be read (No such file or directory); check the path." in str(missing.exception)
    refused = run(app, ["decoder", "train", "--steps", "0"])
    assert isinstance(refused.exception, LvmError)
    assert "The decoder option steps cannot be used" in str(refused.exception)


def test_smoothing_decodes_as_the_settings_say(home):
    settings, encoder = home
    lineage.train_text_decoder(settings, options=OPTIONS)
    scored = SimpleNamespace(data=data_of(settings))

    opened = open_decoder(settings.model_copy(update={"text_candidates": 3}), scored, "prefix")

    assert (opened.search.candidates, opened.encoder.space_id) == (3, encoder.space_id)


def test_the_asset_trains_it_and_shows_its_numbers(home):
    settings, _ = home

    def materialised(**options):
        result = dg.materialize(
            [text_decoder],
            resources={"settings": settings},
            run_config={"ops": {"text_decoder": {"config": options}}},
            selection="text_decoder",
        )
        (event,) = result.get_asset_materialization_events()
        return event.materialization

    first, second = materialised(steps=3), materialised(steps=3)

    metadata = {name: value.value for name, value in first.metadata.items()}
    assert metadata["num_steps"] == 3
    assert metadata["was_trained_now"]
    assert np.isfinite(metadata["loss"])
    assert not second.metadata["was_trained_now"].value
    assert first.tags["dagster/data_version"] == second.tags["dagster/data_version"]
    assert (settings.decoders_dir / decoders.PREFIX).is_dir()
