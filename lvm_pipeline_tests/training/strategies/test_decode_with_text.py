"""decode_in_the_loop with the trained text decoder: true texts through the frozen decoder, and re-encoded ones."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline import lineage
from lvm_pipeline.decoding.prefix import load_prefix_decoder
from lvm_pipeline.decoding.prefix_training import PrefixOptions
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.batches import gather
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.strategies import check_strategies, staged
from lvm_pipeline.training.strategies._text_terms import texts_of
from lvm_pipeline.training.terms import TermSources
from lvm_pipeline_tests.lineage.test_decoders import make_home
from lvm_pipeline_tests.rescored_here import rescored_here
from lvm_pipeline_tests.synthetic import write_synthetic_sequences as write_sequences
from lvm_pipeline_tests.training.strategies.test_contract import QUICK, config_of
from lvm_pipeline_tests.training.test_loop import Recorder

DECODER = PrefixOptions(steps=60, hidden_dim=16, num_layers=1, vocabulary_size=300, learning_rate=1e-2)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    settings, encoder = make_home(tmp_path_factory.mktemp("text") / "home")
    lineage.train_text_decoder(settings, options=DECODER)
    return settings, encoder


@pytest.fixture
def text_data(home):
    return open_data(home[0])


def open_data(settings, **changed):
    folders = {"encoders_dir": settings.encoders_dir, "decoders_dir": settings.decoders_dir, **changed}
    return load_training_data(settings.concepts_path, settings.sequences_path, settings.vectors_dir, **folders)


def config(*, epochs=QUICK["epochs"], **options):
    return config_with(options, epochs=epochs)


def config_with(options, **changes):
    given = {"mode": "articles", "learning_rate": 0.01, "strategy_options": options, **changes}
    return config_of("decode_in_the_loop", **given)


def terms_of(data, **options):
    staging = staged(config(decoder="prefix", **options), data)
    vectors = torch.from_numpy(np.array(data.vectors))
    sources = TermSources(model=torch.nn.Linear(1, 1), vectors=vectors, data=data)  # pyright: ignore[reportArgumentType]
    batch = gather(vectors, staging.phases[0].spans.take(np.arange(3)))
    torch.manual_seed(0)
    predictions = F.normalize(torch.randn(int(batch.is_target.sum()), data.concepts.vector_dim), dim=-1)
    return {term.name: (term, term.make(sources)) for term in staging.phases[0].terms}, predictions, batch


def texts_at(data, batch):
    return [texts_of(data)[row] for row in batch.rows[batch.is_target].tolist()]


def test_it_is_the_likelihood_of_the_true_texts_with_gradients_to_the_predictions_alone(home, text_data):
    terms, predictions, batch = terms_of(text_data, decoded_targets=10**6, decode_weight=0.3)
    term, module = terms["decoded"]
    decoder = load_prefix_decoder(home[0].decoders_dir / "prefix")
    predictions.requires_grad_()

    found = module(predictions, batch, None)
    found.backward()

    expected = decoder.nll(predictions.detach(), texts_at(text_data, batch)).mean()
    mean = torch.from_numpy(np.asarray(text_data.train_sample()).mean(axis=0))
    guesses = mean.repeat(len(predictions), 1)
    guessed = module(guesses, batch, None)
    assert term.weight == 0.3
    assert float(guessed) == pytest.approx(1, abs=0.15)
    ratio = expected / decoder.nll(guesses, texts_at(text_data, batch)).mean()
    assert float(found.detach() / guessed) == pytest.approx(float(ratio), rel=1e-4)
    assert (predictions.grad.abs().sum(dim=1) > 0).all()
    assert not list(module.parameters())
    assert not module.state_dict()


def test_the_targets_of_a_step_are_drawn_from_torchs_random_state(text_data):
    terms, predictions, batch = terms_of(text_data, decoded_targets=2, reencode_weight=0.1)
    for _, module in terms.values():
        state = torch.get_rng_state()
        one, other = (float(module(predictions, batch, None)) for _ in range(2))
        torch.set_rng_state(state)
        assert float(module(predictions, batch, None)) == one != other


def test_decoded_texts_are_encoded_again_and_the_gradient_of_their_vector_is_passed_on(home, text_data):
    settings, encoder = home
    terms, predictions, batch = terms_of(text_data, decoded_targets=10**6, reencode_weight=0.2)
    term, module = terms["reencoded"]
    predictions.requires_grad_()

    found = module(predictions, batch, None)
    found.backward()

    texts = load_prefix_decoder(settings.decoders_dir / "prefix").decode(predictions.detach().numpy())
    encoded = torch.from_numpy(encoder.encode(texts)).requires_grad_()
    expected = 1 - F.cosine_similarity(encoded, batch.chosen_targets(), dim=-1).mean()
    expected.backward()
    assert term.weight == 0.2
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(predictions.grad, encoded.grad)


def test_a_training_uses_it_reports_both_terms_and_makes_the_true_texts_likelier(text_data, tmp_path):
    losses, record = [], None
    for weight in (1e-6, 1.0):
        options = {"decoder": "prefix", "decode_weight": weight, "reencode_weight": 1e-3, "decoded_targets": 8}
        tracker = Recorder()
        config = config_with(options, epochs=4, patience=9, learning_rate=1e-3)
        record = train(config, text_data, output_dir=tmp_path / str(weight), tracker=tracker).info
        series = {name: values for each in tracker.metrics for name, values in each.items()}
        assert np.isfinite([value for _, value in series["train_loss_reencoded"]]).all()
        losses.append(float(np.mean([value for _, value in series["train_loss_decoded"]])))

    assert losses[1] < losses[0] - 0.05
    assert record is not None
    assert "true text through the frozen decoder prefix (60 steps" in record.strategy_notes["decode_in_the_loop"]


def test_a_trial_is_trained_again_after_its_decoder_was(tmp_path, monkeypatch):
    rescored_here(monkeypatch)
    settings, _ = make_home(tmp_path / "home")
    lineage.train_text_decoder(settings, options=DECODER)
    trial = config(decoder="prefix", decoded_targets=4, epochs=1)

    first, same = (lineage.train_trial(settings, trial) for _ in range(2))
    lineage.train_text_decoder(settings, options=replace(DECODER, steps=2))
    changed = lineage.train_trial(settings, trial)
    shutil.rmtree(settings.decoders_dir)
    without = lineage.train_trial(settings, trial)

    assert [each.was_trained for each in (first, same, changed, without)] == [True, False, True, False]
    assert first.info.strategy_fingerprints != changed.info.strategy_fingerprints


def test_a_checkpoint_made_with_another_decoder_is_not_resumed(tmp_path):
    settings, _ = make_home(tmp_path / "home")
    lineage.train_text_decoder(settings, options=DECODER)
    options = {"decoder": "prefix", "decoded_targets": 4}

    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config_with(options), open_data(settings), output_dir=tmp_path / "model", progress=interrupt)
    lineage.train_text_decoder(settings, options=replace(DECODER, steps=2))
    with pytest.raises(LvmError, match=r"cannot be resumed: read\.decoder was "):
        train(config_with(options), open_data(settings), output_dir=tmp_path / "model")


@pytest.mark.parametrize(
    ("options", "folders", "message"),
    [
        (
            {"decoder": "prefix"},
            {"decoders_dir": None},
            "no folder of text decoders here; use .* decoder: bank",
        ),
        ({"decoder": "prefix"}, {"decoders_dir": "empty"}, "train one with `lvm decoder train`"),
        ({"decoder": "prefix", "reencode_weight": 1.0}, {"encoders_dir": None}, "or set reencode_weight to 0"),
    ],
)
def test_what_is_missing_is_said_before_a_training_begins(home, tmp_path, options, folders, message):
    folders = {name: value and tmp_path / value for name, value in folders.items()}
    with pytest.raises(LvmError, match=message):
        staged(config(**options), open_data(home[0], **folders))


def test_a_decoder_of_other_data_and_a_bank_that_cannot_be_re_encoded_are_refused(home, tmp_path):
    other, _ = make_home(tmp_path / "other")
    write_sequences(other.concepts_path, other.sequences_path, split_seed=99)
    with pytest.raises(LvmError, match="was trained on other data, perhaps on the articles that are scored"):
        staged(config(decoder="prefix"), open_data(other, decoders_dir=home[0].decoders_dir))
    shutil.copytree(home[0].decoders_dir / "prefix", tmp_path / "decoders" / "lm")
    with pytest.raises(LvmError, match=r"decoders/lm was trained on other data.* with `lvm decoder train --kind lm`"):
        staged(config(decoder="lm"), open_data(other, decoders_dir=tmp_path / "decoders"))
    with pytest.raises(LvmError, match="reencode_weight needs a text decoder"):
        check_strategies(config(reencode_weight=0.1).trial)
