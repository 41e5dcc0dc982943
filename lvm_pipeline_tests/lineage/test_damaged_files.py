"""A damaged file of a home is named, with what to do."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.concepts.store import read_vectors
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.data import reported_findings
from lvm_pipeline.lineage.week_five import read_week_5
from lvm_pipeline.settings import Settings
from lvm_pipeline.training.invariants import read_findings
from lvm_pipeline.training.trained_model import read_trained_model_info
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences

READERS = {
    "reports/verification.json": reported_findings,
    "plan/week_5.json": lambda settings: read_week_5(settings, {}),
    "tracking.json": lambda settings: lineage.read_tracking(settings.home),
    "findings.json": lambda settings: read_findings(settings.home),
    "trained_model.json": lambda settings: read_trained_model_info(settings.home),
}
REMEDIES = {"trained_model.json": "train the model again"}


@pytest.mark.parametrize("content", ['{"cut', "3", b"\xff"])
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named(tmp_path, name, content):
    settings = Settings(home=tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LvmError, match=rf"cannot be read \(.*; {REMEDIES.get(name, 'delete it')}") as error:
        READERS[name](settings)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("has_sequences", [True, False])
def test_a_promoted_concept_without_a_vector_is_named_by_the_command_of_the_message(tmp_path, has_sequences):
    settings = Settings(home=tmp_path)
    write_synthetic_concepts(settings.concepts_path, article_lengths=[12] * 30)
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path)
    table = pq.read_table(settings.concepts_path)
    vectors = table["vector"].to_pylist()
    vectors[5] = None
    index = table.schema.get_field_index("vector")
    harmed = table.set_column(index, "vector", pa.array(vectors, pa.list_(pa.float32())))
    pq.write_table(harmed.replace_schema_metadata(table.schema.metadata), settings.concepts_path)
    if not has_sequences:
        settings.sequences_path.unlink()
    with pytest.raises(LvmError, match="1 concept has no vector; run `lvm verify --products` to see which"):
        read_vectors(settings.concepts_path)

    verification = lineage.verify_all_products(settings)

    assert not verification.passed
    messages = {finding.name: finding.message for finding in verification.findings}
    assert table["cpe_id"][5].as_py() in messages["every_concept_has_a_vector"]
    assert messages["window_count_is_exact"].endswith("the concepts fail a blocking check")
