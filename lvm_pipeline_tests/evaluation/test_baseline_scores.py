import os

import numpy as np
import pytest

from lvm_pipeline.evaluation import baseline_scores as module
from lvm_pipeline.evaluation.baseline_scores import baseline_scores
from lvm_pipeline.measures import baselines
from lvm_pipeline_tests.measures.processes import targets_of_process


def scored(tmp_path, targets, *, fingerprint="abc", split="validation"):
    return baseline_scores(targets, fingerprint=fingerprint, split=split, cache_dir=tmp_path)


def means(baselines):
    return {name: (found.scores.means(), dict(found.fitted)) for name, found in baselines.items()}


@pytest.fixture
def fits(monkeypatch):
    """How often baselines were fitted."""
    calls = []
    fit = module.fit_baselines

    def counted(targets, **options):
        calls.append(targets)
        return fit(targets, **options)

    monkeypatch.setattr(module, "fit_baselines", counted)
    return calls


def test_the_second_model_reads_what_the_first_one_left(tmp_path, fits):
    targets = targets_of_process("random_walk")

    first = means(scored(tmp_path, targets))
    second = means(scored(tmp_path, targets))

    assert first == second
    assert len(fits) == 1


def test_other_sequences_splits_and_contexts_are_scored_anew(tmp_path, fits):
    windows, articles = targets_of_process("noise"), targets_of_process("noise", context_mode="articles")
    scored(tmp_path, windows)

    scored(tmp_path, windows, fingerprint="def")
    scored(tmp_path, windows, split="test")
    found = scored(tmp_path, articles)

    assert len(fits) == 4
    assert "article_mean_mix" in found


@pytest.mark.parametrize(
    ("name", "num_fits"),
    [("measures.baselines", 2), ("measures.retrieval", 2), ("evaluation.baseline_scores", 2), ("evaluation.report", 1)],
)
def test_baselines_are_fitted_anew_when_their_code_changes(tmp_path, fits, edit, name, num_fits):
    targets = targets_of_process("noise", lengths=(8,) * 5)
    scored(tmp_path, targets)

    edit(f"lvm_pipeline.{name}")
    scored(tmp_path, targets)

    assert len(fits) == num_fits


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a whole archive", None])
def test_a_damaged_file_is_made_again(tmp_path, fits, damage):
    targets = targets_of_process("noise")
    first = means(scored(tmp_path, targets))
    (path,) = tmp_path.glob("baselines-*.npz")
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)

    assert means(scored(tmp_path, targets)) == first
    assert len(fits) == 2


def test_the_least_recently_used_files_are_deleted(tmp_path, fits, monkeypatch):
    monkeypatch.setattr(module, "KEPT_FILES", 2)
    targets = targets_of_process("noise", lengths=(8,) * 5)
    scored(tmp_path, targets, fingerprint="often used")
    for number, fingerprint in enumerate("abcd"):
        for path in tmp_path.iterdir():
            os.utime(path, (number, number))
        scored(tmp_path, targets, fingerprint="often used")

        scored(tmp_path, targets, fingerprint=fingerprint)

    assert len(list(tmp_path.glob("baselines-*.npz"))) == 2
    assert len(fits) == 5


def test_the_linear_forecast_is_fitted_once_for_all_splits(tmp_path, monkeypatch):
    calls = []
    fit = baselines.fit_linear_forecast
    monkeypatch.setattr(
        baselines, "fit_linear_forecast", lambda *args, **given: calls.append(args) or fit(*args, **given)
    )
    scored(tmp_path, targets_of_process("noise"))

    scored(tmp_path, targets_of_process("noise", split="test"), split="test")

    assert len(calls) == 1


def test_the_file_holds_no_objects(tmp_path):
    targets = targets_of_process("noise", lengths=(8,) * 5)
    scored(tmp_path, targets)
    (path,) = tmp_path.glob("baselines-*.npz")

    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
