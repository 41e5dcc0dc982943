"""Wherever vectors, models and tables meet, their spaces are compared; two that only share a width never join (F6)."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.exchange.data_file import tables_from_file
from lvm_pipeline.exchange.npz_export import export_npz
from lvm_pipeline.exchange.npz_import import import_concepts_npz, import_sequences_npz
from lvm_pipeline.experiments.selection import select_champion
from lvm_pipeline.lineage.space_encoder import space_encoder
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.encoders.lsa import fit_lsa
from lvm_pipeline.source.encoders.registry import encoder_of_space, remember_encoder
from lvm_pipeline.source.load import ingest
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.rescore import rescore
from lvm_pipeline_tests.concepts.memory_source import MemorySource, source_rows
from lvm_pipeline_tests.evaluation.products import make_products
from lvm_pipeline_tests.source.memory_table import MemoryTable
from lvm_pipeline_tests.synthetic import synthetic_table, write_table
from lvm_pipeline_tests.training.test_loop import Recorder

ONE_SPACE, OTHER_SPACE = "synthetic", "gtr-t5-base/mean/no-dense/l2@0123456789ab"


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    return make_products(tmp_path_factory.mktemp("spaces"))


@pytest.fixture(scope="module")
def model_dir(products):
    return products.train("model")


@pytest.fixture
def moved(products, tmp_path):
    """The very same tables, said to be of another space."""
    copied = dataclasses.replace(products, folder=tmp_path / "moved")
    copied.folder.mkdir()
    shutil.copy(products.sequences_path, copied.sequences_path)
    say_space(products.concepts_path, copied.concepts_path, OTHER_SPACE)
    return copied


def say_space(path, changed, space_id):
    metadata = dataclasses.replace(read_concepts_metadata(path), space_id=space_id)
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata.as_parquet_metadata()), changed)
    return changed


def parquet_of(path, *, space_id, article_id="a"):
    """A Parquet file of twelve concepts with vectors, as `lvm ingest` takes it."""
    vectors = np.random.default_rng(len(article_id)).standard_normal((12, 8)).astype(np.float32)
    rows = [
        {"article_id": article_id, "position": i, "concept_text": f"{article_id} {i}", "vector": vector.tolist()}
        for i, vector in enumerate(vectors)
    ]
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata({"space_id": space_id}), path)
    return path


@pytest.fixture
def file(tmp_path):
    return parquet_of(tmp_path / "given.parquet", space_id=ONE_SPACE)


def test_a_named_encoder_is_not_taken_for_a_space_that_the_concepts_do_not_have(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path, encoder="some-model")
    table = synthetic_table([8] * 4)
    write_table(table, settings.concepts_path, space_id=ONE_SPACE)
    vectors = dict(zip(table["concept_text"].to_pylist(), table["vector"].to_pylist(), strict=True))

    class Reproducing:
        space_id = ONE_SPACE

        def encode(self, texts):
            return np.array([vectors[text] for text in texts], np.float32)

    monkeypatch.setattr("lvm_pipeline.source.encoders.registry.encoder_named", lambda *_, **__: Reproducing())

    assert isinstance(space_encoder(settings, ONE_SPACE), Reproducing)
    assert space_encoder(settings, OTHER_SPACE) is None


def test_ingest_refuses_a_name_that_contradicts_the_file(file, tmp_path):
    with pytest.raises(LvmError, match=f"of the space {ONE_SPACE}, not {OTHER_SPACE}"):
        ingest(file, MemoryTable(), settings=Settings(home=tmp_path), space_id=OTHER_SPACE)


def test_ingest_refuses_a_table_that_holds_another_space(file, tmp_path):
    table, settings = MemoryTable(), Settings(home=tmp_path)
    ingest(file, table, settings=settings)
    other = parquet_of(tmp_path / "other.parquet", space_id=OTHER_SPACE, article_id="another")

    with pytest.raises(LvmError, match="cannot be mixed"):
        ingest(other, table, settings=settings)


def test_extraction_refuses_a_mixture_and_a_setting_that_contradicts_the_table(tmp_path):
    for counts, wanted in (({ONE_SPACE: 6, OTHER_SPACE: 6}, None), ({ONE_SPACE: 12}, OTHER_SPACE)):
        source = MemorySource(source_rows([6, 6]), space_counts=counts)
        extraction = extract_concepts(
            source, options=ExtractOptions(space_id=wanted), staged_path=tmp_path / "concepts.parquet"
        )
        (finding,) = [finding for finding in extraction.findings if not finding.passed]
        assert (finding.name, finding.outcome) == ("vectors_match_their_space", "failed")
        assert extraction.path is None


def test_given_tables_are_refused_under_another_name(products, tmp_path):
    for path in (products.concepts_path, products.sequences_path):
        with pytest.raises(LvmError, match=f"of the space {ONE_SPACE}, not {OTHER_SPACE}"):
            tables_from_file(path, work_dir=tmp_path / "work", space_id=OTHER_SPACE)
    assert tables_from_file(products.sequences_path, work_dir=tmp_path / "work", space_id=ONE_SPACE)


def test_exchange_files_are_refused_under_another_name(products, tmp_path):
    files = export_npz(products.concepts_path, products.sequences_path, tmp_path / "npz")
    staged = {name: tmp_path / f"{name}.parquet" for name in ("concepts", "sequences")}
    imports = {
        "context_sequences": lambda path: import_sequences_npz(path, *staged.values(), space_id=OTHER_SPACE),
        "concept_texts": lambda path: import_concepts_npz(path, staged["concepts"], space_id=OTHER_SPACE),
    }
    for path in (path for path in files if path.suffix == ".npz"):
        with np.load(path) as arrays:
            (import_file,) = (function for name, function in imports.items() if name in arrays)
        with pytest.raises(LvmError, match=f"of the space {ONE_SPACE}, not {OTHER_SPACE}"):
            import_file(path)


def test_a_model_is_not_evaluated_nor_scored_again_in_another_space(moved, model_dir):
    for score in (lambda: moved.evaluate(model_dir), lambda: rescore(model_dir, **moved.paths)):
        with pytest.raises(LvmError, match=f"of space {ONE_SPACE}, not {OTHER_SPACE}"):
            score()


def test_a_checkpoint_of_another_space_is_set_aside(products, moved, tmp_path):
    """A training that was stopped part-way leaves a checkpoint; the same on another space begins anew."""
    checkpoint_of_stopped_training(products, tmp_path)

    assert resumed(products, tmp_path) == "true"
    checkpoint_of_stopped_training(products, tmp_path)
    assert resumed(moved, tmp_path) == "false"


def config():
    model = {"hidden_dim": 16, "num_layers": 1}
    return TrainingConfig(preset="smoke", epochs=2, num_threads=1, mode="windows", checkpoint_seconds=0, model=model)


def checkpoint_of_stopped_training(products, folder):
    def stop(report):
        if report.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(), products.data(), output_dir=folder / "model", progress=stop)


def resumed(products, folder):
    tracker = Recorder()
    train(config(), products.data(), output_dir=folder / "model", tracker=tracker)
    return tracker.tags["is_resumed"]


def test_a_champion_of_another_space_is_reported_and_the_baseline_decides(moved, model_dir):
    challenger = moved.train("challenger")

    selection = select_champion(
        {"lstm": challenger}, incumbent_dir=model_dir, **moved.paths, device="cpu", num_threads=1
    )

    assert f"of space {ONE_SPACE}, not {OTHER_SPACE}" in selection.decision.reason
    assert "best baseline" in selection.decision.reason


def test_undeclared_spaces_are_not_assumed_equal(products, tmp_path):
    """Both are called undeclared-16, which says nothing but the width."""
    first, second = (make_products(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    for each in (first, second):
        say_space(each.concepts_path, each.concepts_path, "undeclared-16")
    incumbent, challenger = first.train("incumbent"), second.train("challenger")

    selection = select_champion(
        {"lstm": challenger}, incumbent_dir=incumbent, **second.paths, device="cpu", num_threads=1
    )

    assert "The vectors' encoder is not declared" in selection.decision.reason
    assert first.evaluate(incumbent).space_id == "undeclared-16"  # with the very concepts of its training it may be


def test_an_encoder_that_changed_under_its_name_is_not_used(tmp_path):
    """A fitted encoder whose files were replaced is no longer that of its space."""
    one, other = (fit_lsa([f"{word} number {i} and so on" for i in range(20)]) for word in ("apples", "pears"))
    remember_encoder(one, encoders_dir=tmp_path)
    assert encoder_of_space(one.space_id, encoders_dir=tmp_path).space_id == one.space_id

    other.save(tmp_path / one.space_id)

    assert json.loads((tmp_path / one.space_id / "lsa.json").read_text())["space_id"] == other.space_id
    assert encoder_of_space(one.space_id, encoders_dir=tmp_path) is None
