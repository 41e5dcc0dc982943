import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.evaluate import evaluate_model
from lvm_pipeline.evaluation.report_page import report_html
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.strategies import staged
from lvm_pipeline.training.strategies._resolutions import AtWidth, ResolutionHeads
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.training.strategies.test_contract import config_of


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    config = config_of("multi_resolution", mode="articles", strategy_options={"widths": [3, 6], "consistency": 0.0})
    return train(config, data, output_dir=tmp_path_factory.mktemp("resolutions") / "model")


def heads_of(model) -> ResolutionHeads:
    return model.get_submodule("resolution_heads")


def test_the_heads_stay_with_the_model_and_every_width_is_scored(trained, data, data_dir):
    model, info = load_trained_model(trained.path)
    paths = (data_dir / "concepts.parquet", data_dir / "sequences.parquet")
    report = evaluate_model(trained.path, *paths, vectors_dir=data_dir / "vectors", device="cpu", num_threads=1)
    spans = data.scored_spans("validation", mode="articles")
    vectors = torch.from_numpy(np.array(data.vectors))
    basis = heads_of(model).basis.numpy()
    targets, full = data.vectors[spans.target_rows()] @ basis, predict_spans(model, vectors, spans) @ basis

    assert [row.width for row in report.resolutions] == [data.concepts.vector_dim, 6, 3]
    assert report.resolutions[0].cosine == pytest.approx(report.cosine, abs=1e-5)
    for row in report.resolutions[1:]:
        low = predict_spans(AtWidth(model, row.width), vectors, spans)[:, : row.width]
        assert row.cosine == pytest.approx(float(cosines(low, targets[:, : row.width]).mean()), abs=1e-5)
        expected = float(cosines(full[:, : row.width], targets[:, : row.width]).mean())
        assert row.full_cosine == pytest.approx(expected, abs=1e-5)
        assert abs(row.cosine - row.full_cosine) > 1e-6  # the heads have learned
    assert "Resolutions" in report_html(report)
    assert info.strategy_notes["multi_resolution"].startswith(f"Predicts at the widths {len(basis)}, 6, 3;")


def test_a_head_starts_at_the_full_prediction_in_its_directions():
    heads = ResolutionHeads(8, 5, (4, 2))
    torch.manual_seed(0)
    heads.fit(torch.randn(50, 8))
    predictions, states = torch.randn(6, 8), torch.randn(6, 5)
    for low, width in zip(heads(predictions, states), (4, 2), strict=True):
        torch.testing.assert_close(low, F.normalize(predictions @ heads.basis[:, :width], dim=-1))


def test_directions_are_those_of_the_largest_squares_of_train_rows():
    heads = ResolutionHeads(3, 2, (1,))
    heads.fit(torch.tensor([[0.0, 5.0, 0.0], [0.0, -5.0, 0.1], [1.0, 0.0, 0.0]]))
    assert abs(float(heads.basis[1, 0])) == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(heads.basis.T @ heads.basis, torch.eye(3), rtol=0, atol=1e-5)


def test_consistency_pulls_a_head_towards_the_full_prediction(data, tmp_path):
    spans, vectors = data.scored_spans("validation", mode="articles"), torch.from_numpy(np.array(data.vectors))

    def distance(consistency):
        options = {"widths": [4], "consistency": consistency}
        config = config_of("multi_resolution", strategy_options=options, mode="articles", learning_rate=0.02, epochs=4)
        model, _ = load_trained_model(train(config, data, output_dir=tmp_path / str(consistency)).path)
        full = predict_spans(model, vectors, spans) @ heads_of(model).basis.numpy()
        return 1 - float(cosines(predict_spans(AtWidth(model, 4), vectors, spans)[:, :4], full[:, :4]).mean())

    assert distance(50.0) < 0.5 * distance(0.0)


def test_no_width_lies_outside_the_vectors(data):
    full = data.concepts.vector_dim
    config = config_of("multi_resolution", learning_rate=0.01, strategy_options={"widths": [full]})
    with pytest.raises(LvmError, match=f"widths below that of the vectors, {full}; strategy_options.widths asks for"):
        staged(config.with_options(mode="articles"), data)


def test_the_default_is_a_half_and_a_quarter(data):
    full = data.concepts.vector_dim
    staging = staged(config_of("multi_resolution", learning_rate=0.01, mode="articles"), data)
    assert f"{full}, {full // 2}, {full // 4};" in staging.notes["multi_resolution"]
