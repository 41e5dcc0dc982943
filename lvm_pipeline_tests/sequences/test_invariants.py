"""Each fault is put into a file and must be found there, whoever wrote it."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Severity
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences
from lvm_pipeline.sequences.invariants import check_sequences
from lvm_pipeline.sequences.schema import SEQUENCES_SCHEMA, read_sequences
from lvm_pipeline.source.encoders import lsa
from lvm_pipeline.source.split_hash import split_of
from lvm_pipeline_tests.synthetic import (
    synthetic_table,
    write_synthetic_concepts,
    write_synthetic_sequences,
    write_table,
)

LENGTHS = [9, 3, 12, 7, 8, 10, 6, 9, 11, 8]


@pytest.fixture
def paths(tmp_path):
    concepts_path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=LENGTHS, kind="noise")
    return concepts_path, write_synthetic_sequences(concepts_path, tmp_path / "sequences.parquet")


def change(path, *, metadata=None, alone=None, **columns):
    """Rewrite a sequence table with columns, metadata or splits of articles alone replaced by a function of theirs."""
    table = pq.read_table(path)
    stored = json.loads(table.schema.metadata[b"lvm"])
    values = table.filter(table["first_row"].is_valid()).to_pydict()
    own = table.filter(table["first_row"].is_null()).to_pydict()
    of_articles = dict(zip(own["article_id"], own["split"], strict=True))
    for name, function in columns.items():
        values[name] = function(values[name])
    if metadata:
        metadata(stored)
    if alone:
        alone(of_articles)
    rows = [pa.table(values, schema=SEQUENCES_SCHEMA)]
    rows += [
        pa.table([[*of_articles], nulls, nulls, [*of_articles.values()]], schema=SEQUENCES_SCHEMA)
        for nulls in [[None] * len(of_articles)]
    ]
    pq.write_table(pa.concat_tables(rows).replace_schema_metadata({b"lvm": json.dumps(stored)}), path)
    return values


def num_sequences(path):
    return pq.read_table(path)["first_row"].drop_null().length()


def keep(path, indices):
    change(path, **{name: lambda values: [values[i] for i in indices] for name in SEQUENCES_SCHEMA.names})


def failed(paths):
    return {finding.name: finding for finding in check_sequences(*paths) if not finding.passed}


def test_unharmed_sequences_pass(paths):
    findings = check_sequences(*paths, min_articles=1, min_sequences=1)
    assert [finding.name for finding in findings] == [
        "windows_stay_inside_articles",
        "window_count_is_exact",
        "articles_are_in_one_split",
        "no_near_duplicate_across_splits",
        "every_split_has_sequences",
        "splits_have_their_share",
        "sequences_do_not_leak",
    ]
    assert all(finding.passed for finding in findings)
    json.dumps([finding.as_json() for finding in findings], allow_nan=False)


def test_a_window_moved_across_a_boundary_is_named(paths):
    before = pq.read_table(paths[1]).to_pydict()
    last = before["article_id"].index(before["article_id"][-1]) - 1  # the last window of the article before
    shift = lambda rows: [row + (index == last) for index, row in enumerate(rows)]  # noqa: E731
    change(paths[1], first_row=shift, target_row=shift)

    finding = failed(paths)["windows_stay_inside_articles"]

    assert finding.severity is Severity.BLOCKING
    assert finding.observed == 1
    window = {
        "sequence": last,
        "first_row": before["first_row"][last] + 1,
        "target_row": before["target_row"][last] + 1,
    }
    assert finding.details["windows"] == [{**window, "article_id": before["article_id"][last]}]
    assert f"rows {window['first_row']} to {window['target_row']}" in finding.message


@pytest.mark.parametrize(
    "columns",
    [
        {"article_id": lambda ids: [ids[-1], *ids[1:]]},
        {"article_id": lambda ids: ["nobody", *ids[1:]]},
        {"target_row": lambda rows: [rows[0] + 1, *rows[1:]]},
        {"first_row": lambda rows: [-1, *rows[1:]], "target_row": lambda rows: [4, *rows[1:]]},
        {"first_row": lambda rows: [10**6, *rows[1:]], "target_row": lambda rows: [10**6 + 5, *rows[1:]]},
    ],
)
def test_a_window_outside_its_article_is_found(paths, columns):
    change(paths[1], **columns)
    assert failed(paths)["windows_stay_inside_articles"].observed == 1


def test_windows_over_the_whole_table_are_found_though_they_hide_it(paths):
    """Fault: N - T windows instead of the sum over articles, declared as honest."""
    write_synthetic_sequences(*paths, boundaries="ignore")
    change(paths[1], metadata=lambda stored: stored.update(is_leaking=False, leak_reason=None, boundaries="respect"))
    found = failed(paths)
    num_inside = sum(max(0, n - 5) for n in LENGTHS)
    assert found["windows_stay_inside_articles"].observed == sum(LENGTHS) - 5 - num_inside
    assert found["window_count_is_exact"].observed == sum(LENGTHS) - 5
    assert found["window_count_is_exact"].allowed == num_inside
    assert (
        found["windows_stay_inside_articles"].severity is found["window_count_is_exact"].severity is Severity.BLOCKING
    )


def test_a_missing_window_is_counted_and_its_article_named(paths):
    num = num_sequences(paths[1])
    article_id = pq.read_table(paths[1])["article_id"][3].as_py()
    keep(paths[1], [index for index in range(num) if index != 3])
    finding = failed(paths)["window_count_is_exact"]
    assert (finding.observed, finding.allowed) == (num - 1, num)
    assert article_id in finding.message
    assert list(finding.details["articles"]) == [article_id]


def test_a_repeated_window_does_not_make_up_for_a_missing_one(paths):
    num = num_sequences(paths[1])
    keep(paths[1], [1, *range(1, num)])  # the first article's first window is now its second
    finding = failed(paths)["window_count_is_exact"]
    assert finding.details["repeated_windows"] == 1


def test_a_split_by_position_is_found(paths):
    """Fault: the last 20 % of the rows, which straddles an article."""
    values = change(paths[1], split=lambda splits: ["train"] * (len(splits) - 12) + ["validation"] * 12)
    straddled = values["article_id"][-12]
    finding = failed(paths)["articles_are_in_one_split"]
    assert finding.severity is Severity.BLOCKING
    assert {"train", "validation"} <= set(finding.details["articles"][straddled])


def test_a_random_split_of_windows_is_found(paths):
    rng = np.random.default_rng(0)
    change(paths[1], split=lambda splits: rng.permutation(splits).tolist())
    assert failed(paths)["articles_are_in_one_split"].observed > 3


def test_an_article_without_or_with_an_unknown_split_is_found(paths):
    def forget(of_articles):
        del of_articles[next(iter(of_articles))]  # too short for a window
        of_articles["stranger"] = "train"

    change(paths[1], alone=forget)
    finding = failed(paths)["articles_are_in_one_split"]
    assert finding.observed == 2
    assert finding.details["articles"]["stranger"] == ["train"]
    assert "no split" in finding.message


def test_an_unknown_split_is_found(paths):
    article_id = pq.read_table(paths[1])["article_id"][0].as_py()

    ids = pq.read_table(paths[1])["article_id"].to_pylist()
    change(
        paths[1],
        split=lambda splits: ["holdout" if i == article_id else s for i, s in zip(ids, splits, strict=False)],
    )
    assert failed(paths)["articles_are_in_one_split"].details["articles"] == {article_id: ["holdout"]}


def with_twins(path, *, text=None, cosine=None):
    """Write concepts in which row 2 (first article) and the last row (last article) are near-duplicates."""
    table = synthetic_table(LENGTHS, kind="noise", vector_dim=32)
    texts = table["concept_text"].to_pylist()
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 32).copy()
    if text:
        texts[2], texts[-1] = text
    if cosine:
        across = vectors[-1] - (vectors[-1] @ vectors[2]) * vectors[2]
        vectors[-1] = cosine * vectors[2] + np.sqrt(1 - cosine**2) * across / np.linalg.norm(across)
    columns = {name: table[name] for name in table.schema.names}
    columns["concept_text"] = texts
    columns["vector"] = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.ravel()), type=table.schema.field("vector").type
    )
    return write_table(pa.table(columns, schema=table.schema), path)


@pytest.mark.parametrize(
    ("twins", "is_found"),
    [
        ({"text": ("The same  thing.", "the SAME thing")}, True),
        ({"text": ("The same thing.", "the other thing")}, False),
        ({"cosine": 0.991}, True),
        ({"cosine": 0.985}, False),
    ],
)
def test_a_near_duplicate_in_another_split_is_named(tmp_path, twins, is_found):
    concepts_path = with_twins(tmp_path / "c.parquet", **twins)
    sequences_path = write_synthetic_sequences(concepts_path, tmp_path / "s.parquet")
    ids = list(dict.fromkeys(pq.read_table(concepts_path, columns=["article_id"])["article_id"].to_pylist()))

    def tear(of_articles):
        of_articles.update({ids[0]: "train", ids[-1]: "validation"})

    change(sequences_path, alone=tear)

    finding = failed((concepts_path, sequences_path)).get("no_near_duplicate_across_splits")

    assert (finding is not None) is is_found
    if finding is not None:
        assert finding.severity is Severity.BLOCKING
        assert finding.details["pairs"] == [
            {"rows": [2, sum(LENGTHS) - 1], "articles": [ids[0], ids[-1]], "splits": ["train", "validation"]}
        ]
        assert ids[0] in finding.message
        assert ids[-1] in finding.message


def test_an_empty_train_split_blocks_and_an_empty_test_split_warns(paths):
    change(paths[1], split=lambda splits: ["train" if split == "test" else split for split in splits])
    assert failed(paths)["every_split_has_sequences"].severity is Severity.WARNING
    change(paths[1], split=lambda splits: ["validation"] * len(splits))
    finding = failed(paths)["every_split_has_sequences"]
    assert finding.severity is Severity.BLOCKING
    assert finding.details["empty_splits"] == ["train", "test"]


def test_no_test_split_is_expected_where_the_fractions_leave_none(tmp_path):
    concepts = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=LENGTHS, kind="noise")
    sequences = write_synthetic_sequences(
        concepts, tmp_path / "sequences.parquet", train_fraction=0.5, validation_fraction=0.5
    )
    assert read_sequences(sequences).metadata.split_counts["test"].num_sequences == 0
    assert "every_split_has_sequences" not in failed((concepts, sequences))


def test_sequences_of_other_concepts_are_not_checked_but_refused(paths, tmp_path):
    other = write_synthetic_concepts(tmp_path / "other.parquet", article_lengths=LENGTHS, kind="noise", seed=1)
    with pytest.raises(LvmError, match="build the sequences again from these concepts"):
        check_sequences(other, paths[1])


def test_a_validation_split_that_chained_articles_swallowed_blocks_and_names_them(tmp_path):
    """F19: one sentence in all but six of a hundred articles joins them to one group."""
    table = synthetic_table([26] * 100)
    texts = table["concept_text"].to_pylist()
    for article in range(94):
        texts[26 * article] = f"Licensed under the terms of the licence{'.' * article}"
    chained = table.set_column(table.schema.get_field_index("concept_text"), "concept_text", pa.array(texts))
    concepts_path = write_table(chained, tmp_path / "concepts.parquet")

    findings = build_sequences(concepts_path, tmp_path / "s.parquet", options=SequenceOptions())

    (finding,) = (each for each in findings if each.name == "splits_have_their_share")
    assert finding.outcome == "failed"
    assert "near-duplicates join 94 of 100 articles to one group" in finding.message
    assert table["article_id"][0].as_py() in finding.details["largest_group"]


def test_a_small_table_has_a_small_validation_split_as_a_warning(tmp_path):
    concepts_path = write_table(synthetic_table([12] * 40), tmp_path / "concepts.parquet")

    def found(**options):
        given = SequenceOptions(split_seed=1, **options)
        findings = build_sequences(concepts_path, tmp_path / "s.parquet", options=given)
        return next(each for each in findings if each.name == "splits_have_their_share")

    assert found().outcome == "warning"
    assert found(min_validation_articles=1, min_validation_sequences=7).outcome == "passed"
    few = found(min_validation_articles=1000, min_validation_sequences=7)
    assert (few.observed, few.allowed) == (few.details["num_articles"], 1000), "the figure is that which is too small"


@pytest.mark.parametrize(("space_id", "outcome"), [(f"{lsa.NAME}@0123456789ab", "warning"), ("other", "passed")])
def test_articles_that_a_fitted_encoder_has_seen_are_counted_in_validation_and_test(tmp_path, space_id, outcome):
    table = synthetic_table([12] * 200)
    texts = table["concept_text"].to_pylist()
    for article in range(150):
        texts[12 * article] = f"Licensed under the terms of the licence{'.' * article}"
    chained = table.set_column(table.schema.get_field_index("concept_text"), "concept_text", pa.array(texts))
    concepts_path = write_table(chained, tmp_path / "concepts.parquet", space_id=space_id)

    findings = build_sequences(concepts_path, tmp_path / "s.parquet", options=SequenceOptions())

    (finding,) = (each for each in findings if each.name == "sequences_do_not_leak")
    assert finding.outcome == outcome
    splits = read_sequences(tmp_path / "s.parquet").article_splits
    options = {"seed": 0, "train_fraction": 0.8, "validation_fraction": 0.1}
    seen = [each for each, split in splits.items() if split != "train" and split_of(each, **options) == "train"]
    assert seen
    if outcome == "warning":
        assert finding.details["num_articles_seen_by_encoder"] == len(seen)
        assert f"near-duplicates moved {len(seen)} articles to validation or test" in finding.message
