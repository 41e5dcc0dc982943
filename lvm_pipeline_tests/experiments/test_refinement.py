"""Refinement by Optuna on a real store: proposals, early stops, interrupted searches."""

import optuna
import pytest

from lvm_pipeline.experiments.refinement import AXES, NUM_RANDOM, Refinement
from lvm_pipeline.training.progress import ProgressReport, StoppedError

TRAINING = {"learning_rate": 2e-3, "weight_decay": 0.01}


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/optuna.db"


def report(epoch, score, metric="cosine"):
    return ProgressReport(
        phase=1,
        num_phases=1,
        epoch=epoch + 1,
        epochs=8,
        done_fraction=0.5,
        loss=0.4,
        metric_name=metric,
        best_score=score,
        epochs_validated=epoch,
    )


def run(proposal, scores, metric="cosine"):
    for epoch, score in enumerate(scores):
        proposal.on_progress(report(epoch, score, metric))
        proposal.on_progress(report(epoch, score, metric))


def test_proposals_lie_in_the_ranges_around_the_best_config(storage):
    search = Refinement(storage, "search", training=TRAINING)

    options = []
    for number in range(4):
        proposal = search.propose()
        proposal.report(cosine=0.5 + number / 100, was_stopped=False)
        options.append(proposal.options)

    assert set(options[0]) == {axis.option for axis in AXES}
    assert all(2e-3 / 3.01 <= each["learning_rate"] <= 6e-3 for each in options)
    assert all(0 <= each["model.dropout"] <= 0.6 for each in options)
    assert len({str(each) for each in options}) == 4
    again = Refinement(storage.replace("optuna.db", "other.db"), "search", training=TRAINING)
    assert again.propose().options == options[0], "the sampler is seeded"


def test_the_sampler_goes_where_scores_are_high(storage):
    search = Refinement(storage, "search", training=TRAINING)

    for _ in range(20):
        proposal = search.propose()
        proposal.report(cosine=-abs(proposal.options["model.dropout"] - 0.45), was_stopped=False)
    found = [search.propose().options["model.dropout"] for _ in range(5)]

    assert sum(abs(value - 0.45) < 0.1 for value in found) >= 3


def test_a_training_below_the_median_of_earlier_ones_is_stopped(storage):
    search = Refinement(storage, "search", training=TRAINING)
    for _ in range(NUM_RANDOM):
        good = search.propose()
        run(good, [0.1, 0.4, 0.5, 0.6])
        good.report(cosine=0.6, was_stopped=False)

    poor = search.propose()
    run(poor, [0.1, 0.2])
    with pytest.raises(StoppedError, match=r"after epoch 2 its cosine of 0\.2500 was worse than the median"):
        run(poor, [0.1, 0.2, 0.25, 0.3])
    poor.report(cosine=None, was_stopped=True)
    better = search.propose()
    run(better, [0.1, 0.45, 0.55, 0.65])

    study = optuna.load_study(storage=storage, study_name="search")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * NUM_RANDOM + ["PRUNED", "RUNNING"]


def test_of_a_metric_that_is_minimised_the_higher_scores_are_stopped(storage):
    search = Refinement(storage, "search", training=TRAINING)
    for _ in range(NUM_RANDOM):
        good = search.propose()
        run(good, [0.1, 0.05, 0.04], "mse")
        good.report(cosine=0.6, was_stopped=False)

    run(search.propose(), [0.1, 0.03, 0.02], "mse")
    with pytest.raises(StoppedError, match=r"its mse of 0\.0900 was worse than the median"):
        run(search.propose(), [0.1, 0.09, 0.09], "mse")


def test_an_interrupted_search_goes_on(storage):
    first = Refinement(storage, "search", training=TRAINING)
    first.propose().report(cosine=0.5, was_stopped=False)
    interrupted = first.propose()

    second = Refinement(storage, "search", training=TRAINING)
    again = second.propose_again(interrupted.options)
    again.report(cosine=0.6, was_stopped=False)
    following = second.propose()

    study = optuna.load_study(storage=storage, study_name="search")
    assert again.options == interrupted.options
    assert following.options != interrupted.options
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "RUNNING"]
    assert study.best_value == 0.6


def test_a_trial_that_failed_is_not_a_score(storage):
    search = Refinement(storage, "search", training=TRAINING)
    search.propose().report(cosine=None, was_stopped=False)

    study = optuna.load_study(storage=storage, study_name="search")
    assert [trial.state.name for trial in study.trials] == ["FAIL"]
