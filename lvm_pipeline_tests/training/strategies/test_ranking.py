import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.architectures._ranking_head import NUM_VIEWS, RankingHead, ranking_output
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.evaluation import reranking, scoring
from lvm_pipeline.evaluation.evaluate import evaluate_model
from lvm_pipeline.evaluation.report_page import report_html
from lvm_pipeline.evaluation.scoring import targets_of
from lvm_pipeline.measures import targets as targets_module
from lvm_pipeline.measures.retrieval import EXCLUSIONS
from lvm_pipeline.training.assembly import assemble
from lvm_pipeline.training.batches import gather
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.settle import settled
from lvm_pipeline.training.strategies._ranking import RankingTerm
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.training.strategies.test_contract import config_of


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    config = config_of("ranking", architecture="gru", mode="articles", learning_rate=0.02)
    return train(config, data, output_dir=tmp_path_factory.mktemp("ranking") / "model")


@torch.no_grad()
def test_candidates_are_found_and_scored_by_the_whitened_decayed_mean_at_the_start():
    torch.manual_seed(0)
    train_vectors = torch.randn(400, 6) * torch.tensor([4.0, 3.0, 2.0, 1.0, 0.7, 0.5])
    head = RankingHead(6).eval()
    head.fit(train_vectors)
    variances, directions = torch.linalg.eigh(torch.cov(train_vectors.T, correction=0))
    weights = variances**-0.25
    whitening = directions @ torch.diag(weights / weights.mean()) @ directions.T
    contexts, predictions = F.normalize(torch.randn(2, 7, 6), dim=-1), torch.randn(2, 7, 6)
    candidates = F.normalize(torch.randn(9, 6), dim=-1)

    views = head.views(contexts, predictions)

    scores = head.score(
        views.flatten(0, 1), candidates.expand(14, 9, 6), head.whitened(candidates).expand(14, 9, 6)
    ).unflatten(0, (2, 7))
    for position in range(7):
        powers = 0.5 ** torch.arange(position, -1, -1.0)
        mean = (powers[:, None] * contexts[:, : position + 1]).sum(1) / powers.sum()
        query = F.normalize(mean @ whitening, dim=-1)
        torch.testing.assert_close(head.query(views[:, position]), query, rtol=1e-4, atol=1e-5)
        whitened = F.normalize(candidates @ whitening, dim=-1)
        torch.testing.assert_close(scores[:, position], query @ whitened.T, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_views_are_the_last_concepts_the_decayed_means_and_the_prediction_and_see_nothing_later():
    torch.manual_seed(0)
    head, contexts, predictions = RankingHead(4), torch.randn(2, 6, 4), torch.randn(2, 6, 4)

    views = head.views(contexts, predictions)

    assert views.shape == (2, 6, NUM_VIEWS, 4)
    torch.testing.assert_close(views[:, 4, :4], contexts[:, [4, 3, 2, 1]])
    torch.testing.assert_close(views[:, 1, :4], torch.cat([contexts[:, [1, 0]], torch.zeros(2, 2, 4)], dim=1))
    torch.testing.assert_close(views[:, 4, 7], contexts[:, :5].mean(1))
    torch.testing.assert_close(views[..., 8, :], predictions)
    at = torch.rand(2, 6) < 0.5
    torch.testing.assert_close(head.views(contexts, predictions[at], at), views[at])
    contexts[:, 4:] = 9.0
    torch.testing.assert_close(head.views(contexts, predictions)[:, :4], views[:, :4])


def head_of(model):
    head = model.get_submodule("ranking_head")
    assert isinstance(head, RankingHead)
    return head


def term_of(data, tmp_path, **options):
    config = config_of("ranking", architecture="gru", mode="articles", strategy_options=options)
    architecture = load_architecture("gru")
    config = settled(config, architecture=architecture, is_leaking=False)
    made = assemble(architecture, config, data, compile_cache_dir=tmp_path)
    batch = gather(made.vectors, made.phases[0].spans.take(np.arange(3)))
    term = made.terms.modules["ranking"]
    assert isinstance(term, RankingTerm)
    return made.model.eval(), term, batch


def drawn_scores(head: RankingHead):
    """Draw every weight of the head from noise."""
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)


