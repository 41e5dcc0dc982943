"""Vectors that say one space and look like another are refused wherever they come in, without the space's encoder."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.adapters.mlflow_model import _load_pyfunc
from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.scoring import score_model
from lvm_pipeline.lineage.data import check_staged_concepts
from lvm_pipeline.lineage.from_files import tables_of
from lvm_pipeline.lineage.models import accepted_at
from lvm_pipeline.lineage.prediction import predict_on
from lvm_pipeline.lineage.serving import serving_app
from lvm_pipeline.lineage.spaces import keep_space_fingerprint, space_fingerprint
from lvm_pipeline.lineage.trials import trial_folder, write_trial
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.load import ingest
from lvm_pipeline.source.space_fingerprint import FILE, read_fingerprint
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.tracking import Tracker
from lvm_pipeline_tests.rescored_here import rescored_here
from lvm_pipeline_tests.serving.homes import call, running
from lvm_pipeline_tests.source.given_files import rows
from lvm_pipeline_tests.source.memory_table import MemoryTable
from lvm_pipeline_tests.synthetic import synthetic_table, write_synthetic_sequences, write_table
from lvm_pipeline_tests.worded import directed, rotated, vector_column, with_columns

LENGTHS = [20, 30, 25, 15, 18, 22, 12, 28] * 5
ARTICLES = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
WIDTH = 64
REFUSED = "no better than random directions do"


def table_of(vectors):
    return with_columns(synthetic_table(LENGTHS, vector_dim=WIDTH), vector=vector_column(vectors))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A home with concepts and sequences of a declared space."""
    settings = Settings(home=tmp_path_factory.mktemp("numbers") / "home", device="cpu", num_threads=1)
    write_table(table_of(directed(ARTICLES)), settings.concepts_path)
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path)
    keep_space_fingerprint(settings)
    return settings


@pytest.fixture(scope="module")
def model_dir(settings):
    """A model that was trained on them and accepted."""
    options = {"architecture": "gru", "preset": "smoke", "epochs": 1, "num_threads": 1, "mode": "articles"}
    config = TrainingConfig(**options, model={"hidden_dim": 16, "num_layers": 1})
    folder = trial_folder(settings, config.trial.trial_id)
    write_trial(folder, config.trial)
    with pytest.MonkeyPatch.context() as patch:
        rescored_here(patch)
        train(
            config,
            load_training_data(*settings.promoted_tables),
            output_dir=folder.staged_dir,
            accept=accepted_at(folder.model_dir, settings.promoted_tables, Tracker(), settings=settings),
        )
    return folder.model_dir


@pytest.fixture(scope="module")
def own():
    """New vectors of the same space."""
    return directed(ARTICLES, seed=3)[:40]


def lines(vectors):
    return [json.dumps({"vector": vector.tolist()}).encode() for vector in vectors]


def test_a_promoted_table_leaves_its_numbers_in_the_home(settings):
    kept = space_fingerprint(settings, "synthetic")

    assert kept.space_id == "synthetic"
    assert kept.num_concepts == len(ARTICLES)
    assert 0 < kept.min_vectors <= 16
    assert space_fingerprint(settings, "undeclared-64") is None


def test_every_accepted_model_carries_the_numbers_of_its_space(settings, model_dir):
    assert read_fingerprint(model_dir / FILE).own == space_fingerprint(settings, "synthetic").own


def test_a_table_that_lies_is_found_without_the_encoder(settings, tmp_path):
    path = write_table(table_of(rotated(directed(ARTICLES, seed=3))), tmp_path / "concepts.parquet")

    findings = {each.name: each for each in check_staged_concepts(settings, path, read_concepts_metadata(path))}

    finding = findings["vectors_match_their_space"]
    assert not finding.passed
    assert "in 40 of 40 articles" in finding.message
    assert {each.name: each for each in check_concepts(path)}["vectors_match_their_space"].passed


