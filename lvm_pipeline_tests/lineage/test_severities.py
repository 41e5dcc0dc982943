"""The setting `severities` turns single checks into warnings or errors, and a failed one says so."""

import pytest

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.data import check_staged_concepts
from lvm_pipeline.lineage.invariants import with_set_severities
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.synthetic import write_table
from lvm_pipeline_tests.worded import rotated, vector_column, vectors_in, with_columns, worded_table


@pytest.fixture
def path(tmp_path):
    """Concepts whose vectors do not belong to their texts."""
    table = worded_table([30] * 40)
    harmed = with_columns(table, vector=vector_column(rotated(vectors_in(table)[::-1])))
    return write_table(harmed, tmp_path / "concepts.parquet")


def finding_of(path, tmp_path, **values):
    found = check_staged_concepts(Settings(home=tmp_path, **values), path, read_concepts_metadata(path))
    (finding,) = (each for each in found if each.name == "vectors_go_with_their_texts")
    return finding


def test_a_blocking_check_warns_if_it_is_set_to(path, tmp_path):
    assert finding_of(path, tmp_path).outcome == "failed"

    finding = finding_of(
        path, tmp_path, severities="vectors_go_with_their_texts = warning, cpe_ids_are_unique=blocking"
    )

    assert finding.outcome == "warning"
    assert finding.message.endswith("(severity set to warning)")
    assert finding.details["severity_set_to"] == "warning"


def test_names_and_severities_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(LvmError, match="did you mean vectors_go_with_their_texts"):
        with_set_severities(Settings(home=tmp_path, severities="vectors_go_with_text=warning"), [])
    with pytest.raises(LvmError, match="set it to `warning` or `blocking`"):
        with_set_severities(Settings(home=tmp_path, severities="cpe_ids_are_unique=off"), [])
