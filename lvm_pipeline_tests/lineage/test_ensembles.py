"""An ensemble is a trial like any other: scored, ranked, predicted with and promoted; it needs no member's trial."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lvm_pipeline import lineage
from lvm_pipeline.adapters.mlflow_model import _load_pyfunc
from lvm_pipeline.architectures._neighbours import NeighbourCorrection
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.report_page import report_html
from lvm_pipeline.findings import InvariantError
from lvm_pipeline.lineage import prediction
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.settings import Settings, with_options
from lvm_pipeline.training import invariants
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.trained_model import load_trained_model, weights_fingerprint
from lvm_pipeline_tests.lineage.small_trials import OPTIONS, make_data
from lvm_pipeline_tests.lineage.test_trials import Named, Registry, always_promote
from lvm_pipeline_tests.rescored_here import rescored_here
from lvm_pipeline_tests.training.test_loop import Recorder


@pytest.fixture(scope="module")
def trained_home(tmp_path_factory):
    """A home with three trained and evaluated trials: of articles, of windows, and one that sees its whole window."""
    patch = pytest.MonkeyPatch()
    rescored_here(patch)
    settings = Settings(home=tmp_path_factory.mktemp("trials") / "home", device="cpu", **OPTIONS)
    make_data(settings)
    for options in ({}, {"architecture": "lstm", "mode": "windows"}, {"architecture": "linformer"}):
        lineage.evaluate_trial(settings, train(settings, **options).folder)
    patch.undo()
    return settings.home


@pytest.fixture
def settings(trained_home, tmp_path, monkeypatch):
    rescored_here(monkeypatch)
    shutil.copytree(trained_home, tmp_path / "home", symlinks=True)
    return Settings(home=tmp_path / "home", device="cpu", **OPTIONS)


def train(settings, **options):
    settings = with_options(settings, options)
    return lineage.train_trial(settings, lineage.training_config_of(settings))


def combine(settings, *trials, **options):
    return lineage.make_ensemble(settings, trials or ("gru", "lstm", "linformer"), **options)


def test_it_is_scored_as_the_mean_of_its_members_each_in_its_own_mode(settings):
    made = combine(settings)
    report = lineage.evaluate_trial(settings, made.folder)
    data = load_training_data(settings.concepts_path, settings.sequences_path, settings.vectors_dir)

    parts = []
    for member in made.info.members:
        model, info = load_trained_model(lineage.named_trial(settings, member.trial_id).model_dir)
        parts.append(predict_spans(model, *vectors_and_spans(data, info.mode)))
    targets = np.asarray(data.vectors[data.scored_spans("validation", mode="windows").target_rows()])
    expected = float(cosines(np.mean(parts, axis=0), targets).mean())

    assert made.info.mode == "articles"
    assert made.info.score == pytest.approx(expected, abs=1e-6)
    assert report.cosine == pytest.approx(expected, abs=1e-6)
    assert {row.trial_id: row.cosine for row in report.ensemble.members} == pytest.approx(
        {member.trial_id: member.score for member in made.info.members}, abs=1e-6
    )
    assert report.ensemble.members[0].gain.mean == pytest.approx(
        report.cosine - max(member.score for member in made.info.members), abs=1e-6
    )
    assert "Members of the ensemble" in report_html(report)


def vectors_and_spans(data, mode):
    import torch

    return torch.from_numpy(np.array(data.vectors)), data.scored_spans("validation", mode=mode)


def test_it_stands_on_the_leaderboard_and_is_listed(settings):
    made = combine(settings)
    lineage.evaluate_trial(settings, made.folder)

    board = lineage.build_leaderboard(settings)

    assert made.folder.trial_id in {row.name for row in board.models}
    assert made.folder.trial_id in {row["trial_id"] for row in lineage.trial_rows(settings)}
    assert lineage.latest_trial(settings, "ensemble") == made.folder


def test_the_best_trials_are_single_models(settings):
    made = combine(settings)
    lineage.evaluate_trial(settings, made.folder)

    best = lineage.top_trials(settings, 3)

    assert len(best) == 3
    assert made.folder.trial_id not in best
    with pytest.raises(LvmError, match="3 trials to combine, not 4"):
        lineage.top_trials(settings, 4)


def predictions(settings, model_dir):
    vectors = np.eye(8, dtype=np.float32)
    lines = [json.dumps({"article_id": "a", "vector": vector.tolist()}).encode() + b"\n" for vector in vectors]
    found = prediction.predict_on(settings, model_dir, lines, warn=print)
    return np.stack([each.vector for each in found])


def test_it_predicts_as_a_stream_and_through_mlflow(settings):
    made = combine(settings)
    model, _ = load_trained_model(made.folder.model_dir)
    contexts = np.eye(8, dtype=np.float32)[None]

    found = predictions(settings, prediction.model_folder(settings, trial="ensemble"))

    assert model.is_recurrent
    np.testing.assert_allclose(found[-1], _load_pyfunc(str(made.folder.model_dir)).predict(contexts)[0], atol=1e-6)


def test_it_shares_its_members_files_and_stays_whole_without_them(settings):
    made = combine(settings)
    before = predictions(settings, made.folder.model_dir)
    gru = lineage.named_trial(settings, "gru").model_dir
    kept = made.folder.model_dir / "members" / gru.parent.name / "model.safetensors"
    assert kept.samefile(gru / "model.safetensors")

    lineage.train_trial(settings, lineage.training_config_of(settings), again=True)
    shutil.rmtree(lineage.named_trial(settings, "linformer").path)

    assert not kept.samefile(gru / "model.safetensors")
    np.testing.assert_array_equal(predictions(settings, made.folder.model_dir), before)


def test_weights_that_are_not_the_members_are_refused(settings):
    made = combine(settings)
    member = made.folder.model_dir / "members" / made.info.members[0].trial_id / "model.safetensors"
    tensors = load_file(member)
    other = {name: np.asarray(tensor + 1) for name, tensor in tensors.items()}
    header = {"lvm_identity": load_trained_model(member.parent)[1].identity}
    member.unlink()
    save_file(other, member, metadata=header)

    with pytest.raises(LvmError, match="are not those that the ensemble was made from"):
        load_trained_model(made.folder.model_dir)


def test_it_is_not_made_again_unless_a_member_or_the_data_changed(settings):
    first, second = combine(settings), combine(settings)
    assert [first.was_trained, second.was_trained, combine(settings, again=True).was_trained] == [True, False, True]
    assert second.info == first.info

    lineage.train_trial(settings, lineage.training_config_of(settings), again=True)  # the same weights, bit for bit
    assert not combine(settings).was_trained
    make_data(settings, seed=3)
    with pytest.raises(LvmError, match="other data than the present"):
        combine(settings)


def test_it_is_tracked_with_its_members(settings):
    tracker = Recorder()
    made = combine(settings, tracker=tracker)

    assert tracker.events[-2:] == ["model", "FINISHED"]
    assert made.tracking_problem is None


def test_one_that_fails_a_blocking_check_is_not_promoted(settings, monkeypatch):
    monkeypatch.setattr(invariants, "LEAST_VARIANCE_SHARE", 1e9)
    tracker = Recorder()

    with pytest.raises(InvariantError, match="the variance of predictions is"):
        combine(settings, tracker=tracker)

    assert tracker.events[-1] == "FAILED"
    assert not lineage.trained_trials(settings)[0].trial_id.startswith("ensemble")


def test_it_can_become_champion_and_its_members_are_what_is_retrained(settings, monkeypatch):
    registry = Registry(settings)
    monkeypatch.setattr("lvm_pipeline.adapters.mlflow_registry.champion", registry.champion)
    monkeypatch.setattr("lvm_pipeline.adapters.mlflow_registry.promote", registry.promote)
    monkeypatch.setattr("lvm_pipeline.adapters.mlflow_mending.hold_model", lambda *_, **__: None)
    monkeypatch.setattr("lvm_pipeline.lineage.results.describe_trial", lambda *_: None)
    always_promote(monkeypatch)
    made = combine(settings, tracker=Named())
    registry.model_dir = made.folder.model_dir
    lineage.evaluate_trial(settings, made.folder)
    for folder in lineage.trained_trials(settings):
        if folder != made.folder:
            shutil.rmtree(folder.path)

    chosen = lineage.choose_champion(settings)

    assert chosen["name"] == made.folder.trial_id
    assert chosen["architecture"] == "ensemble"
    assert lineage.retrained_architectures(settings) == ["gru", "linformer", "lstm"]


def test_ensembles_of_other_members_have_other_fingerprints(settings):
    """Equal weights and equal classes: only the members tell them apart."""
    members = [train(settings, seed=seed).folder.trial_id for seed in (1, 2, 3)]
    made = [combine(settings, members[0], other).folder.model_dir for other in members[1:]]

    assert weights_fingerprint(made[0]) != weights_fingerprint(made[1])
    assert load_trained_model(made[0])[1].members[0].weight == 0.5


@pytest.mark.parametrize("names", [[], ["weights", "another"]])
def test_weights_of_the_mean_that_lack_a_tensor_or_have_one_more_are_refused(settings, names):
    made = combine(settings)
    path = made.folder.model_dir / "model.safetensors"
    mean = load_file(path)["weights"]
    path.unlink()
    save_file(dict.fromkeys(names, mean), path, metadata={"lvm_identity": made.info.identity})

    with pytest.raises(LvmError, match="do not fit the model"):
        load_trained_model(made.folder.model_dir)


def test_with_neighbours_it_adds_what_similar_predictions_missed_in_train_and_nothing_of_validation(settings):
    import torch

    plain, corrected = combine(settings), combine(settings, neighbours=True)
    report = lineage.evaluate_trial(settings, corrected.folder)
    data = load_training_data(settings.concepts_path, settings.sequences_path, settings.vectors_dir)

    model, _ = load_trained_model(plain.folder.model_dir)
    parts = {}
    for split in ("train", "validation"):
        spans = data.scored_spans(split, mode="articles")
        vectors = torch.from_numpy(np.asarray(data.vectors))
        parts[split] = predict_spans(model, vectors, spans), np.asarray(data.vectors[spans.target_rows()])
    own = NeighbourCorrection(data.concepts.vector_dim)
    own.fit(*(torch.from_numpy(each) for each in parts["train"]))
    found, targets = parts["validation"]
    expected = float(cosines(own(torch.from_numpy(found)).numpy(), targets).mean())

    assert corrected.info.trial_id != plain.info.trial_id
    assert corrected.info.score == pytest.approx(expected, abs=1e-6)
    assert corrected.info.score != pytest.approx(plain.info.score, abs=1e-5)
    assert report.cosine == pytest.approx(expected, abs=1e-6)
    how = f"equal weights; corrected by the residuals at {len(parts['train'][0])} train targets"
    assert corrected.info.training["weights_chosen"] == how
    assert not combine(settings, neighbours=True).was_trained
