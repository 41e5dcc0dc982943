import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Severity, blocking_failures
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences, sequences_summary
from lvm_pipeline.sequences.schema import SEQUENCES_SCHEMA, read_sequences, read_sequences_metadata
from lvm_pipeline.source.split_hash import split_of
from lvm_pipeline_tests.synthetic import (
    synthetic_table,
    write_synthetic_concepts,
    write_synthetic_sequences,
    write_table,
)
from lvm_pipeline_tests.worded import with_columns

LENGTHS = [8, 3, 9, 12, 7, 6, 5, 10]
NUM_WINDOWS = sum(max(0, n - 5) for n in LENGTHS)


@pytest.fixture
def concepts_path(tmp_path):
    return write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=LENGTHS, kind="noise")


@pytest.fixture
def sequences_path(tmp_path):
    return tmp_path / "sequences.parquet"


def article_ids(concepts_path):
    return list(dict.fromkeys(pq.read_table(concepts_path, columns=["article_id"])["article_id"].to_pylist()))


def test_the_table_holds_row_numbers_of_whole_windows(concepts_path, sequences_path):
    write_synthetic_sequences(concepts_path, sequences_path)
    table = pq.read_table(sequences_path)
    assert table.schema.equals(SEQUENCES_SCHEMA, check_metadata=False)
    table = table.filter(table["first_row"].is_valid())
    assert table.num_rows == NUM_WINDOWS
    articles = pq.read_table(concepts_path, columns=["article_id"])["article_id"].to_pylist()
    for sequence in table.to_pylist():
        assert sequence["target_row"] == sequence["first_row"] + 5
        assert {*articles[sequence["first_row"] : sequence["target_row"] + 1]} == {sequence["article_id"]}


def test_articles_are_split_by_the_hash_that_the_source_uses(concepts_path, sequences_path):
    write_synthetic_sequences(concepts_path, sequences_path, split_seed=12, train_fraction=0.5, validation_fraction=0.3)
    sequences = read_sequences(sequences_path)
    expected = {
        article_id: split_of(article_id, seed=12, train_fraction=0.5, validation_fraction=0.3)
        for article_id in read_sequences(sequences_path).article_splits
    }
    assert len(expected) == len(LENGTHS)
    assert sequences.article_splits == expected
    assert [expected[a] for a in sequences.article_ids.tolist()] == sequences.splits.tolist()
    assert (sequences.metadata.split_rule, sequences.metadata.split_seed) == ("seeded_hash", 12)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=8), st.integers(1, 6))
def test_every_table_that_can_be_cut_passes_every_invariant(tmp_path_factory, lengths, context_length):
    folder = tmp_path_factory.mktemp("build")
    concepts_path = write_synthetic_concepts(folder / "c.parquet", article_lengths=lengths, kind="noise", vector_dim=16)
    options = SequenceOptions(context_length=context_length, train_fraction=0.5, validation_fraction=0.5)
    num_windows = [max(0, n - context_length) for n in lengths]
    try:
        findings = build_sequences(concepts_path, folder / "s.parquet", options=options)
    except LvmError:  # too short, or too few articles to fill both splits
        event("refused")
        splits = [split_of(i, seed=0, train_fraction=0.5, validation_fraction=0.5) for i in article_ids(concepts_path)]
        filled = {split for split, windows in zip(splits, num_windows, strict=True) if windows}
        assert filled != {"train", "validation"}
        return
    assert not blocking_failures(findings)
    assert read_sequences_metadata(folder / "s.parquet").num_sequences == sum(
        max(0, n - context_length) for n in lengths
    )


def test_counts_of_each_split_add_up(concepts_path, sequences_path):
    write_synthetic_sequences(concepts_path, sequences_path)
    summary = sequences_summary(concepts_path, sequences_path)
    splits = summary["splits"].values()
    assert sum(split["num_articles"] for split in splits) == len(LENGTHS)
    assert sum(split["num_concepts"] for split in splits) == sum(LENGTHS)
    assert sum(split["num_sequences"] for split in splits) == NUM_WINDOWS
    assert summary["num_windows"] == summary["num_expected_windows"] == NUM_WINDOWS
    assert summary["num_articles_without_window"] == 2
    assert not summary["is_leaking"]
    json.dumps(summary, allow_nan=False)


