import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.batches import gather, vectors_on_device
from lvm_pipeline.training.config import training_config
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.strategies import staged
from lvm_pipeline.training.strategies._future_targets import FutureTargets
from lvm_pipeline.training.terms import TermSources
from lvm_pipeline_tests.training.strategies.test_contract import config_of


def term_of(data, **options):
    architecture = load_architecture("gru")
    model = architecture.build(architecture.preset("smoke").config)
    sources = TermSources(model=model, vectors=vectors_on_device(data.vectors, "cpu"), data=data)
    return FutureTargets(sources, **options)


def test_the_loss_is_that_to_the_concepts_ahead_inside_the_article(data):
    spans = data.article_spans("train")
    batch = gather(vectors_on_device(data.vectors, "cpu"), spans)
    rows = batch.rows[batch.is_target]
    torch.manual_seed(0)
    predictions, states = torch.randn(len(rows), 16), torch.randn(len(rows), 96)
    expected = []
    for ahead in ([2], [4], [1, 2, 3]):
        costs = []
        for row, prediction in zip(rows.tolist(), predictions, strict=True):
            article = int((data.articles.first_rows <= row).sum()) - 1
            end = data.articles.first_rows[article] + data.articles.lengths[article]
            if row + ahead[-1] - 1 < end:
                wanted = torch.stack([torch.from_numpy(data.vectors[row + k - 1].copy()) for k in ahead]).mean(0)
                costs.append(1 - F.cosine_similarity(prediction, wanted, dim=0))
        expected.append(torch.stack(costs).mean())
    term = term_of(data, offsets=(2, 4), mean_of_next=3)
    found = term(predictions, batch, states)
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)
    found.backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in term.heads)


def test_every_phase_has_the_term_and_an_empty_list_is_refused(data, settled):
    phases = staged(settled(config_of("auxiliary_targets+progressive")), data).phases
    assert [[term.name for term in phase.terms] for phase in phases] == [["auxiliary_targets"]] * 3
    with pytest.raises(LvmError, match="neither offsets nor mean_of_next names a target"):
        training_config({"strategy": "auxiliary_targets", "strategy_options": {"offsets": [], "mean_of_next": 0}})


def test_a_model_without_hidden_states_is_refused(data, tmp_path):
    with pytest.raises(LvmError, match="Mixing has no hidden states"):
        train(config_of("auxiliary_targets", architecture="mixing", model={}), data, output_dir=tmp_path / "model")
