import threading

import numpy as np
import pytest
import torch

from lvm_pipeline.architectures._threads import torch_threads
from lvm_pipeline.errors import LvmError
from lvm_pipeline.measures.metrics import spread_of
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline.training import predictions
from lvm_pipeline.training.batches import vectors_on_device
from lvm_pipeline.training.data import Spans
from lvm_pipeline.training.predictions import SELECTION_METRICS, predict_spans, predicted_batches, selection_metric
from lvm_pipeline_tests.architectures.models import build, redraw

RNG = np.random.default_rng(0)
TARGETS = unit_length(RNG.standard_normal((50, 16)).astype(np.float32) + 1)
MEAN = TARGETS.mean(axis=0)


@pytest.fixture(scope="module")
def model():
    return redraw(build("lstm", vector_dim=16)).eval()


@pytest.mark.parametrize("mode", ["windows", "articles"])
def test_a_target_is_predicted_from_its_own_context_alone(data, model, mode):
    spans = data.scored_spans("train", mode=mode)
    found = predict_spans(model, vectors_on_device(data.vectors, "cpu"), spans)
    first_rows = np.repeat(spans.first_rows, spans.num_targets)
    for index in range(0, len(found), 17):
        context = data.vectors[first_rows[index] : spans.target_rows()[index]]
        with torch.no_grad():
            alone = model(torch.from_numpy(np.array(context))[None])[0, -1]
        np.testing.assert_allclose(found[index], alone, atol=1e-5)


def test_spans_of_a_batch_are_of_similar_length(model):
    lengths = np.array([*range(1, 41), 200, 3, 40])
    starts = np.cumsum(lengths + 1) - lengths - 1
    spans = Spans(first_rows=starts, lengths=lengths, first_targets=np.zeros_like(lengths))
    vectors = torch.randn(int((lengths + 1).sum()), 16)
    seen = []
    for indices, found in predicted_batches(model, vectors, spans, None):
        assert lengths[indices].max() <= 1.25 * lengths[indices].min()
        assert len(found) == lengths[indices].sum()
        seen += indices.tolist()
    assert sorted(seen) == list(range(len(lengths)))


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(predictions, "TARGETS_OF_A_THREAD", 40)
    with torch_threads(2):
        yield
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("mode", ["windows", "articles"])
def test_batches_side_by_side_are_predicted_as_one_after_the_other(data, model, two_threads, monkeypatch, mode):
    spans, vectors = data.scored_spans("train", mode=mode), vectors_on_device(data.vectors, "cpu")
    used = set()
    found_by = model.forward
    monkeypatch.setattr(model, "forward", lambda *inputs: used.add(threading.get_ident()) or found_by(*inputs))
    beside = predict_spans(model, vectors, spans)
    assert used
    assert threading.get_ident() not in used
    with torch_threads(1):
        np.testing.assert_allclose(beside, predict_spans(model, vectors, spans), atol=1e-6)
    assert threading.get_ident() in used


def test_a_model_whose_wrapper_expects_one_thread_gets_one(data, model, two_threads, monkeypatch):
    used, found_by = set(), model.forward
    monkeypatch.setattr(model, "forward", lambda *inputs: used.add(threading.get_ident()) or found_by(*inputs))
    predict_spans(model, vectors_on_device(data.vectors, "cpu"), data.article_spans("train"), in_threads=False)
    assert used == {threading.get_ident()}


def test_what_fails_beside_other_batches_fails_the_call(data, model, two_threads):
    with pytest.raises(RuntimeError, match="15"):
        predict_spans(model, torch.zeros(len(data.vectors), 15), data.article_spans("train"))


def test_long_articles_are_cut_for_a_model_that_reads_little(data, model, monkeypatch):
    spans = data.article_spans("train")
    monkeypatch.setattr(model, "max_context", 6)
    found = predict_spans(model, vectors_on_device(data.vectors, "cpu"), spans)
    cut = spans.no_longer_than(6)
    assert len(found) == spans.num_targets.sum()
    starts = np.repeat(cut.first_rows, cut.num_targets)
    index = len(found) - 1
    context = torch.from_numpy(np.array(data.vectors[starts[index] : cut.target_rows()[index]]))
    with torch.no_grad():
        np.testing.assert_allclose(found[index], model(context[None])[0, -1], atol=1e-5)


def test_metrics_are_best_for_the_truth_and_know_which_way_is_up():
    worse = TARGETS + 0.3 * RNG.standard_normal(TARGETS.shape).astype(np.float32)
    for metric in SELECTION_METRICS.values():
        truth, guess = (metric.measure(predictions, TARGETS, MEAN) for predictions in (TARGETS, worse))
        assert metric.is_better(truth, guess)
        assert not metric.is_better(guess, truth)
    assert selection_metric("cosine").measure(TARGETS, TARGETS, MEAN) == pytest.approx(1)
    assert selection_metric("mse").measure(TARGETS + 0.5, TARGETS, MEAN) == pytest.approx(0.25)


def test_the_centred_cosine_gives_nothing_for_the_mean():
    nearly_mean = np.tile(MEAN, (50, 1)) + 1e-3 * RNG.standard_normal(TARGETS.shape).astype(np.float32)
    assert selection_metric("cosine").measure(nearly_mean, TARGETS, MEAN) > 0.5
    assert abs(selection_metric("centred_cosine").measure(nearly_mean, TARGETS, MEAN)) < 0.2


def test_an_unknown_metric_lists_what_exists():
    with pytest.raises(LvmError, match="cosine, centred_cosine, mse"):
        selection_metric("loss")


def test_collapse_to_the_mean_shows():
    honest = spread_of(TARGETS, TARGETS, MEAN)
    collapsed = spread_of(np.tile(MEAN, (50, 1)), TARGETS, MEAN)
    assert honest.prediction_variance == pytest.approx(honest.target_variance)
    assert collapsed.prediction_variance == pytest.approx(0, abs=1e-6)
    assert collapsed.cosine_to_mean == pytest.approx(1, abs=1e-5)


def test_no_targets_are_no_error(model):
    nothing = np.array([], dtype=np.int64)
    spans = Spans(first_rows=nothing, lengths=nothing, first_targets=nothing)
    assert predict_spans(model, torch.zeros(1, 16), spans).shape == (0, 16)
