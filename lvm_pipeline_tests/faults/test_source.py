"""Faults F1 to F7 of an earlier pipeline, in order, splits and spaces, each put in for real, and what catches it.

Every test harms something (the Postgres table, the split), runs the real Dagster
definitions, and asserts which check failed and how severely, that nothing behind it was materialised, that the
message names rows or articles, and that the same check passes on unharmed data.

Each test can fail. `mutations.OF_THE_SOURCE` neuters one guard for each and the test named beside it goes red;
`test_without_its_guard_the_fault_goes_unseen` (slow) does that to every one:

| fault | guard that is neutered | what goes red |
|---|---|---|
| F1 | `ordering._failure` forgets ties | test_f01_equal_times |
| F1 | `positions_have_no_gap` passes | test_f01_a_missing_concept |
| F2 | `windows_stay_inside_articles` passes | test_f02 |
| F3 | `articles_are_in_one_split` passes | test_f03 |
| F4 | `articles_are_in_one_split` passes | test_f04 |
| F5 | `no_duplicate_concepts` passes | test_f05_a_range_ingested_twice |
| F5 | `no_near_duplicate_across_splits` passes | test_f05_nearly_the_same |
| F6 | `source_findings.choose_space` takes any space | test_f06_two_spaces |
| F6 | `vector_invariants._canary_cosines` encodes nothing | test_f06_another_space_under_the_same_name |
| F7 | `ordering._failure` forgets rows without a key | test_f07_rows_without_a_batch |
| F7 | `ordering._failure` forgets mixed articles | test_f07_a_page_of_many_articles |
"""

import numpy as np
import pytest

from lvm_pipeline.sequences import build
from lvm_pipeline.sequences.windows import window_starts
from lvm_pipeline.source.encoders.lsa import fit_lsa
from lvm_pipeline.source.encoders.registry import remember_encoder
from lvm_pipeline_tests.defs.source_table import execute
from lvm_pipeline_tests.faults import mutations, runs
from lvm_pipeline_tests.faults.mutations import OF_THE_SOURCE, goes_unseen
from lvm_pipeline_tests.faults.runs import assert_stopped
from lvm_pipeline_tests.synthetic import synthetic_table

pytestmark = pytest.mark.postgres


# F1: the order key is tied or missing.


def test_f01_equal_times_inside_an_article_are_no_order(unharmed, source):
    settings, url, _ = source
    mutations.harm(url, mutations.WITHOUT_POSITIONS, "UPDATE cpe_entry SET created_at = '2025-01-01 00:00:00+00'")

    run = runs.refresh(settings)

    article = synthetic_table(runs.LENGTHS)["article_id"][0].as_py()
    naming = (f"{len(runs.LENGTHS)} articles have different concepts at an equal created_at", article)
    assert_stopped(run, unharmed, at="concepts", by="order_is_unambiguous", naming=naming)


def test_f01_a_missing_concept_leaves_a_gap_that_is_named(unharmed, source):
    settings, url, ids = source
    execute(url, "DELETE FROM cpe_vectors WHERE cpe_id = %s::uuid", ids[5])
    execute(url, "DELETE FROM cpe_entry WHERE cpe_id = %s::uuid", ids[5])

    run = runs.refresh(settings)

    naming = ("row 5 has position 6, expected 5", synthetic_table(runs.LENGTHS)["article_id"][0].as_py())
    assert_stopped(run, unharmed, at="concepts", by="positions_have_no_gap", naming=naming)


# F2: windows cross article boundaries.


def test_f02_windows_across_articles(unharmed, home, monkeypatch):
    monkeypatch.setattr(build, "window_starts", lambda articles, length: window_starts(np.zeros_like(articles), length))

    run = runs.run_job(home, "refresh_data", assets=("sequences",))

    first_crossing = f"rows {runs.LENGTHS[0] - 5} to {runs.LENGTHS[0]}"
    assert_stopped(run, unharmed, at="sequences", by="windows_stay_inside_articles", naming=(first_crossing,))
    num_windows = sum(runs.LENGTHS) - 5
    expected = sum(length - 5 for length in runs.LENGTHS)
    naming = (f"{num_windows} windows, expected {expected} from the article lengths",)
    assert_stopped(run, unharmed, at="sequences", by="window_count_is_exact", naming=naming)


# F3 and F4: the split cuts through articles.


def test_f03_windows_split_at_random(unharmed, home, monkeypatch):
    mutations.with_splits(monkeypatch, np.random.default_rng(0).permutation)

    run = runs.run_job(home, "refresh_data", assets=("sequences",))

    article = synthetic_table(runs.LENGTHS)["article_id"][0].as_py()
    naming = (f"{article}: ", "train and validation")
    assert_stopped(run, unharmed, at="sequences", by="articles_are_in_one_split", naming=naming)


