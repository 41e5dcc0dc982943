"""What is fitted for the baselines is read again as it was, and fitted no second time."""

import numpy as np
import pytest

from lvm_pipeline.evaluation import kept_fits
from lvm_pipeline.evaluation.baseline_scores import baseline_scores
from lvm_pipeline.evaluation.kept_fits import kept_forecast, kept_ridges
from lvm_pipeline.evaluation.scoring import score_model
from lvm_pipeline.evaluation.table_fits import make_fits
from lvm_pipeline_tests.measures.processes import targets_of_process


@pytest.fixture
def ridge_fits(monkeypatch):
    """The targets that ridges were fitted on, one entry a fit."""
    calls = []
    fit = kept_fits.fitted_ridges

    def counted(targets):
        calls.append(targets)
        return fit(targets)

    monkeypatch.setattr(kept_fits, "fitted_ridges", counted)
    return calls


@pytest.mark.parametrize("context_mode", ["windows", "articles"])
def test_the_kept_forecast_is_the_fitted_one(context_mode, tmp_path):
    targets = targets_of_process("random_walk", context_mode=context_mode)
    fitted = kept_forecast(targets, fingerprint="f", cache_dir=None)
    for _ in range(2):
        kept = kept_forecast(targets, fingerprint="f", cache_dir=tmp_path)
        for name, value in vars(fitted).items():
            np.testing.assert_array_equal(getattr(kept, name), value)
    (path,) = tmp_path.glob("linear-forecast-*.npz")
    path.write_bytes(b"damaged")
    assert kept_forecast(targets, fingerprint="f", cache_dir=tmp_path).inputs == fitted.inputs


def test_the_kept_ridges_are_the_fitted_ones(tmp_path, ridge_fits):
    targets = targets_of_process("random_walk")
    fitted = kept_ridges(targets, fingerprint="f", cache_dir=None)
    for _ in range(2):
        kept = kept_ridges(targets, fingerprint="f", cache_dir=tmp_path)
        assert list(kept) == list(fitted)
        for name, found in fitted.items():
            assert kept[name].penalty == found.penalty
            np.testing.assert_array_equal(
                kept[name].predict(targets.vectors, targets.scored.target_rows),
                found.predict(targets.vectors, targets.scored.target_rows),
            )
    assert len(ridge_fits) == 2
    (path,) = tmp_path.glob("ridges-*.npz")
    path.write_bytes(b"damaged")
    kept_ridges(targets, fingerprint="f", cache_dir=tmp_path)
    assert len(ridge_fits) == 3


def test_both_splits_share_the_ridges_and_other_data_do_not(tmp_path, ridge_fits):
    targets = targets_of_process("random_walk")
    for fingerprint, split in (("f", "validation"), ("f", "test"), ("g", "test")):
        baseline_scores(targets, fingerprint=fingerprint, split=split, cache_dir=tmp_path)

    assert len(ridge_fits) == 2


def test_what_a_report_fits_on_the_table_is_made_before_and_only_once(products, model_dir, tmp_path, ridge_fits):
    scored = score_model(model_dir, products.data(), device="cpu")

    make_fits(scored, cache_dir=tmp_path, seed=0)
    assert {path.name.rpartition("-")[0] for path in tmp_path.iterdir()} == {
        "ranking",
        "ridges",
        "linear-forecast",
        "clusters",
    }
    fingerprint = scored.data.sequences.metadata.fingerprint
    found = baseline_scores(scored.targets, fingerprint=fingerprint, split="validation", cache_dir=tmp_path)
    assert len(ridge_fits) == 1

    for path in tmp_path.glob("ridges-*.npz"):
        path.unlink()
    make_fits(scored, cache_dir=tmp_path, seed=0)
    assert len(ridge_fits) == 1  # the scores of the baselines are kept, so nothing reads the ridges
    alone = baseline_scores(scored.targets, fingerprint=fingerprint, split="validation", cache_dir=None)
    for name, each in alone.items():
        np.testing.assert_array_equal(found[name].scores.closeness.cosine, each.scores.closeness.cosine)


def test_without_a_place_to_keep_them_nothing_is_fitted_ahead(products, model_dir, ridge_fits):
    make_fits(score_model(model_dir, products.data(), device="cpu"), cache_dir=None, seed=0)

    assert not ridge_fits