def test_articles_with_near_duplicates_share_a_split(tmp_path, sequences_path):
    table = synthetic_table([8] * 30, kind="noise")
    texts = table["concept_text"].to_pylist()
    texts[8 * 3 + 2] = f"  {texts[8 * 20].upper()}!"
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 32).copy()
    vectors[8 * 7 + 1] = vectors[8 * 25 + 4] + np.float32(0.004)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=table.schema.field("vector").type)
    concepts_path = write_table(with_columns(table, concept_text=texts, vector=flat), tmp_path / "c.parquet")
    ids = article_ids(concepts_path)
    pairs = [(ids[3], ids[20]), (ids[7], ids[25])]

    for seed in range(5):
        write_synthetic_sequences(
            concepts_path, sequences_path, split_seed=seed, train_fraction=0.4, validation_fraction=0.3
        )
        metadata = read_sequences_metadata(sequences_path)
        assert sorted(map(sorted, metadata.near_duplicate_groups)) == sorted(map(sorted, pairs))
        splits = read_sequences(sequences_path).article_splits
        for first, second in pairs:
            assert splits[first] == splits[second]


@pytest.mark.parametrize("form", ["{0}\n{1}", "\ufeff{0}\r\n\r\n{1}\r\n", "\ufeff# held out\n  {1} \n{0}\n{0}\n"])
def test_listed_articles_are_validation(concepts_path, sequences_path, tmp_path, form):
    write_synthetic_sequences(concepts_path, sequences_path)
    listed = list(read_sequences(sequences_path).article_splits)[2:4]
    (tmp_path / "list.txt").write_bytes(form.format(*listed).encode())

    findings = build_sequences(
        concepts_path, sequences_path, options=SequenceOptions(validation_articles=tmp_path / "list.txt")
    )

    sequences = read_sequences(sequences_path)
    assert set(sequences.article_ids[sequences.splits == "validation"]) == set(listed)
    assert "test" not in sequences.splits
    assert sequences.metadata.split_rule == "validation_articles"
    assert sequences.metadata.split_seed is None
    assert not sequences.metadata.is_leaking
    assert not blocking_failures(findings)


def test_the_compatibility_mode_has_the_requested_numbers_and_says_that_it_leaks(concepts_path, sequences_path):
    findings = build_sequences(
        concepts_path, sequences_path, options=SequenceOptions(boundaries="ignore", split="last_20_percent")
    )
    sequences = read_sequences(sequences_path)
    expected = sum(LENGTHS) - 5
    assert len(sequences.first_rows) == expected
    assert sequences.splits.tolist() == ["train"] * (expected - expected // 5) + ["validation"] * (expected // 5)
    assert sequences.metadata.is_leaking
    assert "cross article boundaries" in str(sequences.metadata.leak_reason)
    failed = {finding.name: finding.severity for finding in findings if not finding.passed}
    assert failed["windows_stay_inside_articles"] is Severity.WARNING
    assert failed["sequences_do_not_leak"] is Severity.WARNING
    assert not blocking_failures(findings)


@pytest.mark.parametrize("options", [{"boundaries": "ignore"}, {"split": "last_20_percent"}])
def test_either_half_of_the_compatibility_mode_leaks(concepts_path, sequences_path, options):
    build_sequences(concepts_path, sequences_path, options=SequenceOptions(split_seed=0, **options))
    metadata = read_sequences_metadata(sequences_path)
    assert metadata.is_leaking
    assert metadata.leak_reason


@pytest.fixture
def many_concepts_path(tmp_path):
    return write_synthetic_concepts(tmp_path / "many.parquet", article_lengths=[8] * 40, kind="noise")


def test_the_fingerprint_follows_rows_splits_and_concepts(many_concepts_path, tmp_path):
    def fingerprint(path=many_concepts_path, **options):
        out = write_synthetic_sequences(path, tmp_path / "out.parquet", **{"split_seed": 0, **options})
        return read_sequences_metadata(out).fingerprint

    other = write_synthetic_concepts(tmp_path / "other.parquet", article_lengths=[8] * 40, kind="noise", seed=1)
    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(split_seed=6), fingerprint(context_length=4), fingerprint(other)}) == 4


