import numpy as np
import pyarrow as pa

from lvm_pipeline.concepts.store import read_texts, texts_at
from lvm_pipeline_tests.synthetic import synthetic_table, write_table


def test_texts_of_some_rows_are_read_in_their_order(tmp_path):
    table = synthetic_table([6, 5])
    path = write_table(table, tmp_path / "concepts.parquet")

    assert read_texts(path, np.array([7, 0])) == [table["concept_text"][7].as_py(), table["concept_text"][0].as_py()]


def test_texts_are_read_from_a_column_of_over_two_gigabytes():
    chunk = pa.array([str(digit) * 100_000_000 for digit in range(3)])
    column = pa.chunked_array([chunk] * 8 + [pa.array([None, "last"])])

    found = texts_at(column, np.array([24, 25, 22]))

    assert found[:2] == ["", "last"]
    assert (len(found[2]), found[2][0]) == (100_000_000, "1")
