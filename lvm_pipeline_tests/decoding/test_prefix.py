"""The prefix decoder: it learns to write texts from their vectors, is saved strictly, and is differentiable."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lvm_pipeline.decoding._contract import DifferentiableDecoder, refuse_other_space
from lvm_pipeline.decoding._prefix_model import IGNORED, PrefixConfig, PrefixModel
from lvm_pipeline.decoding._tokens import END, train_tokenizer
from lvm_pipeline.decoding._writing import beam_written, written
from lvm_pipeline.decoding.prefix import (
    PrefixDecoder,
    PrefixInfo,
    load_prefix_decoder,
    save_prefix_decoder,
)
from lvm_pipeline.decoding.prefix_training import PrefixOptions, padded, train_prefix
from lvm_pipeline.decoding.search import Search, around
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.encoders.lsa import fit_lsa

ANIMALS, PLACES = ("cat", "dog", "heron", "wolf", "mole", "crab"), ("house", "river", "meadow", "tower")
TEXTS = [f"The {animal} lives in the {place}, near {n}." for n in (1, 2) for animal in ANIMALS for place in PLACES]
OPTIONS = PrefixOptions(steps=120, batch_size=16, hidden_dim=32, num_layers=1, vocabulary_size=400, learning_rate=1e-2)
RECORD = {"fingerprints": {"concepts": "a"}, "code_version": "1", "options": {}, "num_texts": len(TEXTS)}


@pytest.fixture(scope="module")
def encoder():
    return fit_lsa(TEXTS)


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode(TEXTS)


@pytest.fixture(scope="module")
def trained(vectors):
    return train_prefix(vectors, TEXTS, OPTIONS)


@pytest.fixture
def folder(trained, encoder, tmp_path):
    save_prefix_decoder(tmp_path / "prefix", trained, space_id=encoder.space_id, **RECORD)
    return tmp_path / "prefix"


def test_it_writes_the_texts_it_was_trained_on_and_each_from_its_own_vector(folder, vectors):
    decoder = load_prefix_decoder(folder)

    written = decoder.decode(vectors)

    assert np.mean([text == own for text, own in zip(written, TEXTS, strict=True)]) > 0.9
    assert isinstance(decoder, DifferentiableDecoder)
    assert decoder.decode(vectors[:0]) == []


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(vectors):
    short = {**vars(OPTIONS), "steps": 3}
    first, again, other = (
        train_prefix(vectors, TEXTS, PrefixOptions(**{**short, "noise": 0.1, "seed": seed})) for seed in (1, 1, 2)
    )

    weights = [each.model.state_dict() for each in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["tokens.weight"], weights[2]["tokens.weight"])
    assert first.tokens.as_json() == again.tokens.as_json()
    assert first.num_steps == 3


def test_a_training_ends_at_its_time_limit(vectors):
    found = train_prefix(vectors, TEXTS, PrefixOptions(**{**vars(OPTIONS), "steps": 10**9, "seconds": 0.2}))

    assert 1 <= found.num_steps < 10**4


def test_loading_gives_back_what_was_saved(folder, trained, encoder, vectors):
    decoder = load_prefix_decoder(folder, space_id=encoder.space_id)

    assert decoder.info.num_params == sum(p.numel() for p in trained.model.parameters())
    assert all(
        torch.equal(tensor, trained.model.state_dict()[name])
        for name, tensor in load_file(folder / "decoder.safetensors").items()
    )
    assert decoder.info.config["vector_dim"] == vectors.shape[1]
    assert {path.name for path in folder.iterdir()} == {"decoder.json", "decoder.safetensors", "tokenizer.json"}


def test_who_may_read_the_record_may_read_the_weights(folder):
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_the_likelihood_is_that_of_the_tokens_one_by_one(trained, folder, vectors):
    decoder, model = load_prefix_decoder(folder), trained.model
    texts = [TEXTS[0], TEXTS[1] + " And that is all there is to say about it."]
    lines = decoder.tokens.encode(texts, max_tokens=model.config.max_tokens)
    expected = []
    for vector, line in zip(torch.from_numpy(vectors[:2]), lines, strict=True):
        logits, state = model.start(vector[None])
        found = []
        for token in line:
            found.append(-logits.log_softmax(dim=-1)[0, token])
            logits, state = model.go_on(torch.tensor([token]), state)
        expected.append(torch.stack(found).mean())

    torch.testing.assert_close(decoder.nll(torch.from_numpy(vectors[:2]), texts), torch.stack(expected))
    assert (padded(lines)[0, len(lines[0]) :] == IGNORED).all()


def test_the_likelihood_has_gradients_to_the_vectors_alone_and_prefers_the_own_text(folder, vectors):
    decoder = load_prefix_decoder(folder)
    given = torch.from_numpy(vectors).requires_grad_()

    own, other = decoder.nll(given, TEXTS), decoder.nll(given, TEXTS[1:] + TEXTS[:1])
    own.sum().backward()

    assert (own < other).all()
    assert (given.grad.abs().sum(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in decoder.model.parameters())
    stepped = given.detach() - 0.01 * torch.nn.functional.normalize(given.grad, dim=1)
    assert decoder.nll(stepped, TEXTS).mean() < own.mean()


def round_trip(decoder, encoder, asked):
    texts = decoder.decode(asked)
    return (encoder.encode(texts) * asked).sum(axis=1), texts


@pytest.fixture(scope="module")
def uncertain(vectors, encoder, tmp_path_factory):
    """A decoder that has learnt little."""
    folder = tmp_path_factory.mktemp("uncertain") / "prefix"
    trained = train_prefix(vectors, TEXTS, PrefixOptions(**{**vars(OPTIONS), "steps": 40}))
    save_prefix_decoder(folder, trained, space_id=encoder.space_id, **RECORD)
    return load_prefix_decoder(folder)


@pytest.fixture
def asked(vectors):
    """Vectors that are no concept's: each between two."""
    return (vectors + 0.6 * np.roll(vectors, 5, axis=0))[::3].astype(np.float32)