def test_each_option_changes_what_is_built(many_concepts_path, tmp_path):
    concepts_path = many_concepts_path
    first = read_sequences_metadata(write_synthetic_sequences(concepts_path, tmp_path / "a.parquet", split_seed=0))
    article_splits = read_sequences(tmp_path / "a.parquet").article_splits
    listed = tmp_path / "list.txt"
    listed.write_text(next(iter(article_splits)))
    for change in (
        {"context_length": 4},
        {"split_seed": 6},
        {"train_fraction": 0.5},
        {"validation_fraction": 0.15},
        {"validation_articles": listed},
        {"boundaries": "ignore"},
        {"split": "last_20_percent"},
    ):
        options = {"split_seed": 0, **change}
        changed = read_sequences_metadata(write_synthetic_sequences(concepts_path, tmp_path / "b.parquet", **options))
        assert changed != first, change


def test_one_article_cannot_be_split(tmp_path, sequences_path):
    concepts_path = write_synthetic_concepts(tmp_path / "c.parquet", article_lengths=[40])
    with pytest.raises(LvmError, match=r"holds 1 article,.* load more articles"):
        build_sequences(concepts_path, sequences_path, options=SequenceOptions())
    assert not sequences_path.exists()


def test_if_all_articles_are_too_short_the_longest_is_named(tmp_path, sequences_path):
    concepts_path = write_synthetic_concepts(tmp_path / "c.parquet", article_lengths=[3, 5, 1])
    with pytest.raises(LvmError, match=r"needs 6 concepts, and the longest of the 3 articles has 5"):
        build_sequences(concepts_path, sequences_path, options=SequenceOptions())


def test_an_empty_split_is_refused_with_a_seed_that_works(tmp_path, sequences_path):
    concepts_path = write_synthetic_concepts(tmp_path / "c.parquet", article_lengths=[9] * 6, kind="noise")
    for seed in range(40):
        try:
            build_sequences(concepts_path, sequences_path, options=SequenceOptions(split_seed=seed))
        except LvmError as error:
            advised = int(str(error).partition("LVM_SPLIT_SEED=")[2].partition(",")[0])
            findings = build_sequences(concepts_path, sequences_path, options=SequenceOptions(split_seed=advised))
            assert not blocking_failures(findings)
            return
    raise AssertionError("no seed left a split empty")


def test_too_few_windows_for_a_last_fifth_are_refused(tmp_path, sequences_path):
    concepts_path = write_synthetic_concepts(tmp_path / "c.parquet", article_lengths=[9], kind="noise")
    with pytest.raises(LvmError, match=r"validation split would be empty .*; load more articles\.$"):
        build_sequences(concepts_path, sequences_path, options=SequenceOptions(split="last_20_percent"))


def test_an_empty_split_that_no_seed_fills_is_refused_in_whole_words(tmp_path, sequences_path):
    concepts_path = write_synthetic_concepts(tmp_path / "c.parquet", article_lengths=[9, 2], kind="noise")
    with pytest.raises(LvmError, match=r"; load more articles, or .* or LVM_VALIDATION_ARTICLES\.$"):
        build_sequences(concepts_path, sequences_path, options=SequenceOptions())


def test_near_duplicates_that_join_all_articles_are_named_as_the_cause_of_an_empty_split(tmp_path, sequences_path):
    table = synthetic_table([12] * 100, kind="noise")
    texts = table["concept_text"].to_pylist()
    for article in range(100):
        texts[12 * article] = f"This article is a stub{'!' * article}"
    concepts_path = write_table(with_columns(table, concept_text=texts), tmp_path / "c.parquet")

    with pytest.raises(LvmError, match=r"join 100 of 100 articles to one group.*; delete the text") as error:
        build_sequences(concepts_path, sequences_path, options=SequenceOptions())

    assert "load more articles" not in str(error.value)
    rows = re.search(r"such as rows (\d+) and (\d+),", str(error.value))
    assert rows is not None
    assert all("This article is a stub" in texts[int(row)] for row in rows.groups())


def test_a_list_that_leaves_no_train_article_is_refused(concepts_path, sequences_path, tmp_path):
    write_synthetic_sequences(concepts_path, tmp_path / "s.parquet")
    (tmp_path / "list.txt").write_text("\n".join(read_sequences(tmp_path / "s.parquet").article_splits))
    with pytest.raises(LvmError, match="train split would be empty"):
        build_sequences(
            concepts_path, sequences_path, options=SequenceOptions(validation_articles=tmp_path / "list.txt")
        )


def test_fractions_above_one_are_refused(concepts_path, sequences_path):
    with pytest.raises(LvmError, match="LVM_TRAIN_FRACTION"):
        build_sequences(
            concepts_path, sequences_path, options=SequenceOptions(train_fraction=0.9, validation_fraction=0.2)
        )


