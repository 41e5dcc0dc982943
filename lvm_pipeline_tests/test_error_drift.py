"""When articles arrive, the champion is scored on them: a check of the concepts, with its model and its own split."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from lvm_pipeline import files
from lvm_pipeline.lineage.drift import check_drift, keep_champion_data
from lvm_pipeline.lineage.results import CHAMPION_FILE
from lvm_pipeline.lineage.trials import trial_folder
from lvm_pipeline.settings import Settings
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.trained_model import read_trained_model_info
from lvm_pipeline_tests.synthetic import synthetic_table, write_synthetic_sequences, write_table
from lvm_pipeline_tests.worded import with_columns

LENGTHS = [16, 12, 20, 14] * 15
NEW = [15] * 20


@pytest.fixture(scope="module")
def champion_home(tmp_path_factory):
    """A home with a champion that was trained on the promoted data, in articles that turn by one fixed rotation."""
    settings = Settings(home=tmp_path_factory.mktemp("error") / "home", device="cpu", num_threads=1)
    write_table(table_of(LENGTHS), settings.concepts_path)
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path)
    options = {"architecture": "gru", "preset": "smoke", "epochs": 1, "num_threads": 1, "mode": "articles"}
    config = TrainingConfig(**options, model={"hidden_dim": 16, "num_layers": 1})
    folder = trial_folder(settings, config.trial.trial_id)
    info = train(config, load_training_data(*settings.promoted_tables), output_dir=folder.model_dir).info
    keep_champion_data(settings, info.fingerprints)
    files.write_json(settings.reports_dir / CHAMPION_FILE, {"name": info.trial_id})
    return settings


@pytest.fixture
def home(champion_home, tmp_path):
    settings = champion_home.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(champion_home.home, settings.home)
    return settings


def table_of(lengths, *, kind="rotation", seed=0, name="article"):
    table = synthetic_table(lengths, vector_dim=16, kind=kind, seed=seed)
    return with_columns(
        table,
        article_id=pa.array([f"{name} {index:03}" for index in table["article_index"].to_pylist()]),
        cpe_id=pa.array([f"{name} {row}" for row in range(table.num_rows)]),
    )


def arrive(settings, *, kind, lengths=NEW):
    """Promote the champion's concepts with new articles behind them."""
    new = table_of(lengths, kind=kind, seed=7, name="new")
    both = pa.concat_tables([table_of(LENGTHS), new])
    index = np.concatenate([np.repeat(np.arange(len(each)), each) for each in (LENGTHS, lengths)])
    index[sum(LENGTHS) :] += len(LENGTHS)
    both = with_columns(
        both, row=pa.array(np.arange(both.num_rows)), article_index=pa.array(index.astype(np.int32))
    ).combine_chunks()
    settings.concepts_path.unlink()
    write_table(both, settings.concepts_path)


def error_of(settings):
    drift, report_path = check_drift(settings)
    (finding,) = (each for each in drift.findings if each.name == "champion_predicts_as_before")
    assert finding.message in report_path.read_text()
    return finding


def test_new_articles_of_the_same_kind_pass(home):
    arrive(home, kind="rotation")

    finding = error_of(home)

    assert finding.outcome == "passed"
    assert finding.details["num_articles"] == len(NEW)
    assert finding.details["num_targets"] == sum(length - 5 for length in NEW)
    info = read_trained_model_info(next(home.trials_dir.glob("gru*/model")))
    assert finding.details["cosine_before"] == pytest.approx(info.score, abs=1e-5), "its own validation articles"


def test_new_articles_that_it_cannot_predict_are_a_warning_in_the_report(home):
    arrive(home, kind="noise")

    finding = error_of(home)

    assert finding.outcome == "warning"
    assert finding.details["cosine_now"] < finding.details["cosine_before"] - 0.2
    drift = json.loads((home.reports_dir / "drift.json").read_text())
    assert drift["has_drifted"]


def test_a_model_that_replaced_the_champions_in_its_trial_is_not_judged(home):
    arrive(home, kind="noise")
    champion = json.loads((home.reports_dir / CHAMPION_FILE).read_text())
    files.write_json(home.reports_dir / CHAMPION_FILE, {**champion, "model_fingerprint": "of the weights before"})

    finding = error_of(home)

    assert finding.outcome == "not checked"
    assert f"The weights of the champion, {champion['name']}, are neither in its trial" in finding.message


def test_without_new_articles_champion_or_its_data_nothing_is_checked(home):
    assert error_of(home).message == "no article is new since the champion was trained"
    arrive(home, kind="noise", lengths=[15] * 3)
    assert "3 new articles with 30 targets are too few" in error_of(home).message
    arrive(home, kind="noise", lengths=[4] * 20)
    assert error_of(home).message == "no new article is long enough for a sequence"
    arrive(home, kind="noise")
    home.champion_sequences_path.unlink()
    assert "the champion could not be scored: There is no sequence table" in error_of(home).message
    (home.reports_dir / CHAMPION_FILE).unlink()
    assert error_of(home).outcome == "not checked"


def test_the_champions_sequences_are_kept_beside_its_concepts(home):
    info = read_trained_model_info(next(home.trials_dir.glob("gru*/model")))

    assert home.champion_sequences_path.read_bytes() == home.sequences_path.read_bytes()
    keep_champion_data(home, {**info.fingerprints, "sequences": "of another champion"})
    assert not home.champion_sequences_path.exists()


def test_a_severity_that_is_set_holds_for_drift(home):
    arrive(home, kind="noise")

    finding = error_of(home.model_copy(update={"severities": "champion_predicts_as_before=blocking"}))

    assert finding.outcome == "failed"
    assert finding.message.endswith("(severity set to blocking)")
