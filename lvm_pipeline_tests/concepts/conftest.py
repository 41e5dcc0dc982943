"""A table to spoil."""

import pytest

from lvm_pipeline_tests.concepts.checked_tables import LENGTHS
from lvm_pipeline_tests.synthetic import synthetic_table
from lvm_pipeline_tests.worded import with_columns


@pytest.fixture
def table():
    """A table that breaks no invariant at all, warnings included."""
    good = synthetic_table(LENGTHS)
    return with_columns(good, modifier=[1 + row % 63 for row in range(good.num_rows)])