def test_an_article_in_two_runs_is_refused(tmp_path, sequences_path):
    table = synthetic_table([8, 8, 8], kind="noise")
    ids = table["article_id"].to_pylist()
    concepts_path = write_table(with_columns(table, article_id=ids[:20] + ids[:4]), tmp_path / "c.parquet")
    with pytest.raises(LvmError, match="two runs"):
        build_sequences(concepts_path, sequences_path, options=SequenceOptions())


def test_a_failed_build_leaves_the_earlier_table_untouched(concepts_path, sequences_path, tmp_path):
    write_synthetic_sequences(concepts_path, sequences_path)
    before = sequences_path.read_bytes()
    one = write_synthetic_concepts(tmp_path / "one.parquet", article_lengths=[40])
    with pytest.raises(LvmError):
        build_sequences(one, sequences_path, options=SequenceOptions())
    assert sequences_path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("harm", [lambda data: data[: len(data) // 2], lambda data: b"nothing", lambda data: b""])
def test_a_corrupt_concept_table_is_reported(concepts_path, sequences_path, harm):
    concepts_path.write_bytes(harm(concepts_path.read_bytes()))
    with pytest.raises(LvmError, match="cannot be read as Parquet"):
        build_sequences(concepts_path, sequences_path, options=SequenceOptions())


def test_a_missing_vector_is_reported(tmp_path, sequences_path):
    table = synthetic_table([8, 8, 8], kind="noise")
    column = table["vector"].combine_chunks()
    missing = pa.array([None if row == 5 else column[row].as_py() for row in range(24)], type=column.type)
    concepts_path = write_table(with_columns(table, vector=missing), tmp_path / "c.parquet")
    with pytest.raises(LvmError, match="cannot be read as Parquet"):
        build_sequences(concepts_path, sequences_path, options=SequenceOptions())


def test_real_concepts_give_the_known_numbers(wikipedia_concepts, validation_articles, tmp_path):
    """With --wikipedia-concepts and --validation-articles: 217 articles, 17,751 windows, 2,596 for validation."""
    source = pq.read_table(wikipedia_concepts, columns=["cpe_id", "article_id", "position", "concept_text", "vector"])
    vectors = source["vector"].combine_chunks().flatten().to_numpy().astype(np.float32)
    table = synthetic_table([source.num_rows], vector_dim=768)
    indices = source["article_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    table = with_columns(
        table,
        **{name: source[name].combine_chunks() for name in ("cpe_id", "article_id", "position", "concept_text")},
        article_index=indices,
        vector=pa.FixedSizeListArray.from_arrays(pa.array(vectors), type=table.schema.field("vector").type),
    )
    concepts_path = write_table(table, tmp_path / "c.parquet")

    findings = build_sequences(
        concepts_path, tmp_path / "s.parquet", options=SequenceOptions(validation_articles=validation_articles)
    )

    summary = sequences_summary(concepts_path, tmp_path / "s.parquet")
    assert not blocking_failures(findings)
    assert summary["num_windows"] == summary["num_expected_windows"] == 17_751
    assert summary["splits"]["validation"] == {"num_articles": 34, "num_concepts": 2_764, "num_sequences": 2_596}
    assert read_concepts_metadata(concepts_path).num_articles == 217


def test_two_rules_for_the_validation_split_are_refused(tmp_path):
    with pytest.raises(LvmError, match="unset it, or LVM_VALIDATION_ARTICLES"):
        SequenceOptions(split="last_20_percent", validation_articles=tmp_path / "articles.txt")


def test_one_very_long_article_id_costs_no_memory_for_the_other_sequences(tmp_path):
    table = synthetic_table(LENGTHS)
    first, long = table["article_id"][0].as_py(), "0" * 100_000  # sorts first, as the id that it replaces
    ids = [long if each == first else each for each in table["article_id"].to_pylist()]
    write_table(with_columns(table, article_id=ids), tmp_path / "concepts.parquet")
    write_synthetic_sequences(tmp_path / "concepts.parquet", tmp_path / "sequences.parquet")
    sequences = read_sequences(tmp_path / "sequences.parquet")
    assert sequences.article_ids.nbytes < 100 * NUM_WINDOWS
    assert sequences.article_ids.tolist().count(long) == LENGTHS[0] - 5