@pytest.mark.parametrize(
    "search",
    [
        Search(candidates=6, temperature=1.5),
        Search(candidates=6, temperature=1.5, spread=0.5),
        Search(corrections=3),
        Search(beam=3, candidates=3, corrections=2),
    ],
)
def test_of_several_texts_the_closest_is_kept(uncertain, encoder, asked, search):
    first = uncertain.searching(Search(beam=search.beam), None)
    best = first.searching(search, encoder)

    (alone, _), (chosen, texts) = (round_trip(decoder, encoder, asked) for decoder in (first, best))

    assert (chosen >= alone - 1e-6).all()
    assert (chosen > alone + 1e-3).any()
    assert texts == best.decode(asked)


def test_drawn_texts_are_decoded_from_vectors_around_the_given_one():
    given = np.arange(40_000, dtype=np.float32).reshape(100, 400)

    one, other = around(given, noise=0.3, count=2, seed=1)

    assert np.std(one - given) == pytest.approx(0.3, rel=0.1)
    assert np.abs(one - other).max() > 0.1
    assert np.array_equal(one, next(around(given, noise=0.3, count=1, seed=1)))
    assert next(around(given, noise=0, count=1, seed=1)) is given


def test_a_search_that_makes_no_sense_is_refused(folder, encoder):
    greedy = load_prefix_decoder(folder)
    with pytest.raises(LvmError, match="The encoder is of space lsa-768"):
        greedy.searching(Search(candidates=2), fit_lsa(TEXTS[:20]))
    for search, message in (
        (Search(candidates=0), "decoder option candidates cannot be used .*got 0"),
        (Search(beam=0), "decoder option beam cannot be used"),
        (Search(candidates=2, temperature=0), "all the same text with temperature 0 and spread 0"),
    ):
        with pytest.raises(LvmError, match=message):
            greedy.searching(search, encoder)


