"""Work on given files, which stay as they are."""

import pyarrow as pa
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import InvariantError
from lvm_pipeline.lineage import from_files
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.synthetic import (
    synthetic_table,
    write_synthetic_concepts,
    write_synthetic_sequences,
    write_table,
)


def settings_in(folder, **options):
    return Settings(home=folder, device="cpu", num_threads=1, min_validation_sequences=1, **options)


@pytest.mark.parametrize("min_articles", [1, 1000])
def test_an_imported_table_stays_where_the_user_has_it(tmp_path, min_articles):
    given = write_synthetic_concepts(tmp_path / "mine" / "concepts.parquet", article_lengths=[12] * 30)
    before = given.read_bytes()
    blocking = "splits_have_their_share=blocking"
    settings = settings_in(tmp_path / "home", min_validation_articles=min_articles, severities=blocking)

    if min_articles == 1:
        from_files.import_npz(settings, given)
        assert read_concepts_metadata(settings.concepts_path).num_concepts == 360
    else:
        with pytest.raises(InvariantError, match="splits_have_their_share"):
            from_files.import_npz(settings, given)
        assert not settings.concepts_path.exists()

    assert given.read_bytes() == before
    assert not list(settings.staging_dir.iterdir())


def test_tables_that_fail_a_check_leave_no_copy(tmp_path):
    table = synthetic_table([12] * 30)
    same_ids = table.set_column(1, "cpe_id", pa.array(["same"] * len(table)))
    given = write_table(same_ids, tmp_path / "mine" / "concepts.parquet")
    sequences = write_synthetic_sequences(given, given.with_name("sequences.parquet"))
    settings = settings_in(tmp_path / "home", min_validation_articles=1)

    with pytest.raises(InvariantError, match="cpe_ids_are_unique"):
        from_files.import_npz(settings, sequences)

    assert given.exists()
    assert sequences.exists()
    assert not list(settings.home.rglob("*concepts.parquet"))


def test_tables_are_not_imported_beside_an_extraction(tmp_path):
    given = write_synthetic_concepts(tmp_path / "mine" / "concepts.parquet", article_lengths=[12] * 30)
    sequences = write_synthetic_sequences(given, given.with_name("sequences.parquet"))
    settings = settings_in(tmp_path / "home", min_validation_articles=1)

    with lineage.data_locked(settings), pytest.raises(LvmError, match="wait for its end"):
        from_files.import_npz(settings, sequences)

    assert not list(settings.home.rglob("*.parquet"))


def test_one_process_at_a_time_trains_a_folder(tmp_path, monkeypatch):
    given = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[12] * 30)
    settings = settings_in(tmp_path / "home", preset="smoke")

    def train(*_, **__):
        from_files.train_on(settings, given, output=tmp_path / "model")

    monkeypatch.setattr("lvm_pipeline.training.loop.train", train)
    with pytest.raises(LvmError, match=r"Another process is training .*model now"):
        train()


@pytest.mark.parametrize("launcher", ["torchrun", "ray"])
def test_several_processes_do_not_train_on_a_file(tmp_path, launcher):
    settings = settings_in(tmp_path / "home", launcher=launcher, num_processes=4)
    with pytest.raises(LvmError, match=f"in one process; leave out launcher={launcher}, or load the data"):
        from_files.train_on(settings, tmp_path / "concepts.parquet")


def test_only_a_trained_model_is_replaced(lvm, tmp_path):
    model, other, empty = (tmp_path / name for name in ("model", "thesis", "empty"))
    for folder in (model, other, empty):
        folder.mkdir()
    (model / "trained_model.json").write_text("{}")
    (other / "chapter.txt").write_text("one")

    for output in (other, other / "chapter.txt"):
        with pytest.raises(LvmError, match="is not the folder of a trained model"):
            from_files.copy_model(model, output)
        code, _, err = lvm("train", "--output", output)
        assert (code, "is not the folder of a trained model" in err) == (1, True)
    from_files.copy_model(model, from_files.copy_model(model, empty))

    assert (other / "chapter.txt").read_text() == "one"
    assert (empty / "trained_model.json").is_file()


def test_the_page_of_a_report_does_not_replace_its_json(lvm, tmp_path):
    code, _, err = lvm("evaluate", "--model", tmp_path, "--output", tmp_path / "report.html")

    assert code == 1
    assert "name the JSON file" in err


def test_a_folder_is_refused_as_the_file_of_a_report_before_anything_is_scored(tmp_path):
    with pytest.raises(LvmError, match=r"is a folder; name the JSON file, such as .*results\.json"):
        from_files.evaluate_on(settings_in(tmp_path), tmp_path / "none", data=None, split="validation", output=tmp_path)
