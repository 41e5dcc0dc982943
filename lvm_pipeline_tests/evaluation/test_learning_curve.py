"""The learning curve trains on nested parts of the train articles and scores on the same targets."""

from dataclasses import replace

import numpy as np
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.learning_curve import learning_curve, part_of, read_curve, write_curve
from lvm_pipeline.evaluation.report import report_from_json
from lvm_pipeline.evaluation.report_page import report_html
from lvm_pipeline_tests.evaluation.products import make_products


@pytest.fixture(scope="module")
def curve(products, model_dir, tmp_path_factory):
    return learning_curve(model_dir, products.data(), work_dir=tmp_path_factory.mktemp("curve"), device="cpu")


def test_every_point_is_scored_beside_the_linear_forecast_of_its_articles(products, curve, report):
    num_articles = [point.num_articles for point in curve.points]
    total = report.counts.train_articles

    assert [point.fraction for point in curve.points] == [0.25, 0.5, 1]
    assert num_articles == [int(0.25 * total), int(0.5 * total), total]
    assert curve.points[-1].cosine.mean == pytest.approx(report.cosine, abs=1e-6)
    assert curve.points[-1].linear_cosine == pytest.approx(report.baselines["linear_forecast"].cosine, abs=1e-6)
    assert curve.points[0].linear_cosine != curve.points[-1].linear_cosine
    for point in curve.points:
        assert point.gain.mean == pytest.approx(point.cosine.mean - point.linear_cosine, abs=1e-6)


def test_parts_are_nested_and_leave_validation_alone(products):
    data = products.data()
    parts = [part_of(data, fraction, seed=0) for fraction in (0.25, 0.5, 1.0)]
    rows = [set(part.train_rows().tolist()) for part in parts]

    assert rows[0] < rows[1] < rows[2] == set(data.train_rows().tolist())
    for part, own in zip(parts, rows, strict=True):
        np.testing.assert_array_equal(
            part.window_spans("validation").first_rows, data.window_spans("validation").first_rows
        )
        assert set(part.window_spans("train").target_rows().tolist()) <= own
    with pytest.raises(LvmError, match="too few"):
        part_of(data, 0.001, seed=0)


def test_smaller_trainings_are_kept(products, model_dir, curve, tmp_path, monkeypatch):
    first = learning_curve(model_dir, products.data(), work_dir=tmp_path, device="cpu")
    monkeypatch.setattr("lvm_pipeline.evaluation.learning_curve.train", None)

    assert learning_curve(model_dir, products.data(), work_dir=tmp_path, device="cpu") == first == curve


def test_a_model_of_other_data_is_refused_before_anything_is_trained(model_dir, tmp_path):
    other = make_products(tmp_path / "other", seed=7)

    with pytest.raises(LvmError, match="was trained on other data"):
        learning_curve(model_dir, other.data(), work_dir=tmp_path / "curve", device="cpu")

    assert not (tmp_path / "curve").exists()


def test_the_curve_stands_in_the_report_of_its_model(curve, report, tmp_path):
    write_curve(curve, tmp_path)
    found = replace(report, learning_curve=read_curve(tmp_path, fingerprint=report.model_fingerprint))

    assert found.learning_curve == curve
    assert report_from_json(found.as_json()) == found
    assert "Learning curve by data" in report_html(found)
    assert "Learning curve by data" not in report_html(report)
    assert read_curve(tmp_path, fingerprint="another") is None
    assert read_curve(tmp_path / "nowhere", fingerprint=report.model_fingerprint) is None
