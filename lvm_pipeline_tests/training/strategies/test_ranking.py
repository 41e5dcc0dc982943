import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.architectures._ranking_head import DECAYS, RankingHead, ranking_output
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.evaluation.evaluate import evaluate_model
from lvm_pipeline.evaluation.report_page import report_html
from lvm_pipeline.measures.retrieval import retrieval_scores
from lvm_pipeline.training.assembly import assemble
from lvm_pipeline.training.batches import gather
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.settle import settled
from lvm_pipeline.training.strategies._ranking import RankingTerm
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.training.strategies.test_contract import config_of


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    config = config_of("ranking", architecture="gru", mode="articles", learning_rate=0.02)
    return train(config, data, output_dir=tmp_path_factory.mktemp("ranking") / "model")


@torch.no_grad()
def test_queries_start_at_the_whitened_decayed_mean_and_never_see_what_comes_later():
    torch.manual_seed(0)
    train_vectors = torch.randn(400, 6) * torch.tensor([4.0, 3.0, 2.0, 1.0, 0.7, 0.5])
    head = RankingHead(6, 5).eval()
    head.fit(train_vectors)
    contexts, states = F.normalize(torch.randn(2, 7, 6), dim=-1), torch.randn(2, 7, 5)
    spread = ((train_vectors - train_vectors.mean(0)) @ head.basis).std(0, correction=0)
    whitening = head.basis @ torch.diag(spread**-0.5) @ head.basis.T

    found = head(contexts, states)

    for position in range(7):
        weights = 0.5 ** torch.arange(position, -1, -1.0)
        mean = (weights[:, None] * contexts[:, : position + 1]).sum(1) / weights.sum()
        torch.testing.assert_close(found[:, position], F.normalize(mean @ whitening, dim=-1), rtol=1e-4, atol=1e-5)
    head.correction_out.normal_()
    head.gains.normal_()
    before = head(contexts, states)
    contexts[:, 5:], states[:, 5:] = 9.0, -9.0
    torch.testing.assert_close(head(contexts, states)[:, :5], before[:, :5])
    at = torch.rand(2, 7) < 0.5
    torch.testing.assert_close(head(contexts, states[at], at), head(contexts, states)[at])


def term_of(data, tmp_path, **options):
    config = config_of("ranking", architecture="gru", mode="articles", strategy_options=options)
    architecture = load_architecture("gru")
    config = settled(config, architecture=architecture, is_leaking=False)
    made = assemble(architecture, config, data, compile_cache_dir=tmp_path)
    batch = gather(made.vectors, made.phases[0].spans.take(np.arange(3)))
    term = made.terms.modules["ranking"]
    assert isinstance(term, RankingTerm)
    return made.model.eval(), term, batch


@pytest.mark.parametrize("context_negatives", [False, True])
def test_the_term_is_the_cross_entropy_among_train_concepts_without_those_read_so_far(
    data, tmp_path, context_negatives
):
    model, term, batch = term_of(
        data, tmp_path, candidates=10**6, soft_fraction=0.0, context_negatives=context_negatives
    )
    head = model.get_submodule("ranking_head")
    states = torch.randn(int(batch.is_target.sum()), model.config.hidden_dim)
    rows, targets = data.train_rows(), batch.rows[batch.is_target].numpy()
    directions = F.normalize(torch.from_numpy(np.array(data.vectors[rows])), dim=-1)
    logits = head(batch.contexts, states, batch.is_target) @ directions.T * head.log_scale.exp()
    first = data.articles.first_rows[np.searchsorted(data.articles.first_rows, targets, side="right") - 1]
    is_read = (rows >= first[:, None]) & (rows < targets[:, None])
    assert is_read.sum(axis=1).min() >= 1
    if not context_negatives:
        logits[torch.from_numpy(is_read)] = -torch.inf
    expected = F.cross_entropy(logits, torch.from_numpy(np.searchsorted(rows, targets))) / np.log(len(rows))

    found = term(torch.empty(0), batch, states)

    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("trains_mixers", [False, True])
def test_the_mixers_learn_from_the_term_only_where_that_is_asked_for(data, tmp_path, trains_mixers):
    _, term, batch = term_of(data, tmp_path, candidates=50, ranking_trains_mixers=trains_mixers)
    (head,) = term._head
    torch.nn.init.normal_(head.correction_out)
    states = torch.randn(int(batch.is_target.sum()), head.from_states.in_features, requires_grad=True)

    term(torch.empty(0), batch, states).backward()

    assert (states.grad is not None) == trains_mixers
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_the_target_is_spread_in_the_last_steps(data, tmp_path):
    _, term, batch = term_of(data, tmp_path, candidates=10**6, soft_fraction=0.5, soft_weight=0.5)
    states = torch.zeros(int(batch.is_target.sum()), term._head[0].from_states.in_features)
    values = []
    for step in (0, term.first_soft_step - 1, term.first_soft_step):
        term.step.fill_(step)
        values.append(float(term(torch.empty(0), batch, states).detach()))
    assert term.first_soft_step > 1
    assert values[0] == values[1] != values[2]


def test_reports_rank_with_the_ranking_output_and_measure_closeness_of_the_prediction(trained, data, data_dir):
    paths = (data_dir / "concepts.parquet", data_dir / "sequences.parquet")
    report = evaluate_model(trained.path, *paths, vectors_dir=data_dir / "vectors", device="cpu", num_threads=1)
    model, info = load_trained_model(trained.path)
    spans, vectors = data.scored_spans("validation", mode="articles"), torch.from_numpy(np.array(data.vectors))

    def mrr(predictions):
        rows, pool = spans.target_rows(), np.flatnonzero(np.isin(data.articles.ids, pool_ids(data))[article_of(data)])
        ranks = []
        for prediction, row in zip(predictions, rows, strict=True):
            first = data.articles.first_rows[article_of(data)[row]]
            left = pool[(pool < first) | (pool >= row)]
            cosines = data.vectors[left] @ (prediction / np.linalg.norm(prediction))
            ranks.append(int((cosines >= cosines[left == row] - 1e-6).sum()))
        return retrieval_scores(np.array(ranks)).mrr

    ranker = ranking_output(model)
    assert ranker is not None
    queries, predictions = predict_spans(ranker, vectors, spans), predict_spans(model, vectors, spans)
    rule = "earlier_rows_of_article"
    assert report.retrieval_of_prediction is not None
    assert report.retrieval[rule].mrr == pytest.approx(mrr(queries), abs=1e-6)
    assert report.retrieval_of_prediction[rule].mrr == pytest.approx(mrr(predictions), abs=1e-6)
    assert report.cosine == pytest.approx(info.score, abs=1e-6)
    assert "The model ranks with its ranking output" in report_html(report)
    assert len(DECAYS) == model.get_submodule("ranking_head").gains.shape[0]


def pool_ids(data):
    return [each for each, split in zip(data.articles.ids, data.article_splits, strict=True) if split == "validation"]


def article_of(data):
    return np.searchsorted(data.articles.first_rows, np.arange(len(data.vectors)), side="right") - 1
