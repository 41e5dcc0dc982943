"""A model with a condition gets each concept's TMD vector wherever it predicts, or says that it is missing."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow.exceptions import MlflowException

from lvm_pipeline.adapters.mlflow_model import Predictor, model_signature
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.controls import control_scores
from lvm_pipeline.evaluation.latency import latency_ms
from lvm_pipeline.evaluation.scoring import score_model
from lvm_pipeline.inference.contexts import ContextPredictor
from lvm_pipeline.inference.predict import StreamPredictor
from lvm_pipeline.inference.reading import read_file, read_lines
from lvm_pipeline.training.batches import vectors_on_device
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.rescore import rescore
from lvm_pipeline.training.tmd_vectors import read_tmd_vectors
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.training.conftest import make_data, open_data

CONFIG = TrainingConfig(
    architecture="lstm",
    preset="smoke",
    model={"hidden_dim": 8, "head": "means", "condition_dim": 16, "dropout": 0.0},
    mode="windows",
    epochs=2,
    patience=2,
    learning_rate=0.05,
    num_threads=1,
    precision="float32",
    device="cpu",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Concepts with TMD vectors, null for every seventh."""
    folder = make_data(tmp_path_factory.mktemp("conditioned"))
    table = pq.read_table(folder / "concepts.parquet")
    rng = np.random.default_rng(0)
    vectors = [None if row % 7 == 0 else rng.standard_normal(16).tolist() for row in range(table.num_rows)]
    column = table.schema.get_field_index("tmd_dense")
    table = table.set_column(column, table.schema.field(column), pa.array(vectors, table.schema.field(column).type))
    pq.write_table(table, folder / "concepts.parquet")
    return folder


@pytest.fixture(scope="module")
def conditioned(folder):
    return open_data(folder)


