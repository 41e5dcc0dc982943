"""What a report does not cover is said in true sentences."""

from dataclasses import replace

import pytest

from lvm_pipeline.evaluation.checked import not_checked, score_is_reproduced
from lvm_pipeline.evaluation.controls import control_scores
from lvm_pipeline.evaluation.report_tables import controls_table
from lvm_pipeline.evaluation.scoring import score_model
from lvm_pipeline_tests.evaluation.products import make_products
from lvm_pipeline_tests.evaluation.test_controls import Stub, copy_last
from lvm_pipeline_tests.measures.processes import targets_of_process


def sentences_of(scored, controls):
    return not_checked(scored, controls, [], data_findings=(), training_findings=())


def test_a_report_says_that_one_concept_of_context_has_no_order(tmp_path):
    products = make_products(tmp_path, context_length=1)
    report = products.evaluate(products.train("model"))

    assert "Order control: the context is one concept." in report.not_checked
    assert not any(each.startswith("Wrong-context") for each in report.not_checked)
    table = controls_table(report)
    assert [table.columns[1].text(row) for row in table.rows][1] == "not checked"


def test_a_report_says_which_targets_come_from_one_article(products, model_dir):
    """Of three validation articles, one alone is long enough for the usual context."""
    lengths = [20, 20, 20, 10, 20] * 2 + [20, 20, 20, 60, 20]
    targets = targets_of_process("random_walk", lengths=lengths, context_mode="articles")
    controls = control_scores(Stub(copy_last), targets, device="cpu")

    said = sentences_of(score_model(model_dir, products.data(), device="cpu"), controls)

    assert len(set(targets.scored.articles)) == 3
    assert "Wrong-context control: all targets with 16 concepts of context come from one article." in said
    assert not any(each.startswith("Order control") for each in said)


def test_no_report_says_that_gpu_memory_would_be_measured_on_a_gpu(products, model_dir):
    scored = score_model(model_dir, products.data(), device="cpu")
    controls = control_scores(scored.model, scored.targets, device="cpu")
    for device in ("cpu", "cuda:0"):
        assert "GPU memory: not measured." in sentences_of(replace(scored, device=device), controls)


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("centred_cosine", "the checkpoint was selected by centred cosine, which depends on a mean vector"),
        ("cosine", None),
    ],
)
def test_the_reason_why_a_score_is_not_compared_is_true(products, metric, reason):
    scored = score_model(products.train(f"by {metric}", selection_metric=metric), products.data(), device="cpu")
    means = scored.scores.closeness.means()

    found = score_is_reproduced(scored, means, scored.scores.spread)

    assert found.outcome == ("passed" if reason is None else "not checked")
    assert reason is None or found.message.startswith(reason)
    other = score_is_reproduced(replace(scored, split="test"), means, scored.scores.spread)
    assert other.message.startswith("the model is scored on other targets than in training")
