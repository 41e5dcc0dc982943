from dataclasses import replace

import numpy as np
import pytest
import torch

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.encoders import registry
from lvm_pipeline.training.batches import gather, vectors_on_device
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.strategies import contrastive, staged
from lvm_pipeline.training.strategies._negatives import ContrastiveTerm, WrittenNegatives
from lvm_pipeline.training.terms import TermSources
from lvm_pipeline_tests.training.conftest import make_data, open_data
from lvm_pipeline_tests.training.strategies.conftest import replace_columns
from lvm_pipeline_tests.training.strategies.test_contract import config_of


class Encoder:
    """Encodes a text as a vector that depends on it alone."""

    def __init__(self, space_id, vector_dim):
        self.space_id, self.vector_dim, self.texts = space_id, vector_dim, []

    def encode(self, texts, *, progress=None):
        self.texts += texts
        found = np.stack([np.random.default_rng(len(text)).standard_normal(self.vector_dim) for text in texts])
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return open_data(make_data(tmp_path_factory.mktemp("noise"), kind="noise"))


@pytest.fixture(scope="module")
def with_negatives(tmp_path_factory):
    """Every third concept names one soft and two hard negatives, one of them twice."""
    folder = make_data(tmp_path_factory.mktemp("negatives"), kind="noise")
    num_rows = len(open_data(folder).vectors)
    soft = [["x" * row] if row % 3 == 0 else None for row in range(num_rows)]
    hard = [["y" * (row + 1), "x" * row, " "] if row % 3 == 0 else [] for row in range(num_rows)]
    replace_columns(folder / "concepts.parquet", {"soft_negatives": soft, "hard_negatives": hard})
    return replace(open_data(folder), encoders_dir=folder)


def term_of(data, negatives=None, **options):
    sources = TermSources(model=torch.nn.Identity(), vectors=vectors_on_device(data.vectors, "cpu"), data=data)
    return ContrastiveTerm(
        sources, negatives=negatives, **{"num_own": 8, "num_hard": 16, "temperature": 0.1, **options}
    )


def batch_of(data):
    spans = data.article_spans("train").take(np.arange(4))
    return gather(vectors_on_device(data.vectors, "cpu"), spans)


def test_the_truth_costs_little_guessing_one_and_a_distractor_much(noise):
    torch.manual_seed(0)
    batch, term = batch_of(noise), term_of(noise, temperature=0.05)
    targets = batch.chosen_targets()
    truth = float(term(targets, batch, None))
    guess = float(term(torch.zeros_like(targets), batch, None))
    last = float(term(batch.contexts[batch.is_target], batch, None))
    assert truth < 0.1
    assert guess == pytest.approx(1, abs=1e-5)
    assert last > 1.2  # a concept of the context is drawn as a negative


def test_no_negative_is_the_target_and_hard_ones_are_of_other_train_articles(noise):
    torch.manual_seed(0)
    batch, term = batch_of(noise), term_of(noise)
    rows = batch.rows[batch.is_target]
    own = term._own(rows)
    assert (term.articles[own] == term.articles[rows][:, None]).all()
    assert (own[:, :4] < rows[:, None]).all()  # half from the context
    assert set(noise.article_splits[np.unique(term.articles[term.bank_rows])]) == {"train"}
    found = term._scores(
        batch.chosen_targets(), batch.chosen_targets(), term.vectors[rows][:, None], rows[:, None] > -1
    )
    assert (found == -torch.inf).all()  # the target itself, or what equals it, is none


def test_written_negatives_are_those_of_the_target(noise):
    torch.manual_seed(0)
    batch = batch_of(noise)
    rows = batch.rows[batch.is_target]
    counts = np.zeros(len(noise.vectors), np.int64)
    counts[rows[::2]] = 2
    starts = np.concatenate([[0], np.cumsum(counts)])
    owners = np.repeat(np.arange(len(counts)), counts)
    vectors = np.eye(16, dtype=np.float32)[owners % 16]
    term = term_of(noise, WrittenNegatives(vectors=vectors, starts=starts))
    scores = term._from_table(torch.eye(16)[rows % 16], torch.eye(16)[(rows + 1) % 16], rows)
    assert (scores[::2] == 1).all()
    assert (scores[1::2] == -torch.inf).all()


def test_the_phase_comes_first_and_negatives_of_the_table_are_encoded_once_each(with_negatives, settled, monkeypatch):
    encoder = Encoder(with_negatives.concepts.space_id, 16)
    monkeypatch.setattr(registry, "encoder_of_space", lambda space_id, encoders_dir: encoder)
    staging = staged(settled(config_of("contrastive")), with_negatives)
    assert [phase.name for phase in staging.phases] == ["contrastive", "train"]
    assert staging.phases[0].objective == "0 cosine"
    train_rows = with_negatives.train_rows()
    num_named = sum((1 if row == 0 else 2) for row in train_rows if row % 3 == 0)
    assert len(encoder.texts) == num_named
    assert staging.notes["contrastive"].startswith(f"{num_named} negatives of the table, encoded in the space")
    negatives, _ = contrastive.written_negatives(with_negatives, seed=0)
    assert negatives.starts[-1] == num_named
    counts = np.diff(negatives.starts)
    assert (counts[np.setdiff1d(np.arange(len(counts)), train_rows)] == 0).all()


def test_a_substitute_is_noted(noise, with_negatives, settled):
    config = settled(config_of("contrastive"))
    assert staged(config, noise).notes["contrastive"].startswith("The table names no negatives, so the negatives are")
    assert "is not available to encode the table's negatives" in staged(config, with_negatives).notes["contrastive"]


@pytest.mark.parametrize("options", [{"objective": "cosin"}, {"strategy_options": {"contrastive_objective": "cosin"}}])
def test_a_misspelt_objective_of_any_phase_is_refused_before_the_first_is_trained(noise, tmp_path, options):
    reports = []
    with pytest.raises(LvmError, match="'cosin' is no sum of cosine"):
        train(config_of("contrastive", **options), noise, output_dir=tmp_path / "model", progress=reports.append)
    assert reports == []
