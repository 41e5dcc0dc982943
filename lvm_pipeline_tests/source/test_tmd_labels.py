from dataclasses import replace

import numpy as np
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline.source.schema import MAX_DOMAIN, MAX_MODIFIER, MAX_TASK
from lvm_pipeline.source.tmd_labels import (
    ASSIGNMENT_FILE,
    LABELS,
    METHOD,
    TmdAssignment,
    nearest_codes,
    read_assignment,
    write_assignment,
)


class OneHot:
    """Encodes each description as one direction, beside one that all share."""

    space_id, vector_dim = "one-hot", 64

    def __init__(self):
        self.known = [text for descriptions in LABELS.values() for text in descriptions]

    def encode(self, texts, *, progress=None):
        vectors = np.eye(self.vector_dim)[[self.known.index(text) for text in texts]]
        vectors[:, -1] = 1
        return unit_length(vectors)


def test_a_concept_gets_the_codes_of_the_nearest_descriptions():
    encoder = OneHot()
    chosen = [(3, 16, 12), (15, 1, 5)]
    texts = [[LABELS[kind][code - 1] for kind, code in zip(LABELS, codes, strict=True)] for codes in chosen]
    vectors = unit_length(np.stack([encoder.encode(each).sum(axis=0) for each in texts]))
    assert nearest_codes(vectors, encoder).tolist() == [list(codes) for codes in chosen]


def test_codes_are_in_range_and_none_is_the_code_of_a_failed_assignment():
    vectors = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    codes = nearest_codes(vectors, OneHot())
    assert codes.min() == 1
    assert (codes.max(axis=0) <= [MAX_DOMAIN, MAX_TASK, MAX_MODIFIER]).all()
    assert [len(np.unique(column)) for column in codes.T] == [len(each) for each in LABELS.values()]


def test_vectors_of_another_width_are_refused():
    with pytest.raises(LvmError, match="have 8 numbers and those of one-hot 64"):
        nearest_codes(np.zeros((2, 8), np.float32), OneHot())


def test_an_assignment_is_read_for_its_dataset_source_alone(tmp_path):
    assignment = TmdAssignment(
        dataset_source="a", space_id="s", method=METHOD, labels="1", num_concepts=9, num_without=7, num_assigned=7
    )
    write_assignment(tmp_path, assignment)
    assert read_assignment(tmp_path / "concepts.parquet", "a") == assignment
    assert read_assignment(tmp_path / "concepts.parquet", "b") is None
    assert "7 of 9 concepts were assigned by nearest label description" in assignment.in_words()
    assert assignment.in_words().endswith("so they are a function of the vector")


@pytest.mark.parametrize("content", ['{"dataset_source":', '{"source": "a"}', "[]"])
def test_a_damaged_assignment_is_refused(tmp_path, content):
    (tmp_path / ASSIGNMENT_FILE).write_text(content)

    with pytest.raises(LvmError, match=r"tmd_assignment.json is damaged; delete it, and assign the codes again"):
        read_assignment(tmp_path / "concepts.parquet", "a")


def test_codes_of_earlier_calls_are_counted_too(tmp_path):
    first = TmdAssignment(
        dataset_source="a", space_id="s", method=METHOD, labels="1", num_concepts=9, num_without=7, num_assigned=7
    )
    second = replace(first, num_concepts=12, num_without=3, num_assigned=3)
    path = tmp_path / "concepts.parquet"
    write_assignment(tmp_path, second, earlier=first)
    assert read_assignment(path, "a") == replace(second, num_assigned=10)
    write_assignment(tmp_path, second, earlier=replace(first, labels="2"))
    assert read_assignment(path, "a") == second
