"""Trials on disk: side by side, not trained twice, never lost; and the layout of earlier versions."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation import evaluate
from lvm_pipeline.evaluation.report import read_report
from lvm_pipeline.experiments import row_scores, selection
from lvm_pipeline.findings import InvariantError
from lvm_pipeline.lineage import champion, from_files, models, products, results, trials
from lvm_pipeline.settings import Settings, settings_environment
from lvm_pipeline.training import invariants, provenance
from lvm_pipeline.training.provenance import training_code_version
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.lineage.small_trials import OPTIONS, make_data, train
from lvm_pipeline_tests.rescored_here import rescored_here
from lvm_pipeline_tests.synthetic import write_table
from lvm_pipeline_tests.training.test_loop import Recorder
from lvm_pipeline_tests.worded import with_columns

EARLIER_HOME = Path(__file__).parent / "earlier_home"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    rescored_here(monkeypatch)
    found = Settings(home=tmp_path / "home", device="cpu", **OPTIONS)
    make_data(found)
    return found


def test_pages_of_the_latest_trial_have_addresses_also_where_the_home_is_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    settings = Settings(home=tmp_path / "home")
    folder = trials.trial_folder(settings, "gru-1")
    folder.model_dir.mkdir(parents=True)
    trials.link_model(settings, "gru", folder)

    found = lineage.latest_trial(settings, "gru")

    assert settings.page_url(found.report_path) == "http://127.0.0.1:3001/trials/gru-1/report.json"


def test_two_trials_of_one_architecture_lie_side_by_side(settings):
    one, other = train(settings), train(settings, seed=1)
    lineage.evaluate_trial(settings, one.folder)
    lineage.evaluate_trial(settings, other.folder)
    board = lineage.build_leaderboard(settings)

    assert one.folder.path != other.folder.path
    assert (settings.models_dir / "gru").resolve() == other.folder.model_dir
    assert (settings.reports_dir / "gru" / "report.json").resolve() == other.folder.report_path
    names = [row.name for row in board.models]
    assert sorted(names) == sorted([one.folder.trial_id, other.folder.trial_id])
    assert "../trials/" in (settings.reports_dir / "leaderboard.html").read_text()


PROGRAM = """
import sys
import pytest
from lvm_pipeline import lineage
from lvm_pipeline.settings import load_settings
from lvm_pipeline_tests.rescored_here import rescored_here
rescored_here(pytest.MonkeyPatch())
settings = load_settings(seed=int(sys.argv[1]))
trained = lineage.train_trial(settings, lineage.training_config_of(settings))
lineage.evaluate_trial(settings, trained.folder)
lineage.build_leaderboard(settings)
print(trained.folder.trial_id)
"""


def test_two_processes_train_score_and_compare_one_architecture_at_once(settings):
    variables = os.environ | settings_environment(settings)
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(seed)], env=variables, stdout=subprocess.PIPE, text=True)
        for seed in (0, 1)
    ]
    ids = [process.communicate(timeout=240)[0].strip() for process in running]

    assert [process.returncode for process in running] == [0, 0]
    assert {folder.trial_id for folder in lineage.trained_trials(settings)} == set(ids)
    for trial_id in ids:
        folder = lineage.named_trial(settings, trial_id)
        load_trained_model(folder.model_dir)
        assert folder.report_path.is_file()
        assert json.loads((folder.path / "trial.json").read_text())["trial_id"] == trial_id


def test_one_trial_is_trained_by_one_process_at_a_time(settings):
    folder = trials.trial_folder(settings, settings.trial_id)
    with folder.locked(), pytest.raises(LvmError, match=f"Another process is training {settings.trial_id} now"):
        train(settings)


def test_a_finished_trial_is_not_trained_again_unless_asked(settings):
    first, second, third = train(settings), train(settings), train(settings, again=True)

    assert [each.was_trained for each in (first, second, third)] == [True, False, True]
    assert second.info.score == first.info.score
    assert {finding.name for finding in second.findings} == {finding.name for finding in first.findings} != set()


def test_evaluating_a_trial_writes_its_report_and_leaves_its_model_as_it_was(settings):
    folder = train(settings).folder
    before = sorted(path.name for path in folder.model_dir.iterdir())

    for split, name in (("validation", "report.json"), ("train", "report-train.json")):
        from_files.evaluate_on(settings, settings.models_dir / "gru", data=None, split=split, output=None)
        assert json.loads((folder.path / name).read_text())["trial_id"] == folder.trial_id

    assert sorted(path.name for path in folder.model_dir.iterdir()) == before


def test_new_data_make_a_trial_stale(settings):
    train(settings)
    make_data(settings, seed=3)
    assert train(settings).was_trained


def test_new_codes_make_those_trials_stale_that_read_them(settings):
    plain, coded = train(settings), train(settings, strategy="tmd")
    assert (plain.info.content_fingerprint, coded.info.content_fingerprint is None) == (None, False)
    assert not train(settings, strategy="tmd").was_trained

    table = pq.read_table(settings.concepts_path)
    codes = pa.array([(row + 3) % 16 for row in range(table.num_rows)], pa.int16())
    write_table(with_columns(table, domain=codes), settings.concepts_path)

    assert not train(settings).was_trained
    found = {each.name: each.outcome for each in products.check_model(settings, coded.folder)}
    assert found["checkpoint_reproduces_its_score"] == "not checked"
    assert results.compute_report(settings, plain.folder).is_same_data_as_training
    with pytest.raises(LvmError, match=r"was trained on other data \(content "):
        results.compute_report(settings, coded.folder)
    assert list(champion._challengers(settings)) == [plain.folder.trial_id]
    assert train(settings, strategy="tmd").was_trained


def test_an_edit_makes_those_trials_stale_that_use_the_code(settings, monkeypatch):
    train(settings)
    edited = []
    code_of = provenance._code_of

    def with_edit(module):
        return b"edited = True" if module in edited else code_of(module)

    monkeypatch.setattr(provenance, "_code_of", with_edit)
    provenance.code_version.cache_clear()
    edited.append("lvm_pipeline.architectures.hyena")
    assert not train(settings).was_trained
    edited.append("lvm_pipeline.architectures.gru")
    provenance.code_version.cache_clear()
    assert train(settings).was_trained
    monkeypatch.undo()
    provenance.code_version.cache_clear()


def test_the_code_of_a_trial_is_what_it_imports():
    lstm, hyena = (provenance.import_closure((f"lvm_pipeline.architectures.{name}",)) for name in ("lstm", "hyena"))
    assert "lvm_pipeline.architectures._backbone" in lstm & hyena
    assert "lvm_pipeline.architectures._recurrence" in lstm - hyena
    assert "lvm_pipeline.architectures._long_convolution" in hyena - lstm
    assert training_code_version("lstm", "plain") != training_code_version("hyena", "plain")


def test_a_model_that_fails_a_blocking_check_is_not_promoted_and_its_run_fails(settings, monkeypatch):
    earlier = train(settings)
    before = (earlier.folder.model_dir / "model.safetensors").read_bytes()
    monkeypatch.setattr(invariants, "LEAST_VARIANCE_SHARE", 1e9)
    tracker = Recorder()

    with pytest.raises(InvariantError, match="the variance of predictions is"):
        train(settings, tracker=tracker, again=True)

    assert tracker.events[-1] == "FAILED"
    assert "model" not in tracker.events
    assert (earlier.folder.model_dir / "model.safetensors").read_bytes() == before


class Broken(Recorder):
    """A tracker whose store goes away while the model is logged."""

    run_id, run_url = "run", "https://mlflow.example.org"

    def log_model(self, model_dir):
        raise LvmError("The MLflow store cannot be used: connection refused.")


def test_a_good_training_is_kept_when_tracking_fails_and_tracked_at_the_next(settings, monkeypatch):
    logged = []
    monkeypatch.setattr(
        "lvm_pipeline.adapters.mlflow_tracker.log_model_to_run",
        lambda settings, run_id, model_dir: logged.append((run_id, model_dir)),
    )
    trained = train(settings, tracker=Broken())
    assert "connection refused" in trained.tracking_problem
    assert not trained.folder.checkpoint_dir.exists()
    load_trained_model(trained.folder.model_dir)
    assert not lineage.read_tracking(trained.folder.model_dir)["is_complete"]

    train(settings, tracker=Recorder(), seed=1)

    assert logged == [("run", trained.folder.model_dir)]
    assert lineage.read_tracking(trained.folder.model_dir)["is_complete"]


def test_the_checkpoint_is_there_until_the_model_is_promoted(settings, monkeypatch):
    seen = []
    accepted_at = models.accepted_at

    def looking(model_dir, tables, tracker, **options):
        accept = accepted_at(model_dir, tables, tracker, **options)

        def accept_and_look(trained):
            seen.append((model_dir.parent / "checkpoint").exists())
            return accept(trained)

        return accept_and_look

    monkeypatch.setattr(models, "accepted_at", looking)
    trained = train(settings, checkpoint_seconds=0.0, epochs=2)
    assert seen == [True]
    assert not trained.folder.checkpoint_dir.exists()


def test_a_misspelt_variable_stops_a_training(settings, monkeypatch):
    monkeypatch.setenv("LVM_EPOCH", "3")
    with pytest.raises(LvmError, match="LVM_EPOCH is not a setting; did you mean LVM_EPOCHS"):
        train(settings)


@pytest.fixture
def earlier_home(tmp_path):
    shutil.copytree(EARLIER_HOME, tmp_path / "home")
    return Settings(home=tmp_path / "home", device="cpu", num_threads=1)


def test_a_home_of_an_earlier_version_opens_without_loss_and_says_so(earlier_home, caplog):
    weights = (earlier_home.models_dir / "gru" / "model.safetensors").read_bytes()

    (folder,) = lineage.trained_trials(earlier_home)

    assert folder.trial_id.startswith("gru-smoke-s0-")
    assert (folder.model_dir / "model.safetensors").read_bytes() == weights
    assert (earlier_home.models_dir / "gru" / "model.safetensors").read_bytes() == weights
    assert (earlier_home.reports_dir / "gru" / "report.html").is_file()
    assert f"models/gru to trials/{folder.trial_id}" in caplog.text
    caplog.clear()
    assert lineage.trained_trials(earlier_home) == [folder]
    assert not caplog.text
    assert lineage.retrained_architectures(earlier_home) == ["gru"]
    report = lineage.evaluate_architecture(earlier_home, "gru")
    assert report.trial_id == folder.trial_id


def test_an_earlier_model_with_a_broken_record_is_named_and_kept(earlier_home):
    model_dir = earlier_home.models_dir / "gru"
    (model_dir / "trained_model.json").write_text("{")

    with pytest.raises(LvmError, match=r"models/gru is of an earlier version.*move this folder out of LVM_HOME"):
        lineage.trained_trials(earlier_home)

    assert (model_dir / "model.safetensors").is_file()


@pytest.mark.parametrize("trial_id", ["gru-smoke-s0", "gru"])
def test_a_trial_is_found_by_the_beginning_of_its_id(earlier_home, trial_id):
    (folder,) = lineage.trained_trials(earlier_home)
    assert lineage.named_trial(earlier_home, trial_id) == folder
    with pytest.raises(LvmError, match=f"There is no trained trial 'lstm'; the trained trials are: {folder.trial_id}"):
        lineage.named_trial(earlier_home, "lstm")


class Registry:
    """A model registry in memory that says when its alias moved."""

    def __init__(self, settings):
        self.settings, self.alias, self.test_scores_when_moved = settings, None, None

    def champion(self, settings):
        return self.alias

    def promote(self, settings, *, mlflow_run_id, tags, description):
        path = settings.reports_dir / "test_scores.json"
        self.test_scores_when_moved = json.loads(path.read_text())
        self.alias = Version(tags, mlflow_run_id, self.model_dir)
        return self.alias


class Version:
    """A version in the registry."""

    def __init__(self, tags, mlflow_run_id, model_dir):
        self.tags, self.mlflow_run_id, self.model_dir, self.version, self.url = tags, mlflow_run_id, model_dir, "1", "u"


@pytest.fixture
def registry(settings, monkeypatch):
    found = Registry(settings)
    monkeypatch.setattr("lvm_pipeline.adapters.mlflow_registry.champion", found.champion)
    monkeypatch.setattr("lvm_pipeline.adapters.mlflow_registry.promote", found.promote)
    monkeypatch.setattr("lvm_pipeline.adapters.mlflow_mending.hold_model", lambda *_, **__: None)
    monkeypatch.setattr("lvm_pipeline.lineage.results.describe_trial", lambda *_: None)
    return found


def promotable(settings, registry):
    trained = train(settings, tracker=Named(), epochs=30, mode="windows", **{"model.hidden_dim": 32})
    registry.model_dir = trained.folder.model_dir
    lineage.evaluate_trial(settings, trained.folder)
    return trained


class Named(Recorder):
    """A tracker with a run."""

    run_id, run_url = "run", "https://mlflow.example.org"


def always_promote(monkeypatch):
    decide = selection.decide
    monkeypatch.setattr(selection, "decide", lambda *args, **kwargs: replace(decide(*args, **kwargs), promote=True))


def test_the_test_score_is_written_before_the_alias_moves_and_found_by_fingerprint(settings, registry, monkeypatch):
    always_promote(monkeypatch)
    promotable(settings, registry)

    chosen = lineage.choose_champion(settings)

    (fingerprint,) = registry.test_scores_when_moved
    assert chosen["model_fingerprint"] == fingerprint
    assert chosen["test"] == registry.test_scores_when_moved[fingerprint]
    assert chosen["name"] == registry.model_dir.parent.name
    assert chosen["architecture"] == "gru"


def test_a_score_that_fails_moves_no_alias(settings, registry, monkeypatch):
    always_promote(monkeypatch)
    promotable(settings, registry)

    def fails_on_test(*_, split, **options):
        assert split == "test"
        raise LvmError("The disk is full.")

    monkeypatch.setattr(evaluate, "gain_over_best_baseline", fails_on_test)
    with pytest.raises(LvmError, match="disk is full"):
        lineage.choose_champion(settings)

    assert registry.alias is None
    assert lineage.read_champion(settings) == {}


@pytest.mark.parametrize("stage", ["evaluate", "report", "champion"])
def test_models_are_scored_on_the_device_that_is_set(settings, registry, stage):
    """No GPU is needed to see it: a device that models cannot run on is refused by name."""
    folder = train(settings).folder
    elsewhere = settings.model_copy(update={"device": "meta"})
    stages = {
        "evaluate": lambda: from_files.evaluate_on(elsewhere, folder.model_dir, data=None, split="train", output=None),
        "report": lambda: lineage.evaluate_trial(elsewhere, folder),
        "champion": lambda: lineage.choose_champion(elsewhere),
    }
    with pytest.raises(LvmError, match="not on 'meta'"):
        stages[stage]()


def test_the_champion_rule_reads_what_the_report_scored(settings, registry, monkeypatch):
    trained = promotable(settings, registry)
    report = read_report(trained.folder.report_path)
    monkeypatch.setattr(row_scores, "score_model", None)

    decision = lineage.choose_champion(settings)["decision"]

    assert decision["cosine"] == pytest.approx(report.cosine)


def test_without_data_no_champion_is_chosen_and_no_database_made_to_say_so(tmp_path):
    settings = Settings(home=tmp_path / "empty")

    with pytest.raises(LvmError, match="There is no sequence table"):
        lineage.choose_champion(settings)

    assert not settings.home.exists()
