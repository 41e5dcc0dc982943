import shutil

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.sequences.build import SequenceOptions
from lvm_pipeline.sequences.npz import export_npz
from lvm_pipeline.training.options import tables_from_file, train_from_options

QUICK = {"preset": "smoke", "epochs": 1, "num_threads": 1}


@pytest.fixture(scope="module")
def files(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("npz")
    concepts, _, sequences = export_npz(data_dir / "concepts.parquet", data_dir / "sequences.parquet", folder)
    return {
        "concept table": data_dir / "concepts.parquet",
        "sequence table": data_dir / "sequences.parquet",
        "npz of concepts": concepts,
        "npz of sequences": sequences,
    }


@pytest.mark.parametrize("kind", ["concept table", "sequence table", "npz of concepts", "npz of sequences"])
def test_trains_on_every_kind_of_file_with_the_options_of_the_request(files, tmp_path, kind):
    trained = train_from_options(
        files[kind],
        output_dir=tmp_path / "model",
        work_dir=tmp_path / "work",
        hidden_dim=24,
        num_layers=1,
        batch_size=32,
        learning_rate=None,
        **QUICK,
    )
    assert trained.info.config["hidden_dim"] == 24
    assert trained.info.config["num_layers"] == 1
    assert trained.info.training["batch_size"] == 32
    assert not trained.info.is_leaking


def test_cutting_follows_the_options(files, tmp_path):
    options = SequenceOptions(boundaries="ignore", split="last_20_percent")
    trained = train_from_options(
        files["concept table"], output_dir=tmp_path / "model", work_dir=tmp_path, sequence_options=options, **QUICK
    )
    assert trained.info.is_leaking
    assert trained.info.mode == "windows"


def test_a_sequence_table_without_its_concepts_is_told(files, tmp_path):
    alone = shutil.copy(files["sequence table"], tmp_path / "sequences.parquet")
    with pytest.raises(LvmError, match=r"put its concepts\.parquet beside it"):
        tables_from_file(alone, work_dir=tmp_path / "work")


@pytest.mark.parametrize(("name", "content"), [("missing.npz", None), ("text.parquet", b"no"), ("text.npz", b"no")])
def test_another_file_is_refused(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LvmError, match=name):
        tables_from_file(path, work_dir=tmp_path / "work")
