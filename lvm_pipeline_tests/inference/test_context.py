"""Read one by one, concepts give the predictions of reading them together, and none is read again for nothing."""

import numpy as np
import pytest
import torch

from lvm_pipeline.architectures._registry import ARCHITECTURES
from lvm_pipeline.inference.context import ReadingModel
from lvm_pipeline.training.data import Spans
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline_tests.architectures.models import NAMES, VECTOR_DIM, is_recurrent, noisy_model

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 23
TOLERANCE = {"rtol": 0, "atol": 2e-5}
CAUSAL = [name for name in NAMES if ARCHITECTURES[name].causal]


def articles(length, *, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((length, VECTOR_DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def read_one_by_one(model, vectors, *, window=None):
    reading = ReadingModel(model, window=window)
    torch.manual_seed(0)
    return np.stack([reading.read(vector) for vector in vectors]), reading


def scored(model, vectors, *, window=None):
    """Predictions after each of the vectors as training and evaluation make them."""
    ends = np.arange(1, len(vectors) + 1)
    if window is None:
        spans = Spans(first_rows=np.array([0]), lengths=ends[-1:], first_targets=np.array([0]))
    else:
        lengths = np.minimum(ends, window)
        spans = Spans(first_rows=ends - lengths, lengths=lengths, first_targets=lengths - 1)
    torch.manual_seed(0)
    target_after_the_last = np.zeros_like(vectors[:1])
    return predict_spans(model, torch.from_numpy(np.concatenate([vectors, target_after_the_last])), spans)


@pytest.mark.parametrize("name", CAUSAL)
def test_an_article_read_one_by_one_is_predicted_as_a_whole(name):
    model, vectors = noisy_model(name, dtype=torch.float32, head="means"), articles(LENGTH)

    found, _ = read_one_by_one(model, vectors)

    np.testing.assert_allclose(found, scored(model, vectors), **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_windows_read_one_by_one_are_predicted_as_they_are_scored(name):
    model, vectors = noisy_model(name, dtype=torch.float32, head="means"), articles(9)

    found, reading = read_one_by_one(model, vectors, window=5)

    np.testing.assert_allclose(found, scored(model, vectors, window=5), **TOLERANCE)
    assert reading.num_remembered == 5


class Counting(torch.nn.Module):
    """Counts the positions that go through a module."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.num_read = inner, 0

    def forward(self, contexts):
        self.num_read += contexts.shape[1]
        return self.inner(contexts)


@pytest.mark.parametrize("name", NAMES)
def test_a_recurrent_model_reads_each_concept_once(name):
    model, vectors = noisy_model(name, dtype=torch.float32), articles(LENGTH)
    window = None if ARCHITECTURES[name].causal else 5
    if not hasattr(model, "input_projection"):
        pytest.skip("has a way in of its own")
    model.input_projection = Counting(model.input_projection)

    read_one_by_one(model, vectors, window=window)

    if is_recurrent(name):
        assert model.input_projection.num_read == LENGTH
    elif window is None:
        assert model.input_projection.num_read == LENGTH * (LENGTH + 1) // 2
    else:
        assert model.input_projection.num_read == 1 + 2 + 3 + 4 + 5 * (LENGTH - 4)


@pytest.mark.parametrize("carries_state", [True, False])
def test_an_article_beyond_the_longest_context_is_cut_as_it_is_scored(carries_state):
    model, vectors = noisy_model("distilgpt2", dtype=torch.float32, num_positions=8), articles(30)
    model.is_recurrent = carries_state

    found, reading = read_one_by_one(model, vectors)

    np.testing.assert_allclose(found, scored(model, vectors), **TOLERANCE)
    assert reading.carries_state == carries_state
    assert 4 < reading.num_remembered <= 8


def test_a_window_longer_than_the_longest_context_is_cut_as_it_is_scored():
    model, vectors = noisy_model("distilgpt2", dtype=torch.float32, num_positions=5), articles(20)

    found, _ = read_one_by_one(model, vectors, window=8)

    np.testing.assert_allclose(found[7:], scored(model, vectors, window=8)[7:], **TOLERANCE)


def test_an_article_that_starts_knows_nothing_of_the_one_before():
    model, vectors = noisy_model("gru", dtype=torch.float32), articles(6)
    reading = ReadingModel(model, window=None)
    first = [reading.read(vector) for vector in vectors]
    on = reading.read(vectors[0])
    reading.start_article()
    again = [reading.read(vector) for vector in vectors]

    np.testing.assert_array_equal(first, again)
    assert not np.allclose(on, first[0], atol=1e-3)
    assert reading.num_read == 6
