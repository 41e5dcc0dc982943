"""Rows that are rotated once give the same summaries as rows that are rotated for every block."""

import numpy as np
import pytest

from lvm_pipeline.measures.eigenbasis import context_summaries, eigenbasis, rotated_spans
from lvm_pipeline_tests.measures.processes import targets_of_process

DECAYS = np.array([0.0, 0.5, 1.0], np.float32)


@pytest.mark.parametrize("context_mode", ["windows", "articles"])
def test_summaries_of_rotated_rows_are_those_of_the_table(context_mode):
    targets = targets_of_process("random_walk", lengths=(12, 7, 9, 20) * 4, context_mode=context_mode)
    chosen = targets.train.part(np.arange(len(targets.train)) % 3 > 0)  # with gaps between and inside articles
    basis = eigenbasis(targets.vectors, targets.train_rows)

    found = rotated_spans(targets.vectors, chosen.first_rows, chosen.target_rows, basis)
    firsts, ends = found.indices(chosen.first_rows), found.indices(chosen.target_rows)

    summaries = context_summaries(found.vectors, firsts, ends, None, DECAYS)
    expected = context_summaries(targets.vectors, chosen.first_rows, chosen.target_rows, basis, DECAYS)
    np.testing.assert_allclose(summaries, expected, atol=1e-5)
    np.testing.assert_allclose(found.vectors[ends], targets.vectors[chosen.target_rows] @ basis, atol=1e-5)
    lasts = targets.vectors[chosen.target_rows - 1] @ basis
    np.testing.assert_allclose(summaries[0], lasts, atol=1e-5)  # decay 0 is the last concept
