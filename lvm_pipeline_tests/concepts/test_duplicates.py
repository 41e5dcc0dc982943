import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.concepts.duplicates import DuplicateFilter

ROWS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", "", " ", None]), st.integers(0, 5)), max_size=25)


def plain_filter(rows):
    """Keep a row when no kept one before it has its text (unless empty) or its vector."""
    kept, dropped = [], []
    for number, (text, vector) in enumerate(rows):
        same_text = next((k for k in kept if (text or "").strip() and rows[k][0] == text), None)
        same_vector = next((k for k in kept if rows[k][1] == vector), None)
        if same_text is None and same_vector is None:
            kept.append(number)
        else:
            earlier, reason = (same_text, "same text") if same_text is not None else (same_vector, "same vector")
            dropped.append({"cpe_id": f"c{number}", "kept_cpe_id": f"c{earlier}", "reason": reason})
    return kept, dropped


@given(ROWS, st.integers(1, 7))
def test_the_first_of_each_text_and_vector_is_kept_however_the_rows_come(rows, size):
    duplicates = DuplicateFilter()
    kept = []
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        ids = pa.array([f"c{number}" for number in range(start, start + len(piece))], pa.string())
        vectors = np.array([[vector, 1] for _, vector in piece], np.float32)
        kept += (start + np.flatnonzero(duplicates.keep(ids, [text for text, _ in piece], vectors))).tolist()

    assert (kept, duplicates.dropped) == plain_filter(rows)
