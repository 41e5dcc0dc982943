"""A table to spoil."""

import pytest

from lvm_pipeline_tests.concepts.checked_tables import LENGTHS, with_column
from lvm_pipeline_tests.synthetic import synthetic_table


@pytest.fixture
def table():
    """A table that breaks no invariant at all, warnings included."""
    good = synthetic_table(LENGTHS)
    return with_column(good, "modifier", [1 + row % 63 for row in range(good.num_rows)])
