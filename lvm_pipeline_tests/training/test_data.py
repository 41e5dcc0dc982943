import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.data import Spans, load_training_data
from lvm_pipeline_tests.training.conftest import make_data, open_data


def spans_of(lengths, first_targets):
    lengths = np.array(lengths)
    return Spans(
        first_rows=np.cumsum(lengths + 1) - lengths - 1,
        lengths=lengths,
        first_targets=np.minimum(first_targets, lengths - 1),
    )


@pytest.mark.parametrize("mode", ["windows", "articles"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_scored_targets_are_exactly_those_of_the_sequences(data, split, mode):
    sequences = data.sequences
    expected = sequences.target_rows[sequences.of_split(split)]
    spans = data.scored_spans(split, mode=mode)
    np.testing.assert_array_equal(spans.target_rows(), expected)
    first_rows = np.repeat(spans.first_rows, spans.num_targets)
    if mode == "windows":
        np.testing.assert_array_equal(first_rows, sequences.first_rows[sequences.of_split(split)])
    else:
        assert set(first_rows) <= set(data.articles.first_rows)


def test_articles_give_a_target_at_every_position_but_the_first(data):
    spans = data.article_spans("train")
    is_train = data.article_splits == "train"
    expected = [
        row
        for first, length in zip(data.articles.first_rows[is_train], data.articles.lengths[is_train], strict=True)
        for row in range(first + 1, first + length)
    ]
    np.testing.assert_array_equal(spans.target_rows(), expected)


def test_train_rows_hold_no_other_split(data):
    splits = np.repeat(data.article_splits, data.articles.lengths)
    np.testing.assert_array_equal(data.train_rows(), np.flatnonzero(splits == "train"))


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.integers(0, 9),
    st.integers(1, 20),
)
def test_cut_runs_keep_every_target_and_at_least_half_a_context(lengths, first_target, max_context):
    spans = spans_of(lengths, first_target)
    cut = spans.no_longer_than(max_context)
    np.testing.assert_array_equal(cut.target_rows(), spans.target_rows())
    assert cut.lengths.max() <= max_context
    targets_before = np.repeat(spans.first_rows, spans.num_targets)
    contexts = spans.target_rows() - targets_before
    kept = cut.target_rows() - np.repeat(cut.first_rows, cut.num_targets)
    assert np.all(kept >= np.minimum(contexts, max(1, max_context - max_context // 2)))


@given(st.integers(1, 12), st.integers(1, 14))
def test_the_only_target_of_a_cut_run_keeps_the_longest_context(length, max_context):
    cut = spans_of([length], length - 1).no_longer_than(max_context)
    assert (cut.lengths.tolist(), cut.first_targets.tolist()) == (
        [min(length, max_context)],
        [min(length, max_context) - 1],
    )


def test_short_runs_are_not_cut(data):
    spans = data.article_spans("train")
    assert spans.no_longer_than(None) is spans
    assert spans.no_longer_than(int(spans.lengths.max())) is spans


def test_sequences_of_other_concepts_are_refused(data_dir, tmp_path):
    other = make_data(tmp_path, kind="noise")
    with pytest.raises(LvmError, match="fingerprint"):
        load_training_data(data_dir / "concepts.parquet", other / "sequences.parquet", tmp_path / "vectors")


def test_sequences_across_articles_have_no_article_contexts(tmp_path):
    data = open_data(make_data(tmp_path, boundaries="ignore", split="last_20_percent"))
    with pytest.raises(LvmError, match="use mode windows"):
        data.scored_spans("validation", mode="articles")
    assert len(data.scored_spans("validation", mode="windows"))


def test_unit_length_is_seen_in_the_vectors(data):
    assert data.is_of_unit_length
