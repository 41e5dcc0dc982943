import json

import numpy as np
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.inference.predict import StreamPredictor
from lvm_pipeline.source.schema import Tmd, pack_tmd
from lvm_pipeline.source.tmd_labels import ASSIGNMENT_FILE, METHOD, TmdAssignment, write_assignment
from lvm_pipeline.training.config import training_config
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.rescore import rescore
from lvm_pipeline.training.strategies import condition_of, staged
from lvm_pipeline.training.tmd_vectors import tmd_bits
from lvm_pipeline.training.trained_model import INFO_FILE, load_trained_model
from lvm_pipeline_tests.training.conftest import make_data, open_data
from lvm_pipeline_tests.training.strategies.conftest import add_codes, replace_columns
from lvm_pipeline_tests.training.strategies.test_contract import config_of


def test_bits_are_those_of_both_packings_and_code_zero_is_zero():
    code = Tmd(15, 0, 18)
    for packing, shift in (("11-6-0", 0), ("12-7-1", 1)):
        (bits,) = tmd_bits([15], [0], [18], packing=packing)
        assert set(bits) == {-1, 1}
        assert int("".join("1" if bit > 0 else "0" for bit in bits), 2) == pack_tmd(code) << shift
        assert (tmd_bits([0], [0], [0], packing=packing) == 0).all()


def test_a_model_reads_the_code_of_the_last_context_concept(rich_data):
    trial = config_of("tmd").trial
    dense = rich_data.condition(16)
    assert np.array_equal(condition_of(trial, rich_data, condition_dim=16), dense)
    codes = condition_of(config_of("tmd", strategy_options={"tmd_from": "codes"}).trial, rich_data, condition_dim=16)
    assert set(np.unique(codes)) == {-1, 0, 1}
    assert ((codes == 0).all(axis=1) == (dense == 0).all(axis=1)).all()
    assert condition_of(config_of("plain").trial, rich_data, condition_dim=0) is None


def test_an_unknown_code_has_a_vector_that_is_learned(rich_data, tmp_path):
    config = config_of("tmd", learning_rate=0.05, epochs=3)
    model, info = load_trained_model(train(config, rich_data, output_dir=tmp_path / "model").path)
    if info.best_epoch:
        assert (model.modulation.unknown != 1).any()
    assert info.config["condition_dim"] == 16
    assert not info.is_oracle


def test_an_oracle_reads_the_code_of_its_target_is_labelled_and_is_never_served(rich_dir, rich_data, tmp_path):
    config = config_of("tmd", strategy_options={"tmd_of": "target"})
    shifted = condition_of(config.trial, rich_data, condition_dim=16)
    assert np.array_equal(shifted[4], rich_data.condition(16)[5])
    trained = train(config, rich_data, output_dir=tmp_path / "model")
    assert trained.info.is_oracle
    assert trained.info.is_leaking
    assert trained.info.strategy_notes["tmd"].startswith("Oracle")
    found = rescore(trained.path, rich_dir / "concepts.parquet", rich_dir / "sequences.parquet", rich_dir / "vectors")
    assert found.score == pytest.approx(trained.info.score, abs=1e-6)
    model, info = load_trained_model(trained.path)
    with pytest.raises(LvmError, match="reads the TMD code of its own target"):
        StreamPredictor(model, info, encoders_dir=tmp_path, warn=lambda _: None)


def test_records_of_earlier_versions_are_no_oracles(rich_data, tmp_path):
    path = train(config_of("plain", epochs=1), rich_data, output_dir=tmp_path / "model").path
    values = json.loads((path / INFO_FILE).read_text())
    del values["is_oracle"], values["strategy_notes"]
    (path / INFO_FILE).write_text(json.dumps(values))
    info = load_trained_model(path)[1]
    assert (info.is_oracle, info.strategy_notes) == (False, {})


@pytest.fixture(scope="module")
def only_codes(tmp_path_factory):
    folder = make_data(tmp_path_factory.mktemp("codes"))
    add_codes(folder / "concepts.parquet")
    replace_columns(folder / "concepts.parquet", {"tmd_dense": [None] * len(open_data(folder).vectors)})
    return folder


def test_the_bits_of_the_codes_stand_in_for_tmd_vectors_that_are_missing(only_codes, settled):
    data = open_data(only_codes)
    assert "bits of the TMD codes, packed 11-6-0" in staged(settled(config_of("tmd")), data).notes["tmd"]
    with pytest.raises(LvmError, match=r"no TMD vectors \(column tmd_dense\)"):
        staged(settled(config_of("tmd", strategy_options={"tmd_from": "tmd_dense"})), data)


@pytest.mark.parametrize("missing", [None, 0])
def test_without_codes_it_is_refused_at_the_start_with_what_is_missing(tmp_path, missing):
    folder = make_data(tmp_path)
    num_rows = len(open_data(folder).vectors)
    columns = {name: [missing] * num_rows for name in ("domain", "task", "modifier")}
    replace_columns(folder / "concepts.parquet", {**columns, "tmd_dense": [None] * num_rows})
    with pytest.raises(LvmError, match=r"tmd needs TMD codes, but the concepts have no TMD codes; assign them with"):
        train(config_of("tmd"), open_data(folder), output_dir=tmp_path / "model")


def test_a_condition_of_another_width_is_refused_when_the_trial_is_made():
    with pytest.raises(LvmError, match=r"tmd cannot be used like this: model.condition_dim is 8"):
        training_config({"strategy": "tmd", "model.condition_dim": 8})


def test_codes_that_were_assigned_here_are_said_to_be_a_function_of_the_vector(only_codes, settled):
    data = open_data(only_codes)
    assignment = TmdAssignment(
        dataset_source=data.concepts.dataset_source,
        space_id=data.concepts.space_id,
        method=METHOD,
        labels="1",
        num_concepts=9,
        num_without=7,
        num_assigned=7,
    )
    write_assignment(only_codes, assignment)
    note = staged(settled(config_of("tmd")), data).notes["tmd"]
    (only_codes / ASSIGNMENT_FILE).unlink()
    assert "so they are a function of the vector" in note
    assert "a function of the vector" not in staged(settled(config_of("tmd")), data).notes["tmd"]
