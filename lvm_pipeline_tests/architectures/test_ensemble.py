"""The mean of several models: each in its own mode, alike in one pass and concept by concept, blind to the future."""

import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.architectures._contract import at_last_position
from lvm_pipeline.architectures._ensemble import Ensemble, EnsembleConfig, EnsembleMember
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.inference.context import ReadingModel

WIDTH, WINDOW, LENGTH = 12, 4, 9
WEIGHTS = (0.5, 0.2, 0.3)


def model_of(name, **options):
    """A tiny model of random weights, head included."""
    architecture = load_architecture(name)
    config = type(architecture.preset("smoke").config)(
        vector_dim=WIDTH, hidden_dim=8, num_layers=1, dropout=0.0, **options
    )
    model = architecture.build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def models():
    torch.manual_seed(0)
    return [model_of("gru"), model_of("distilgpt2", num_heads=2), model_of("linformer", num_heads=2, num_positions=5)]


@pytest.fixture
def ensemble(models):
    """One member with a state, one that reads articles again, one that reads windows and sees all of them."""
    windows = (None, None, WINDOW)
    parts = [EnsembleMember(*each) for each in zip(models, WEIGHTS, windows, strict=True)]
    return Ensemble(EnsembleConfig(vector_dim=WIDTH), parts).eval()


@pytest.fixture(params=["plain", "neighbours"])
def either(request, ensemble, models):
    """The ensemble without and with a correction by neighbours."""
    if request.param == "plain":
        return ensemble
    parts = [EnsembleMember(*each) for each in zip(models, WEIGHTS, (None, None, WINDOW), strict=True)]
    corrected = Ensemble(EnsembleConfig(vector_dim=WIDTH, neighbours=True), parts).eval()
    corrected.neighbours.fit(torch.randn(40, WIDTH), torch.randn(40, WIDTH))
    return corrected


@pytest.fixture
def contexts():
    return F.normalize(torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)), dim=-1)


def of_window(model, contexts, position):
    window = contexts[:, max(0, position + 1 - WINDOW) : position + 1]
    return model(window, None, at_last_position(window))


@torch.no_grad()
def test_the_prediction_is_the_normalised_weighted_mean_each_member_reading_in_its_own_mode(ensemble, models, contexts):
    found = ensemble(contexts)

    for position in range(LENGTH):
        so_far = contexts[:, : position + 1]
        parts = [model(so_far)[:, -1] for model in models[:2]] + [of_window(models[2], contexts, position)]
        expected = F.normalize(sum(w * each for w, each in zip(WEIGHTS, parts, strict=True)), dim=-1)
        torch.testing.assert_close(found[:, position], expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_chosen_positions_are_those_of_all_positions(either, contexts):
    at = torch.rand(contexts.shape[:2], generator=torch.Generator().manual_seed(2)) < 0.4
    torch.testing.assert_close(either(contexts, None, at), either(contexts)[at], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_what_comes_later_changes_nothing_though_a_member_sees_all_of_its_window(either, contexts):
    changed = contexts.clone()
    changed[:, 6:] = F.normalize(torch.randn_like(changed[:, 6:]), dim=-1)

    torch.testing.assert_close(either(changed)[:, :6], either(contexts)[:, :6], rtol=1e-5, atol=1e-6)
    assert (either(changed)[:, 6:] - either(contexts)[:, 6:]).abs().max() > 1e-3


@torch.no_grad()
def test_a_windows_member_sees_nothing_before_its_window(ensemble, models, contexts):
    changed = contexts.clone()
    changed[:, 0] = -changed[:, 0]
    alone = Ensemble(EnsembleConfig(vector_dim=WIDTH), [EnsembleMember(models[2], 1.0, WINDOW)])

    torch.testing.assert_close(alone(changed)[:, WINDOW:], alone(contexts)[:, WINDOW:])
    assert (alone(changed)[:, :WINDOW] - alone(contexts)[:, :WINDOW]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("pieces", [(1,) * LENGTH, (4, 1, 4), (2, 7)])
def test_the_state_gives_what_one_pass_gives(either, contexts, pieces):
    state, found = None, []
    for piece in contexts.split(pieces, dim=1):
        predictions, state = either.prefill(piece, state)
        found.append(predictions)

    torch.testing.assert_close(torch.cat(found, dim=1), either(contexts), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_stream_carries_the_state_and_predicts_what_one_pass_predicts(either, contexts):
    reading = ReadingModel(either, window=None)
    found = torch.stack([torch.from_numpy(reading.read(vector.numpy())) for vector in contexts[0]])

    assert reading.carries_state
    torch.testing.assert_close(found, either(contexts)[0], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_members_with_and_without_a_condition_go_together(contexts):
    torch.manual_seed(3)
    conditioned, plain = model_of("gru", condition_dim=16), model_of("lstm")
    condition = torch.randn(*contexts.shape[:2], 16)
    members = [EnsembleMember(conditioned, 0.5, WINDOW), EnsembleMember(plain, 0.5, None)]
    ensemble = Ensemble(EnsembleConfig(vector_dim=WIDTH, condition_dim=16), members)

    found, _ = ensemble.prefill(contexts, None, condition)

    last = slice(-WINDOW, None)
    parts = [conditioned(contexts[:, last], condition[:, last])[:, -1], plain(contexts)[:, -1]]
    expected = F.normalize(parts[0] + parts[1], dim=-1)
    torch.testing.assert_close(found[:, -1], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ensemble(contexts, condition), found, rtol=1e-5, atol=1e-6)


def test_the_longest_context_is_that_of_the_members_that_read_articles(models):
    config = EnsembleConfig(vector_dim=WIDTH)
    of_articles = Ensemble(config, [EnsembleMember(model_of("distilgpt2", num_heads=2, num_positions=64), 1.0, None)])
    of_windows = Ensemble(config, [EnsembleMember(models[2], 1.0, WINDOW)])

    assert (of_articles.max_context, of_windows.max_context) == (64, None)
    assert (of_articles.is_recurrent, of_windows.is_recurrent) == (True, False)
