import numpy as np
import pytest
import torch

from lvm_pipeline.evaluation.controls import control_scores, usual_context_length
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline_tests.measures.known_answers import Stub
from lvm_pipeline_tests.measures.processes import targets_of_process


def copy_last(contexts):
    return contexts


def mean_of_context(contexts):
    return contexts.mean(dim=1, keepdim=True).expand_as(contexts)


def constant(contexts):
    return torch.ones_like(contexts)


def test_copying_loses_by_the_wrong_context_and_by_another_order():
    targets = targets_of_process("random_walk", lengths=(30,) * 60)

    found = control_scores(Stub(copy_last), targets, device="cpu")

    assert found.wrong_context.loss.low > 0.2
    assert found.order_shuffled.loss.low > 0


def test_the_mean_does_not_care_for_order():
    targets = targets_of_process("random_walk", lengths=(30,) * 60)

    found = control_scores(Stub(mean_of_context), targets, device="cpu")

    assert found.order_shuffled.loss.mean == pytest.approx(0, abs=1e-6)
    assert found.wrong_context.loss.low > 0.2


def test_a_constant_loses_by_nothing():
    found = control_scores(Stub(constant), targets_of_process("random_walk"), device="cpu")

    for name in ("order_shuffled", "wrong_context"):
        assert getattr(found, name).loss == Interval(0, 0, 0)


def test_one_article_has_no_wrong_context():
    found = control_scores(Stub(copy_last), targets_of_process("noise", lengths=(20,) * 5), device="cpu")

    assert found.wrong_context is None
    assert found.order_shuffled.loss.low is None


def test_one_concept_has_no_order():
    targets = targets_of_process("random_walk", lengths=(30,) * 60, context_length=1)

    found = control_scores(Stub(copy_last), targets, device="cpu")

    assert (found.context_length, found.order_shuffled) == (1, None)
    assert found.wrong_context.loss.low > 0.2


def test_wrong_contexts_are_of_other_articles_even_when_one_article_holds_nearly_all():
    lengths = (20, 20, 20, 200, 20, 20, 20, 20, 7, 20)
    targets = targets_of_process("noise", lengths=lengths)
    seen = []
    control_scores(Stub(lambda contexts: seen.append(contexts) or contexts), targets, device="cpu")

    big = targets.vectors[60:260]
    wrong = torch.cat(seen[-2:]) if len(seen) > 2 else seen[-1]
    from_big = torch.tensor([bool((big == context[-1].numpy()).all(axis=1).any()) for context in wrong])
    articles = targets.scored.articles
    assert from_big.tolist() == [article != 3 for article in articles][-len(wrong) :]


def test_contexts_are_long_where_articles_are_read():
    windows = targets_of_process("noise")
    articles = targets_of_process("noise", lengths=(60,) * 5, context_mode="articles")
    short = targets_of_process("noise", lengths=(9,) * 5, context_mode="articles")

    assert usual_context_length(Stub(copy_last), windows) == 5
    assert usual_context_length(Stub(copy_last), articles) == 16
    assert usual_context_length(Stub(copy_last), short) == int(np.median([5, 6, 7, 8]))


@pytest.mark.parametrize("context_mode", ["windows", "articles"])
def test_contexts_are_no_longer_than_the_model_reads(context_mode, monkeypatch):
    monkeypatch.setattr(Stub, "max_context", 3)
    targets = targets_of_process("noise", lengths=(60,) * 5, context_mode=context_mode)
    assert usual_context_length(Stub(copy_last), targets) == 3
