"""Which trials can be combined, and how their weights are chosen."""

import dataclasses

import numpy as np
import pytest
import torch

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.scoring import other_data
from lvm_pipeline.experiments.ensemble import (
    Agreement,
    build_ensemble,
    choose_weights,
    cross_fitted,
    ensemble_trial,
    fitted_weights,
    refuse_unlike,
)
from lvm_pipeline.training.rescore import rescore
from lvm_pipeline.training.trained_model import Member, read_trained_model_info
from lvm_pipeline_tests.evaluation.products import make_products
from lvm_pipeline_tests.training.strategies.conftest import add_codes

NUM_ARTICLES, PER_ARTICLE, WIDTH = 40, 20, 24


def agreement_with_noise(*levels, seed=0):
    """Members that err independently around the truth, each with its own noise."""
    rng = np.random.default_rng(seed)
    shape = (NUM_ARTICLES * PER_ARTICLE, WIDTH)
    targets = unit(rng.standard_normal(shape))
    stacked = np.stack([unit(targets + level * unit(rng.standard_normal(shape))) for level in levels])
    return Agreement(
        with_targets=np.einsum("msd,sd->sm", stacked, targets),
        among_members=np.einsum("msd,nsd->smn", stacked, stacked),
        articles=np.repeat(np.arange(NUM_ARTICLES), PER_ARTICLE),
    )


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_cosine_of_a_weighted_mean_is_the_cosine_of_the_vector():
    rng = np.random.default_rng(1)
    predictions, targets = rng.standard_normal((3, 5, 8)), unit(rng.standard_normal((5, 8)))
    agreement = Agreement(
        np.einsum("msd,sd->sm", predictions, targets), np.einsum("msd,nsd->smn", predictions, predictions), np.arange(5)
    )
    weights = np.array([0.2, 0.5, 0.3])

    expected = (unit(np.einsum("m,msd->sd", weights, predictions)) * targets).sum(axis=1)
    np.testing.assert_allclose(agreement.cosines(weights), expected)


def test_fitted_weights_prefer_the_better_members_and_are_a_mean():
    weights = fitted_weights(agreement_with_noise(0.5, 1.0, 8.0))

    assert weights.sum() == pytest.approx(1)
    assert weights[0] > weights[1] > weights[2] >= 0
    assert weights[2] < 0.1


def test_fitted_weights_are_used_where_cross_fitting_shows_that_they_are_better():
    choice = choose_weights(agreement_with_noise(0.5, 4.0), weighting="validation")

    assert choice.weights[0] > 0.7
    assert choice.reason.startswith("fitted weights: weights fitted on validation change the cosine by +")


def test_members_that_are_equally_good_keep_equal_weights():
    choice = choose_weights(agreement_with_noise(1.0, 1.0, 1.0), weighting="validation")

    assert choice.weights == pytest.approx((1 / 3,) * 3)
    assert choice.reason.startswith("equal weights: weights fitted on validation change the cosine by")


def test_equal_weights_are_the_default_and_fit_nothing():
    choice = choose_weights(agreement_with_noise(0.5, 4.0), weighting="equal")
    assert (choice.weights, choice.reason) == ((0.5, 0.5), "equal weights")


def test_no_target_is_scored_with_weights_that_saw_its_article():
    """Were the truth of one article a thousand times as loud, the weights that score it would be the same."""
    agreement = agreement_with_noise(1.0, 3.0)
    own = agreement.articles == 7
    loud = np.where(own[:, None], 1000.0, 1.0) * agreement.with_targets

    changed, found = cross_fitted(dataclasses.replace(agreement, with_targets=loud)), cross_fitted(agreement)

    np.testing.assert_allclose(changed[own], 1000 * found[own], rtol=1e-9)
    assert np.abs(changed - found)[~own].max() > 1e-3


def test_too_few_articles_keep_equal_weights():
    agreement = agreement_with_noise(0.5, 4.0)
    few = agreement.take(agreement.articles < 4)
    assert "4 validation articles are too few" in choose_weights(few, weighting="validation").reason


def test_an_id_names_the_members_whatever_their_order():
    one, other = ensemble_trial(["b", "a"]), ensemble_trial(["a", "b"])
    assert one.trial_id == other.trial_id
    assert one.trial_id.startswith("ensemble-of2-s0-")
    assert ensemble_trial(["a", "b"], name="best").trial_id.startswith("ensemble-best-s0-")
    assert ensemble_trial(["a", "b"], weighting="validation").trial_id != one.trial_id


@pytest.mark.parametrize(
    ("members", "name", "message"),
    [
        (["a"], None, "2 to 5 members, got 1"),
        (list("abcdef"), None, "2 to 5 members, got 6"),
        (["a", "b", "a"], None, "A trial was named twice"),
        (["a", "b"], "../up", "cannot be part of a trial id"),
    ],
)
def test_what_cannot_be_an_ensemble_is_refused(members, name, message):
    with pytest.raises(LvmError, match=message):
        ensemble_trial(members, name=name)


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    return make_products(tmp_path_factory.mktemp("members"), lengths=[9, 12, 7] * 8, vector_dim=8)


