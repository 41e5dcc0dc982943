"""One process that scores many models."""

import json
import os

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.rescore import RescoringProcess, rescore, rescore_in_fresh_process
from lvm_pipeline.training.trained_model import INFO_FILE
from lvm_pipeline_tests.evaluation.products import make_products
from lvm_pipeline_tests.synthetic import write_table
from lvm_pipeline_tests.worded import with_columns


def test_one_process_scores_model_after_model_and_survives_a_bad_one(tmp_path):
    products = make_products(tmp_path)
    tables = tuple(products.paths.values())
    one, other = products.train("one"), products.train("other", seed=1)

    with RescoringProcess() as score:
        found = [score(one, *tables)]
        process = psutil.Process(score._process.pid)
        with pytest.raises(LvmError, match=r"could not be scored in a fresh process: .*nowhere"):
            score(tmp_path / "nowhere", *tables)
        found.append(score(other, *tables))
        assert score._process.pid == process.pid

    assert not process.is_running()
    assert [each.score for each in found] == pytest.approx([rescore(folder, *tables).score for folder in (one, other)])


def test_trainings_inside_a_block_share_its_process_and_none_is_left_after_it(tmp_path):
    products = make_products(tmp_path)
    tables = tuple(products.paths.values())
    model = products.train("one")

    with RescoringProcess() as outer:
        expected = rescore_in_fresh_process(model, *tables)
        process = outer._process
        with RescoringProcess() as inner:
            assert rescore_in_fresh_process(model, *tables) == expected
            assert inner._process is None
        assert outer._process is process
        assert process.poll() is None
    assert process.poll() is not None
    assert rescore_in_fresh_process(model, *tables) == expected


def test_a_process_that_was_started_before_scores_the_first_model_and_ctrl_c_does_not_reach_it(tmp_path):
    products = make_products(tmp_path)
    model = products.train("one")

    with RescoringProcess() as outer, RescoringProcess() as inner:
        inner.start()
        started = outer._process
        assert os.getpgid(started.pid) != os.getpgid(0)
        assert inner(model, *products.paths.values()).score > 0
        assert outer._process is started
    assert started.poll() is not None


def test_a_process_that_dies_is_an_error_and_the_next_model_has_a_new_one(tmp_path):
    products = make_products(tmp_path)
    tables = tuple(products.paths.values())
    model = products.train("one")

    with RescoringProcess() as score:
        score(model, *tables)
        score._process.kill()
        score._process.wait()
        assert score(model, *tables).score > 0


def test_a_process_that_goes_on_sees_that_codes_have_changed(tmp_path):
    products = make_products(tmp_path)
    tables = tuple(products.paths.values())
    plain, coded = products.train("plain"), products.train("coded", strategy="tmd")

    with RescoringProcess() as score:
        expected = score(plain, *tables).score
        score(coded, *tables)
        table = pq.read_table(products.concepts_path)
        codes = pa.array([(row + 3) % 16 for row in range(table.num_rows)], pa.int16())
        write_table(with_columns(table, domain=codes), products.concepts_path)
        assert score(plain, *tables).score == expected
        with pytest.raises(LvmError, match="was trained on other data"):
            score(coded, *tables)


def test_a_model_of_a_gpu_that_is_not_here_is_scored_on_the_cpu(tmp_path, monkeypatch):
    products = make_products(tmp_path)
    model = products.train("one")
    record = model / INFO_FILE
    values = json.loads(record.read_text())
    record.write_text(json.dumps({**values, "training": {**values["training"], "device": "cuda:1"}}))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)

    found = rescore(model, *products.paths.values())

    assert not found.is_same_device
    assert found.score > 0