@pytest.mark.parametrize("context_negatives", [False, True])
def test_the_term_is_the_logarithm_of_the_smooth_rank_among_the_nearest_candidates(data, tmp_path, context_negatives):
    options = {
        "candidates": 10**6,
        "ranked_candidates": 10,
        "ranking_temperature": 0.1,
        "context_negatives": context_negatives,
    }
    model, term, batch = term_of(data, tmp_path, **options)
    head = head_of(model)
    drawn_scores(head)
    with torch.no_grad():
        predictions = model(batch.contexts, None, batch.is_target)
        views = head.views(batch.contexts, predictions, batch.is_target)
        rows, targets = data.train_rows(), batch.rows[batch.is_target].numpy()
        directions = F.normalize(torch.from_numpy(np.array(data.vectors[rows])), dim=-1)
        logarithms = []
        for view, target in zip(views, targets, strict=True):
            first = data.articles.first_rows[np.searchsorted(data.articles.first_rows, target, side="right") - 1]
            is_read = (rows >= first) & (rows < target)
            assert is_read.any()
            left = np.flatnonzero((rows != target) & (context_negatives | ~is_read))
            near = left[(-(directions[left] @ head.query(view))).argsort()[:10]]
            chosen = directions[[np.searchsorted(rows, target), *near]][None]
            scores = head.score(view[None], chosen, head.whitened(chosen))[0]
            logarithms.append(torch.log1p(torch.sigmoid((scores[1:] - scores[0]) / 0.1).sum()))

    found = term(predictions, batch, None)

    assert float(found.detach()) == pytest.approx(float(torch.stack(logarithms).mean()) / np.log(6.5), rel=1e-5)


def test_only_the_ranking_head_learns_from_the_term(data, tmp_path):
    model, term, batch = term_of(data, tmp_path, candidates=50)
    drawn_scores(head_of(model))

    term(model(batch.contexts, None, batch.is_target), batch, None).backward()

    assert {name for name, each in model.named_parameters() if each.grad is not None} == {
        f"ranking_head.{name}" for name in ("linear.weight", "hidden.weight", "hidden.bias", "out.weight")
    }


def test_the_head_orders_the_candidates_nearest_to_its_query_and_the_others_stay_behind(trained, data, monkeypatch):
    monkeypatch.setattr(reranking, "RANKED", 12)
    ranker = ranking_output(load_trained_model(trained.path)[0].eval())
    assert ranker is not None
    torch.manual_seed(1)
    drawn_scores(ranker.head)
    torch.nn.init.orthogonal_(ranker.head.whitening)  # so that the query does not find the target at once
    spans, vectors = data.scored_spans("validation", mode="articles"), torch.from_numpy(np.array(data.vectors))
    targets = targets_of(data, split="validation", context_mode="articles")

    found = reranking.ranks_by_head(ranker, vectors, spans, targets)["earlier_rows_of_article"]

    pool = np.flatnonzero(np.isin(data.articles.ids, pool_ids(data))[article_of(data)])
    by_query, by_head = [], []
    for row in targets.scored.target_rows:
        first = data.articles.first_rows[article_of(data)[row]]
        left = pool[(pool < first) | (pool >= row)]
        directions = F.normalize(vectors[left], dim=-1)
        with torch.inference_mode():
            view = ranker(vectors[first:row][None])[0, -1].unflatten(-1, (NUM_VIEWS, -1))
            order = (-(directions @ ranker.head.query(view))).argsort(stable=True)
            scored = directions[order[:12]][None]
            scores = ranker.head.score(view[None], scored, ranker.head.whitened(scored))[0]
        reordered = torch.cat([order[:12][(-scores).argsort(stable=True)], order[12:]])
        by_query.append(1 + int(np.flatnonzero(left[order] == row)[0]))
        by_head.append(1 + int(np.flatnonzero(left[reordered] == row)[0]))
    assert found.tolist() == by_head
    assert sum(rank <= 12 for rank in by_query) > 3
    assert sum(rank > 12 for rank in by_query) > 3
    assert by_head != by_query
    num = -(-len(by_head) // 3)
    monkeypatch.setattr(targets_module, "MAX_RANKED_TARGETS", num)
    of_sample = reranking.ranks_by_head(ranker, vectors, spans, dataclasses.replace(targets))
    assert of_sample["earlier_rows_of_article"].tolist() == [
        by_head[number * len(by_head) // num] for number in range(num)
    ]


def test_reports_rank_with_the_ranking_head_and_measure_closeness_of_the_prediction(trained, data_dir, monkeypatch):
    def third(ranker, vectors, spans, targets, **others):
        return {rule: np.full(len(targets.scored), 3) for rule in EXCLUSIONS}  # the data are so easy that all are first

    monkeypatch.setattr(scoring, "ranks_by_head", third)
    paths = (data_dir / "concepts.parquet", data_dir / "sequences.parquet")
    report = evaluate_model(trained.path, *paths, vectors_dir=data_dir / "vectors", device="cpu", num_threads=1)

    rule = "earlier_rows_of_article"
    assert report.retrieval_of_prediction is not None
    assert report.ranking is not None
    assert report.retrieval[rule].mrr == pytest.approx(1 / 3)
    assert report.retrieval_of_prediction[rule].mrr > 0.5
    assert report.ranking.predictors[0].mrr == pytest.approx(1 / 3)
    assert report.ranking.predictors[0].corrected_mrr is None
    assert report.cosine == pytest.approx(trained.info.score, abs=1e-6)
    assert "The model ranks with its ranking output" in report_html(report)


def pool_ids(data):
    return [each for each, split in zip(data.articles.ids, data.article_splits, strict=True) if split == "validation"]


def article_of(data):
    return np.searchsorted(data.articles.first_rows, np.arange(len(data.vectors)), side="right") - 1
