"""Values of optional columns: read as they are meant, or refused with the name of the concept."""

import datetime

import pyarrow as pa
import pytest

from lvm_pipeline.adapters.optional_columns import parse_times
from lvm_pipeline.errors import LvmError


def times_of(text):
    return parse_times(pa.array([text]), cpe_ids=pa.array(["c-1"]), name="e.created_at").to_pylist()


@pytest.mark.parametrize("text", ["2025-01-31 12:00:00", "2025-01-31T13:00+01:00", " 2025-01-31 12:00Z "])
def test_a_time_that_is_text_is_read(text):
    assert times_of(text) == [datetime.datetime(2025, 1, 31, 12, tzinfo=datetime.UTC)]


@pytest.mark.parametrize("text", ["soon", "0001-01-01T00:00+14:00", "9999-12-31T23:59-12:00"])
def test_a_text_that_is_no_time_or_beyond_the_calendar_is_refused(text):
    with pytest.raises(LvmError, match=r"e\.created_at of concept c-1 is .* and not a time"):
        times_of(text)