def test_a_beam_of_width_one_is_greedy_and_a_wide_one_writes_other_texts(uncertain, asked):
    given = torch.from_numpy(asked)
    with torch.inference_mode():
        greedy = written(uncertain.model, given, temperature=0, generator=torch.Generator())
        narrow, wide = (beam_written(uncertain.model, given, width=width) for width in (1, 6))

        losses = uncertain.model.losses(given, padded([line for _, line in wide]))

    lines = [line for _, line in wide]
    assert [line for _, line in narrow] == greedy
    assert lines != greedy
    assert uncertain.searching(Search(beam=6), None).decode(asked) == uncertain.tokens.decode(lines)
    expected = -losses.sum(dim=1) / torch.tensor([len(line) for line in lines])
    torch.testing.assert_close(torch.tensor([score for score, _ in wide]), expected, atol=1e-4, rtol=1e-4)


class Chain:
    """A model of three tokens after one vector, whose likelihoods are a table: token before -> next token."""

    end, max_tokens = 0, 6

    def __init__(self, table):
        self.table = torch.tensor(table).log()

    def start(self, vectors):
        return self.table[0].repeat(len(vectors), 1), torch.zeros(len(vectors))

    def go_on(self, tokens, state):
        return self.table[tokens].clone(), state

    def chosen(self, state, rows):
        return state[rows]


@pytest.mark.parametrize("width", [1, 2])
def test_the_text_of_a_vector_does_not_depend_on_the_others_of_its_batch(width):
    # After token 1 the line may end, or end better after one token more, which is searched only if another goes on.
    chain = Chain([[1.0] * 4, [0.5, 0.02, 0.45, 0.03], [0.98, 0.01, 0.005, 0.005], [0.02, 0.03, 0.9, 0.05]])
    chain.start = lambda vectors: (vectors.log(), torch.zeros(len(vectors)))
    given = torch.tensor([[0.02, 0.9, 0.04, 0.04], [0.02, 0.04, 0.04, 0.9]])

    together = beam_written(chain, given, width=width)

    assert together == [beam_written(chain, given[row : row + 1], width=width)[0] for row in range(len(given))]


def test_a_beam_finds_what_greedy_writing_misses():
    """Greedy takes token 1 (0.6) and then ends at 0.4; token 2 (0.4) is surely followed by the end."""
    chain = Chain([[1e-9, 0.6, 0.4], [0.4, 0.3, 0.3], [1.0, 1e-9, 1e-9]])

    assert written(chain, torch.zeros(2, 1), temperature=0, generator=torch.Generator()) == [[1, 0]] * 2
    assert [line for _, line in beam_written(chain, torch.zeros(2, 1), width=2)] == [[2, 0]] * 2


def test_no_text_repeats_itself_or_is_empty(vectors):
    untrained = train_prefix(vectors, TEXTS, PrefixOptions(**{**vars(OPTIONS), "steps": 1, "learning_rate": 1e-9}))
    model = untrained.model
    model.bias[0] = 20  # the end is by far the most likely token

    info = PrefixInfo(space_id="s", config={}, num_steps=1, seconds=0.0, loss=0.0, num_params=0, **RECORD)
    decoder = PrefixDecoder(model=model, tokens=untrained.tokens, info=info)
    assert all(decoder.write(vectors[:3]))
    model.bias[0] = -20  # the end never comes
    tokens = untrained.tokens.encode(decoder.write(vectors[:2]), max_tokens=10**6)
    runs = [tuple(tokens[0][i : i + 4]) for i in range(len(tokens[0]) - 4)]
    assert len(runs) > 100
    assert len(set(runs)) > len(runs) / 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "There is no text decoder in this home; train one with `lvm decoder train`"),
        (lambda f: (f / "decoder.json").write_text("{"), "cannot be read"),
        (lambda f: edit(f, schema_version=9), "is not a record of schema version 1"),
        (lambda f: edit(f, space_id="other"), "not of one training"),
        (lambda f: edit(f, config={**read(f)["config"], "num_layers": 2}), "is damaged .*Error"),
        (lambda f: edit(f, config={"a": 1}), "is damaged"),
        (lambda f: (f / "decoder.safetensors").write_bytes(b"x" * 9), "is damaged"),
        (lambda f: (f / "tokenizer.json").write_text("[]"), "cannot be read as a tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text(other_tokenizer(f)), "not of one training"),
        (lambda f: strip_identity(f), "not of one training"),
    ],
)
def test_files_that_do_not_belong_together_are_refused_in_one_sentence(folder, damage, message):
    damage(folder)

    with pytest.raises(LvmError, match=message) as refused:
        load_prefix_decoder(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "decoder.json").write_text("{"),
        lambda f: edit(f, schema_version=9),
        lambda f: (f / "decoder.safetensors").write_bytes(b"x" * 9),
    ],
)
def test_a_decoder_with_a_language_model_is_trained_again_as_such(folder, damage):
    of_lm = folder.with_name("lm")
    shutil.copytree(folder, of_lm)
    edit(of_lm, language_model={"folder": "f", "fingerprint": "a"})
    damage(of_lm)

    with pytest.raises(LvmError, match="`lvm decoder train --kind lm`"):
        load_prefix_decoder(of_lm)