@pytest.fixture(scope="module")
def trained(conditioned, tmp_path_factory):
    return train(CONFIG, conditioned, output_dir=tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture
def model(trained):
    return load_trained_model(trained.path)[0]


def test_the_condition_is_the_tmd_vector_and_zeros_where_it_is_null(folder, conditioned):
    condition, column = conditioned.condition(16), pq.read_table(folder / "concepts.parquet")["tmd_dense"].to_pylist()
    assert (condition[::7] == 0).all()
    np.testing.assert_array_equal(condition[5], np.array(column[5], np.float32))
    assert conditioned.condition(0) is None


def test_a_width_that_does_not_match_and_a_table_without_tmd_vectors_are_refused(conditioned, data, tmp_path):
    with pytest.raises(LvmError, match=r"condition_dim is 8, but the TMD vectors .* have 16"):
        train(CONFIG.with_options(model={"condition_dim": 8}), conditioned, output_dir=tmp_path / "model")
    with pytest.raises(LvmError, match="no TMD vectors"):
        train(CONFIG, data, output_dir=tmp_path / "model")
    assert read_tmd_vectors(data.concepts_path) is None


@pytest.mark.parametrize("number", [float("nan"), None])
def test_tmd_vectors_that_are_not_finite_are_refused(folder, tmp_path, number):
    table = pq.read_table(folder / "concepts.parquet")
    vectors = [[number, *each[1:]] if each else None for each in table["tmd_dense"].to_pylist()]
    column = table.schema.get_field_index("tmd_dense")
    table = table.set_column(column, table.schema.field(column), pa.array(vectors, table.schema.field(column).type))
    pq.write_table(table, tmp_path / "concepts.parquet")
    with pytest.raises(LvmError, match="numbers that are not finite"):
        read_tmd_vectors(tmp_path / "concepts.parquet")


def test_training_and_validation_read_the_condition(trained, conditioned, model):
    assert trained.info.best_epoch > 0
    assert model.modulation.weight.abs().max() > 0
    spans, vectors = (
        conditioned.scored_spans("validation", mode="windows"),
        vectors_on_device(conditioned.vectors, "cpu"),
    )
    condition = torch.from_numpy(conditioned.condition(16))
    with_it, with_another = (
        predict_spans(model, vectors, spans, condition=each) for each in (condition, condition.roll(1, 0))
    )
    targets = conditioned.vectors[spans.target_rows()]
    assert float((with_it * targets).sum(1).mean()) == pytest.approx(trained.info.score, abs=1e-5)
    assert np.abs(with_it - with_another).max() > 1e-4
    with pytest.raises(LvmError, match="condition of width 16"):
        predict_spans(model, vectors, spans)


def test_scoring_and_rescoring_read_the_condition(trained, folder, conditioned):
    found = rescore(trained.path, folder / "concepts.parquet", folder / "sequences.parquet", folder / "vectors")
    assert found.score == pytest.approx(trained.info.score, abs=1e-5)
    scored = score_model(trained.path, conditioned, device="cpu")
    assert scored.scores.closeness.means()["cosine"] == pytest.approx(trained.info.score, abs=1e-5)
    without = replace(conditioned, concepts_path=None)
    with pytest.raises(LvmError, match="no TMD vectors"):
        score_model(trained.path, without, device="cpu")


def test_controls_and_latency_read_the_condition(trained, conditioned):
    scored = score_model(trained.path, conditioned, device="cpu")
    model, targets = scored.model, scored.targets
    found, other = (
        control_scores(model, targets, condition=each, device="cpu")
        for each in (scored.condition, np.roll(scored.condition, 1, axis=0))
    )
    assert found.cosine != other.cosine
    with pytest.raises(LvmError, match="condition of width 16"):
        control_scores(model, targets, device="cpu")
    assert latency_ms(model, conditioned.vectors[:5], condition=scored.condition[:5], device="cpu").p50 > 0
    with pytest.raises(LvmError, match="condition of width 16"):
        latency_ms(model, conditioned.vectors[:5], device="cpu")


def lines_of(vectors, conditions):
    for vector, condition in zip(vectors, conditions, strict=True):
        record = {"vector": vector.tolist(), **({} if condition is ... else {"tmd_dense": condition})}
        yield json.dumps(record).encode()


def streamed(model, info, lines):
    predictor = StreamPredictor(model, info, encoders_dir=None, warn=lambda _: None)
    return np.stack([prediction.vector for prediction in predictor.predictions(read_lines(lines))])


def test_streamed_concepts_carry_their_condition(trained, conditioned, model, tmp_path):
    vectors, condition = conditioned.vectors[:5], conditioned.condition(16)[:5]
    given = [None if row == 0 else values.tolist() for row, values in enumerate(condition)]  # null, as in the table
    found = streamed(model, trained.info, lines_of(vectors, given))
    expected = model(torch.from_numpy(np.array(vectors))[None], torch.from_numpy(condition)[None])[0, -1]
    np.testing.assert_allclose(found[-1], expected.detach(), atol=1e-5)
    pq.write_table(pa.table({"vector": list(vectors), "tmd_dense": given}), tmp_path / "concepts.parquet")
    predictor = StreamPredictor(model, trained.info, encoders_dir=tmp_path, warn=lambda _: None)
    again = [prediction.vector for prediction in predictor.predictions(read_file(tmp_path / "concepts.parquet"))]
    np.testing.assert_allclose(np.stack(again), found, atol=1e-6)


@pytest.mark.parametrize(
    ("condition", "message"),
    [(..., "line 1 has no tmd_dense"), ([1.0] * 8, "must be 16 finite numbers"), ("x", "must be a list of numbers")],
)
def test_a_streamed_concept_without_a_usable_condition_is_refused(trained, conditioned, model, condition, message):
    with pytest.raises(LvmError, match=message):
        streamed(model, trained.info, lines_of(conditioned.vectors[:1], [condition]))


def test_a_recurrent_model_carries_its_state_with_the_condition(conditioned, model, trained):
    vectors, condition = conditioned.vectors[:9], conditioned.condition(16)[:9]
    info = replace(trained.info, mode="articles")
    found = streamed(model, info, lines_of(vectors, condition.tolist()))
    expected = model(torch.from_numpy(np.array(vectors))[None], torch.from_numpy(condition)[None])[0]
    np.testing.assert_allclose(found, expected.detach(), atol=1e-5)


def test_the_mlflow_model_reads_the_condition(conditioned, model, trained):
    contexts, condition = conditioned.vectors[None, :5], conditioned.condition(16)[None, :5]
    predictor = Predictor(ContextPredictor(model, trained.info))
    found = predictor.predict({"contexts": contexts, "condition": condition})
    expected = model(torch.from_numpy(np.array(contexts)), torch.from_numpy(condition))[:, -1]
    np.testing.assert_allclose(found, expected.detach(), atol=1e-6)
    for wrong, reason in (
        (contexts, "reads 16 TMD numbers"),
        ({"contexts": contexts, "condition": condition[..., :3]}, "must have 16 numbers"),
        ({"contexts": contexts, "condition": condition[:, :3]}, "5 concepts and 3 rows"),
    ):
        with pytest.raises(MlflowException, match=reason):
            predictor.predict(wrong)
    with pytest.raises(MlflowException, match="no field contexts"):
        predictor.predict({"condition": condition})
    assert model_signature(16, 16).inputs.input_names() == ["contexts", "condition"]
    assert not model_signature(16).inputs.has_input_names()