@pytest.fixture(scope="module")
def info(products):
    return read_trained_model_info(products.train("gru", architecture="gru"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space_id": "another"}, "b and a cannot be in one ensemble, since they differ in space .another and synth"),
        ({"fingerprints": {"concepts": "1", "sequences": "2"}}, "differ in data .concepts 1, sequences 2 and concepts"),
        ({"split": {"rule": "last_20_percent", "seed": 0}}, "differ in split .rule last_20_perc"),
        ({"context_length": 7}, "differ in context length .7 and 5"),
        ({"members": [Member(trial_id="c", architecture="gru", preset="smoke", mode="windows", weight=1.0, score=0.5,
                             weights_fingerprint="f")]}, "b is itself an ensemble"),
    ],
)  # fmt: skip
def test_members_that_differ_are_refused_in_a_sentence(products, info, changes, message):
    with pytest.raises(LvmError, match=message):
        refuse_unlike({"a": info, "b": dataclasses.replace(info, **changes)}, products.data())


@pytest.mark.parametrize("name", ["vector_dim", "unit_length"])
def test_members_of_other_vectors_are_refused(products, info, name):
    other = dataclasses.replace(info, config={**info.config, name: 0})
    with pytest.raises(LvmError, match=f"differ in {name.replace('_dim', ' width').replace('_', ' ')}"):
        refuse_unlike({"a": info, "b": other}, products.data())


def test_members_of_older_data_are_refused(info, products, tmp_path):
    newer = make_products(tmp_path, lengths=[9, 12, 7] * 8, vector_dim=8, seed=4)
    with pytest.raises(LvmError, match="a was trained on other data than the present"):
        refuse_unlike({"a": info, "b": info}, newer.data())


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """Concepts with TMD vectors, and a model that reads them."""
    folder = tmp_path_factory.mktemp("coded")
    made = make_products(folder, lengths=[9, 12, 7] * 8, vector_dim=8)
    add_codes(made.concepts_path)
    return made


@pytest.mark.parametrize(("tmd_of", "is_allowed"), [("context", True), ("target", False)])
def test_a_member_may_read_the_tmd_vectors_and_no_other_condition(coded, tmd_of, is_allowed):
    model_dir = coded.train(tmd_of, architecture="gru", strategy="tmd", strategy_options={"tmd_of": tmd_of})
    members = {"a": read_trained_model_info(model_dir)}
    if is_allowed:
        refuse_unlike(members, coded.data())
    else:
        with pytest.raises(LvmError, match="a reads a condition that its strategy tmd makes"):
            refuse_unlike(members, coded.data())


def test_an_ensemble_whose_first_member_reads_tmd_vectors_is_scored_on_its_data(coded, tmp_path):
    members = {
        "a": coded.train("coded", architecture="gru", strategy="tmd"),
        "b": coded.train("plain", architecture="gru"),
    }
    trial = ensemble_trial([*members])

    info = build_ensemble(members, coded.data(), trial=trial, output_dir=tmp_path / "ensemble", num_threads=1)

    assert rescore(tmp_path / "ensemble", *coded.paths.values()).score == pytest.approx(info.score, abs=1e-6)


def test_an_ensemble_is_of_the_codes_that_its_members_read(coded, tmp_path):
    members = {
        "a": coded.train("of_codes", architecture="gru", strategy="tmd"),
        "b": coded.train("of_vectors", architecture="gru"),
    }
    data = coded.data()
    info = build_ensemble(
        members, data, trial=ensemble_trial([*members]), output_dir=tmp_path / "ensemble", num_threads=1
    )
    assert other_data(info, data) == {}

    coded_anew = {**data.concepts.content_fingerprints, "codes": "other codes"}
    anew = dataclasses.replace(data, concepts=dataclasses.replace(data.concepts, content_fingerprints=coded_anew))
    assert set(other_data(info, anew)) == {"content"}
    rewritten = {**data.concepts.content_fingerprints, "texts": "other texts"}
    anew = dataclasses.replace(data, concepts=dataclasses.replace(data.concepts, content_fingerprints=rewritten))
    assert other_data(info, anew) == {}


def test_the_process_has_as_many_threads_after_an_ensemble_was_built_as_before(products, tmp_path):
    members = {name: products.train(f"threads_{name}", architecture="gru") for name in "ab"}
    before = torch.get_num_threads()

    build_ensemble(
        members, products.data(), trial=ensemble_trial("ab"), output_dir=tmp_path / "e", num_threads=before + 1
    )

    assert torch.get_num_threads() == before
