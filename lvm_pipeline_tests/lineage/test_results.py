"""Reports, leaderboard and champion of a home in which files are damaged."""

import json

import pytest

from lvm_pipeline import lineage
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.text_scores import TextScores
from lvm_pipeline.lineage import from_files
from lvm_pipeline.lineage.results import CHAMPION_FILE
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.rescored_here import rescored_here
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """A home with two evaluated trials, and their folders."""
    rescored_here(monkeypatch)
    options = {"architecture": "gru", "preset": "smoke", "epochs": 1, "num_threads": 1, "model": {"hidden_dim": 8}}
    settings = Settings(home=tmp_path / "home", device="cpu", **options)
    write_synthetic_concepts(settings.concepts_path, article_lengths=[9, 12, 7] * 8, vector_dim=8, kind="rotation")
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path)
    folders = []
    for seed in (0, 1):
        with_seed = settings.model_copy(update={"seed": seed})
        folders.append(lineage.train_trial(with_seed, lineage.training_config_of(with_seed)).folder)
        lineage.evaluate_trial(settings, folders[-1])
    return settings, folders


def test_a_report_that_cannot_be_read_is_named_and_the_others_are_ranked(evaluated):
    settings, (whole, cut) = evaluated
    cut.report_path.write_text(cut.report_path.read_text()[:400])

    board = lineage.build_leaderboard(settings)

    assert [row.trial_id for row in board.models] == [whole.trial_id]
    (left_out,) = board.left_out
    assert left_out.name == cut.trial_id
    assert "is not a readable report" in left_out.reason
    assert f"`lvm evaluate --trial {cut.trial_id}`" in left_out.reason
    assert cut.trial_id in (settings.reports_dir / "leaderboard.html").read_text()

    whole.report_path.write_text("{}")
    with pytest.raises(LvmError, match=f"no report on sequences .*{cut.trial_id}"):
        lineage.build_leaderboard(settings)


def test_a_trial_whose_record_is_damaged_is_not_listed_and_the_others_are(evaluated):
    settings, (whole, damaged) = evaluated
    path = damaged.model_dir / "trained_model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "trial": 3}))

    assert [row["trial_id"] for row in lineage.trial_rows(settings)] == [whole.trial_id]


def test_trials_are_listed_by_metric_the_best_first(evaluated, lvm, monkeypatch):
    settings, _ = evaluated
    monkeypatch.setenv("LVM_HOME", str(settings.home))
    for changes in ({"epochs": 1}, {"epochs": 1, "seed": 1}, {"epochs": 6, "objective": "mse", "learning_rate": 0.02}):
        other = settings.model_copy(update={"selection_metric": "mse", **changes})
        lineage.train_trial(other, lineage.training_config_of(other))

    rows = lineage.trial_rows(settings)

    assert [row["metric"] for row in rows] == ["cosine"] * 2 + ["mse"] * 3
    exact = {folder.trial_id: folder.info().score for folder in lineage.trained_trials(settings)}
    scores = [exact[row["trial_id"]] for row in rows]
    assert scores == [*sorted(scores[:2], reverse=True), *sorted(scores[2:])]
    assert len(set(scores[2:])) > 1
    assert [row["score"] for row in rows] == pytest.approx(scores, rel=1e-3)
    assert f"{scores[-1]:#.4g}" in lvm("list", "trials")[1]


def test_the_report_of_another_split_has_what_that_of_the_validation_split_has(evaluated):
    settings, (folder, _) = evaluated
    settings = settings.model_copy(update={"text_targets": 5, "num_threads": 2})
    validation, test = (
        from_files.evaluate_on(settings, folder.model_dir, data=None, split=split, output=None)
        for split in ("validation", "test")
    )

    assert isinstance(test.text, TextScores)
    assert [each.name for each in test.text.decoders] == [each.name for each in validation.text.decoders]
    assert test.latency_ms.num_threads == validation.latency_ms.num_threads == 2
    assert test.baselines != validation.baselines
    again = from_files.evaluate_on(settings, folder.model_dir, data=None, split="test", output=None)
    assert again.baselines == test.baselines


def test_a_damaged_record_of_the_champion_is_named_with_what_to_do(tmp_path):
    settings = Settings(home=tmp_path)
    settings.reports_dir.mkdir()
    (settings.reports_dir / CHAMPION_FILE).write_text('{"name": "gru')

    with pytest.raises(LvmError, match=r"champion\.json cannot be read .*delete it and run `lvm champion --choose`"):
        lineage.read_champion(settings)