def read(folder):
    return json.loads((folder / "decoder.json").read_text())


def edit(folder, **changes):
    (folder / "decoder.json").write_text(json.dumps({**read(folder), **changes}))


def other_tokenizer(folder):
    return (folder / "tokenizer.json").read_text().replace("<end>", "<fin>")


def strip_identity(folder):
    path = folder / "decoder.safetensors"
    save_file(load_file(path), path)


def test_a_foreign_space_or_width_is_refused(folder, vectors):
    decoder = load_prefix_decoder(folder)

    with pytest.raises(LvmError, match=r"reads vectors of space lsa-768@.*, not gtr"):
        load_prefix_decoder(folder, space_id="gtr")
    with pytest.raises(LvmError, match="The decoder prefix reads vectors of space"):
        refuse_other_space(decoder, "gtr")
    with pytest.raises(LvmError, match=r"shape \(n, 768\), got \(2, 5\)"):
        decoder.decode(np.zeros((2, 5), np.float32))


@pytest.mark.parametrize(
    ("option", "value"), [("steps", 0), ("seconds", 0.0), ("batch_size", 0), ("noise", -1.0), ("vocabulary_size", 9)]
)
def test_options_that_cannot_be_used_are_refused(vectors, option, value):
    with pytest.raises(LvmError, match=f"decoder option {option} cannot be used"):
        train_prefix(vectors, TEXTS, PrefixOptions(**{**vars(OPTIONS), option: value}))


def test_too_few_texts_and_a_diverging_training_are_refused(vectors):
    with pytest.raises(LvmError, match="at least 8 train concepts, got 3"):
        train_prefix(vectors[:3], TEXTS[:3], OPTIONS)
    with pytest.raises(LvmError, match="diverged; use a lower learning rate"):
        train_prefix(vectors * np.nan, TEXTS, OPTIONS)


def test_a_text_that_is_too_long_is_cut_and_has_no_end():
    config = PrefixConfig(vector_dim=4, vocabulary_size=300, hidden_dim=8, num_layers=1, num_heads=2, max_tokens=5)
    model = PrefixModel(config)
    tokens = train_tokenizer(TEXTS, vocabulary_size=300)
    (line, short) = tokens.encode([TEXTS[0] * 9, "A"], max_tokens=5)

    assert len(line) == 5
    assert END not in line
    assert short[-1] == END
    assert model.losses(torch.zeros(2, 4), padded([line, short])).shape == (2, 5)
    assert tokens.decode(tokens.encode(["Grüße, 世界 and\n  more"], max_tokens=99)) == ["Grüße, 世界 and more"]


def test_a_text_that_contains_the_name_of_the_end_token_is_not_cut_there():
    tokens, text = train_tokenizer(TEXTS, vocabulary_size=300), "Write <end> at the end."

    lines = tokens.encode([text], max_tokens=100)

    assert lines[0].index(END) == len(lines[0]) - 1
    assert tokens.decode(lines) == [text]
