import shutil
from dataclasses import replace

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.experiments import row_scores, selection
from lvm_pipeline.experiments.selection import select_champion
from lvm_pipeline_tests.evaluation.products import make_products


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """A walk, on which averaging is hard to beat."""
    return make_products(tmp_path_factory.mktemp("walk"), kind="rotation")


@pytest.fixture(scope="module")
def good(products):
    return products.train("good", epochs=40, mode="windows", learning_rate=2e-2, model={"hidden_dim": 64})


@pytest.fixture(scope="module")
def poor(products):
    return products.train("poor", architecture="gru", learning_rate=1e-6)


def select(products, challengers, incumbent=None):
    return select_champion(challengers, incumbent_dir=incumbent, **products.paths, device="cpu", num_threads=1)


def test_the_challenger_is_the_model_with_the_highest_validation_cosine(products, good, poor):
    selected = select(products, {"gru": poor, "lstm": good})

    assert selected.challenger_dir == good
    assert selected.decision.challenger.startswith("lstm-smoke-s0-")
    assert "could not be scored" not in selected.decision.reason


def test_the_first_champion_has_to_beat_the_best_baseline(products, good):
    """A rotation is perfectly predictable in closed form, so no model can gain on it."""
    selected = select(products, {"lstm": good})

    assert not selected.decision.promote
    assert "best baseline, linear_forecast" in selected.decision.reason


def test_a_better_model_takes_the_champions_place_on_the_same_rows(products, good, poor):
    selected = select(products, {"lstm": good}, incumbent=poor)

    assert selected.decision.promote
    assert selected.decision.against.startswith("gru-smoke-s0-")
    assert selected.decision.num_targets == len(products.data().sequences.of_split("validation"))


def test_a_worse_model_does_not(products, good, poor):
    assert not select(products, {"gru": poor}, incumbent=good).decision.promote


def test_the_champion_is_recognised_wherever_it_lies(products, good, tmp_path):
    registered = shutil.copytree(good, tmp_path / "registered")

    selected = select(products, {"lstm": good}, incumbent=registered)

    assert not selected.decision.promote
    assert "champion already" in selected.decision.reason


def test_an_incumbent_of_older_data_is_scored_on_the_challengers_rows(products, good, tmp_path):
    older = make_products(tmp_path, seed=3)
    incumbent = older.train("older", learning_rate=1e-6)

    decision = select(products, {"lstm": good}, incumbent=incumbent).decision

    assert decision.promote
    assert decision.fingerprint == products.data().sequences.metadata.fingerprint
    assert "trained on other data" in decision.reason


def test_an_incumbent_of_another_width_is_reported_and_the_baseline_decides(products, good, tmp_path):
    other = make_products(tmp_path, vector_dim=8)

    selected = select(products, {"lstm": good}, incumbent=other.train("narrow"))

    assert "width 8" in selected.decision.reason
    assert "could not be scored" in selected.decision.reason
    assert selected.decision.against == "linear_forecast"


def test_a_challenger_of_other_data_is_refused(products, tmp_path):
    other = make_products(tmp_path, seed=3)

    with pytest.raises(LvmError, match="trained on other data"):
        select(products, {"lstm": other.train("other")})


def test_a_model_that_cannot_be_scored_is_left_out_and_named(products, good, tmp_path):
    other = make_products(tmp_path, seed=3)

    decision = select(products, {"old": other.train("other"), "lstm": good}).decision

    assert decision.challenger.startswith("lstm-smoke-s0-")
    assert decision.num_candidates == 1
    assert "old was left out: The model in" in decision.reason


def test_a_model_whose_scores_leak_does_not_stand_in_the_way_of_another(products, good, poor, monkeypatch):
    measured = selection.row_scores_of

    def leaking(model_dir, *args, **options):
        return replace(measured(model_dir, *args, **options), is_leaking=model_dir == good)

    monkeypatch.setattr(selection, "row_scores_of", leaking)

    decision = select(products, {"oracle": good, "gru": poor}).decision

    assert decision.challenger.startswith("gru-smoke-s0-")
    assert decision.num_candidates == 1
    assert "leak" in select(products, {"oracle": good}).decision.reason


def test_no_trained_model_is_an_error(products):
    with pytest.raises(LvmError, match="no trained model"):
        select(products, {})


def test_scores_are_kept_and_read_for_the_same_model_and_data(products, good, poor, tmp_path, monkeypatch):
    first = select_champion(
        {"gru": poor, "lstm": good}, incumbent_dir=None, **products.paths, device="cpu", cache_dir=tmp_path
    )
    monkeypatch.setattr(row_scores, "score_model", None)
    again = select_champion(
        {"gru": poor, "lstm": good}, incumbent_dir=None, **products.paths, device="cpu", cache_dir=tmp_path
    )

    assert again == first
    assert first.decision.num_candidates == 2
    (tmp_path / next(path.name for path in tmp_path.glob("row_scores-*"))).write_bytes(b"damaged")
    with pytest.raises(TypeError):  # a damaged file is measured anew
        select_champion(
            {"gru": poor, "lstm": good}, incumbent_dir=None, **products.paths, device="cpu", cache_dir=tmp_path
        )