def test_f04_a_split_by_position_straddles_an_article(unharmed, home, monkeypatch):
    def by_position(splits):
        return np.where(np.arange(len(splits)) < len(splits) - 21, "train", "validation")

    mutations.with_splits(monkeypatch, by_position)

    run = runs.run_job(home, "refresh_data", assets=("sequences",))

    articles = synthetic_table(runs.LENGTHS)["article_id"].to_pylist()
    windows = [a for a, p in zip(articles, synthetic_table(runs.LENGTHS)["position"].to_pylist(), strict=True) if p > 4]
    assert windows[-22] == windows[-21]  # the cut lies inside this article
    naming = (f"{windows[-21]}: train and validation",)
    assert_stopped(run, unharmed, at="sequences", by="articles_are_in_one_split", naming=naming)


# F5: a range of articles is ingested twice.


def test_f05_a_range_ingested_twice(unharmed, source):
    settings, url, ids = source
    mutations.harm(
        url, mutations.AGAIN.format(text="concept_text"), mutations.VECTORS_AGAIN.format(vector="concept_vec")
    )

    run = runs.refresh(settings)

    naming = (f"{sum(runs.LENGTHS[:2])} concepts repeat an earlier one", "has the text of row", ids[0])
    assert_stopped(run, unharmed, at="concepts", by="no_duplicate_concepts", naming=naming)


def test_f05_nearly_the_same_articles_never_lie_in_two_splits(unharmed, source, monkeypatch):
    settings, url, _ = source
    mutations.harm(
        url,
        mutations.AGAIN.format(text="upper(concept_text) || '!'"),
        mutations.VECTORS_AGAIN.format(vector=mutations.TURNED),
    )
    assert "sequences" in runs.refresh(settings).materialised  # copies follow their originals into one split
    monkeypatch.setattr(build, "split_by_hash", lambda ids, groups, **_: ["train", "validation"] * (len(ids) // 2))

    run = runs.refresh(settings)

    naming = ("pair of near-duplicates is in different splits", "row ", "(train)", "(validation)")
    assert_stopped(run, unharmed, at="sequences", by="no_near_duplicate_across_splits", naming=naming)


# F6: vectors of another encoder.


def test_f06_two_spaces_in_one_table(unharmed, source):
    settings, url, ids = source
    execute(url, "UPDATE cpe_vectors SET space_id = 'other@2' WHERE cpe_id = ANY(%s::uuid[])", ids[:3])

    run = runs.refresh(settings)

    naming = (f"synthetic-{runs.WIDTH} ({len(ids) - 3} vectors)", "other@2 (3 vectors)")
    assert_stopped(run, unharmed, at="concepts", by="vectors_match_their_space", naming=naming)


def test_f06_another_space_under_the_same_name(unharmed, source):
    settings, url, ids = source
    texts = synthetic_table(runs.LENGTHS)["concept_text"].to_pylist()
    encoder = fit_lsa(texts)
    remember_encoder(encoder, encoders_dir=settings.encoders_dir)
    vectors = encoder.encode(texts)
    mutations.store_vectors(url, ids, vectors, encoder.space_id)
    assert "concepts" in runs.refresh(settings).materialised
    mutations.store_vectors(url, ids, np.roll(vectors, 1, axis=1), encoder.space_id)  # as long, as far from each other

    run = runs.refresh(settings)

    naming = ("16 of 16 texts encoded again", f"row 0 ({ids[0]})", encoder.space_id)
    assert_stopped(run, unharmed, at="concepts", by="vectors_match_their_space", naming=naming)


# F7: batches that are no articles.


def test_f07_rows_without_a_batch_are_not_one_article(unharmed, source):
    settings, url, _ = source
    mutations.harm(url, mutations.WITHOUT_POSITIONS, "UPDATE cpe_entry SET batch_id = NULL")

    run = runs.refresh(settings)

    num = sum(runs.LENGTHS)
    naming = (f"{num} of {num} rows have no batch_id",)
    assert_stopped(run, unharmed, at="concepts", by="order_is_unambiguous", naming=naming)


def test_f07_a_page_of_many_articles_is_not_one_article(unharmed, source):
    settings, url, ids = source
    mutations.harm(
        url,
        f"UPDATE cpe_entry SET sequence_index = NULL, batch_id = '{ids[0]}'",
        mutations.DISTINCT_TIMES,
    )

    run = runs.refresh(settings)

    naming = ("holds several articles", f"{ids[0]} ({len(ids)} rows, {len(runs.LENGTHS)} values)")
    assert_stopped(run, unharmed, at="concepts", by="order_is_unambiguous", naming=naming)


# Every guard is needed.


@pytest.mark.slow
@pytest.mark.parametrize("mutation", OF_THE_SOURCE, ids=str)
def test_without_its_guard_the_fault_goes_unseen(mutation, request, monkeypatch):
    goes_unseen(globals()[mutation.test], mutation, request, monkeypatch)