def test_a_table_with_one_article_that_lies_names_it(settings, tmp_path):
    vectors = directed(ARTICLES, seed=3)
    vectors[ARTICLES == 7] = rotated(vectors[ARTICLES == 7])
    table = table_of(vectors)
    path = write_table(table, tmp_path / "concepts.parquet")

    findings = {each.name: each for each in check_staged_concepts(settings, path, read_concepts_metadata(path))}

    first = table["article_id"][int(np.flatnonzero(ARTICLES == 7)[0])].as_py()
    assert f"in 1 of 40 articles: {first}" in findings["vectors_match_their_space"].message


def test_an_honest_table_is_checked_by_its_numbers(settings, tmp_path):
    path = write_table(table_of(directed(ARTICLES, seed=3)), tmp_path / "concepts.parquet")

    findings = {each.name: each for each in check_staged_concepts(settings, path, read_concepts_metadata(path))}

    finding = findings["vectors_match_their_space"]
    assert finding.outcome == "passed"
    assert finding.observed > 0.8 > finding.allowed


def test_ingest_refuses_a_file_that_lies_and_loads_nothing(settings, tmp_path):
    honest = directed(ARTICLES, seed=3)
    half = honest.copy()
    half[ARTICLES % 2 == 0] = rotated(half[ARTICLES % 2 == 0])
    for name, vectors, place in (("all", rotated(honest), ""), ("half", half, " of the article a0")):
        table = MemoryTable()
        column = pa.array(vectors.tolist(), pa.list_(pa.float32()))
        pq.write_table(rows(LENGTHS, vector=column), tmp_path / f"{name}.parquet")
        with pytest.raises(LvmError, match=f"The vectors{place} are declared as space synthetic, but .*{REFUSED}"):
            ingest(tmp_path / f"{name}.parquet", table, settings=settings, space_id="synthetic")
        assert not table.rows
    ingest(tmp_path / "all.parquet", MemoryTable(), settings=settings, space_id="a space of their own")
    pq.write_table(rows(LENGTHS, vector=pa.array(honest.tolist(), pa.list_(pa.float32()))), tmp_path / "own.parquet")
    report = ingest(tmp_path / "own.parquet", MemoryTable(), settings=settings, space_id="synthetic")
    assert report.num_inserted == len(ARTICLES)


def test_predict_refuses_a_stream_that_lies(settings, model_dir, own):
    assert len(list(predict_on(settings, model_dir, lines(own), warn=pytest.fail))) == len(own)

    with pytest.raises(LvmError, match=f"The vectors up to line 8 are of another space.*{REFUSED}"):
        list(predict_on(settings, model_dir, lines(rotated(own)), warn=pytest.fail))


def test_the_server_answers_a_lie_with_422(settings, model_dir, own):
    with running(serving_app(settings, trial="gru")) as url:
        good, *_ = call(f"{url}/predict", {"vectors": own.tolist()})
        bad, _, answer = call(f"{url}/predict", {"vectors": rotated(own).tolist()})

    assert (good, bad) == (200, 422)
    assert REFUSED in json.loads(answer)["detail"]


def test_mlflow_refuses_a_context_that_lies(model_dir, own):
    from mlflow.exceptions import MlflowException

    predictor = _load_pyfunc(str(model_dir))
    assert predictor.predict(own[None]).shape == (1, WIDTH)
    with pytest.raises(MlflowException, match=REFUSED):
        predictor.predict(rotated(own)[None])


def test_a_model_is_not_scored_on_vectors_that_lie(settings, model_dir, tmp_path):
    concepts, sequences = tmp_path / "concepts.parquet", tmp_path / "sequences.parquet"
    for harm, problem in ((lambda vectors: vectors, None), (rotated, REFUSED)):
        write_table(table_of(harm(directed(ARTICLES, seed=3))), concepts)
        write_synthetic_sequences(concepts, sequences)
        data = load_training_data(concepts, sequences, tmp_path / "vectors")
        if problem is None:
            score_model(model_dir, data, device="cpu", require_same_data=False)
        else:
            with pytest.raises(LvmError, match=problem):
                score_model(model_dir, data, device="cpu", require_same_data=False)


def test_a_file_to_train_or_score_on_is_refused(settings, tmp_path):
    path = write_table(table_of(rotated(directed(ARTICLES, seed=3))), tmp_path / "concepts.parquet")

    with pytest.raises(LvmError, match=f"are declared as space synthetic, but .*{REFUSED}"):
        tables_of(settings, path)
