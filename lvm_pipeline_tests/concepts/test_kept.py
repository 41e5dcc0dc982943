"""An extraction that keeps unchanged articles of an earlier one writes the same bytes as one that reads everything."""

import shutil

import numpy as np
import pytest

from lvm_pipeline.concepts import kept
from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.concepts.kept import EarlierExtractions
from lvm_pipeline.concepts.ordering import KeyFacts
from lvm_pipeline_tests.concepts.memory_source import MemorySource, source_rows

LENGTHS = [5, 9, 3, 12, 7, 4, 8]


@pytest.fixture
def earlier(tmp_path):
    return EarlierExtractions(
        concepts_path=tmp_path / "concepts.parquet", parts_dir=tmp_path / "parts", part_concepts=10
    )


def source(rows, *, changed=(), **fields):
    """A source whose digests are the number of the article's rows, or another number for changed articles."""
    ids = [row["article_id"] for row in rows]
    digests = {each: -1 if each in changed else ids.count(each) for each in dict.fromkeys(ids)}
    return MemorySource(rows, digests=digests, **fields)


def extracted(path, table, *, earlier=None, options=None):
    return extract_concepts(table, options=options or ExtractOptions(), staged_path=path, earlier=earlier)


def assert_same_as_full(tmp_path, table, earlier, *, read, options=None):
    """Extract with and without earlier extractions: the bytes are the same, and only some articles are read."""
    assert extracted(tmp_path / "full.parquet", table, options=options).num_articles_kept == 0
    table.articles_read = []

    extraction = extracted(tmp_path / "kept.parquet", table, earlier=earlier, options=options)

    assert table.articles_read == read
    assert extraction.num_articles_read == len(read)
    assert extraction.num_articles_kept == len(table.digests) - len(read)
    assert (tmp_path / "kept.parquet").read_bytes() == (tmp_path / "full.parquet").read_bytes()
    assert not earlier.parts_dir.exists()


def article(number):
    return f"article-{number:03}"


def with_optional_columns(rows):
    rows[3] |= {"domain": 3, "tmd_dense": [0.25] * 16, "soft_negatives": ["a", None], "hard_negatives": []}
    return rows


@pytest.mark.parametrize("first_position", [0, 1])
def test_only_new_and_changed_articles_are_read(tmp_path, earlier, first_position):
    before = with_optional_columns(source_rows(LENGTHS, first_position=first_position))
    extracted(earlier.concepts_path, source([row for row in before if row["article_id"] != article(2)]))
    now = [row for row in before if row["article_id"] != article(4)]  # 2 is new, 4 was deleted, 5 has another text
    now = [row | {"concept_text": "New."} if row["cpe_id"] == "concept-00037" else row for row in now]
    changed = next(row["article_id"] for row in now if row["concept_text"] == "New.")

    assert_same_as_full(tmp_path, source(now, changed=[changed]), earlier, read=[article(2), changed])


def test_nothing_is_read_where_nothing_has_changed(tmp_path, earlier):
    rows = source_rows(LENGTHS)
    extracted(earlier.concepts_path, source(rows))

    assert_same_as_full(tmp_path, source(rows), earlier, read=[])


def test_positions_that_only_rank_are_kept(tmp_path, earlier):
    facts = KeyFacts(num_rows=12, num_keyed=12, num_articles=2, num_gapless=0)
    rows = [row | {"source_position": None} for row in source_rows([5, 7])]
    options = ExtractOptions(article_column="document_id", position_column="sequence_index")
    extracted(earlier.concepts_path, source(rows, facts=facts), options=options)

    assert_same_as_full(tmp_path, source(rows, facts=facts), earlier, read=[], options=options)


def test_articles_of_which_concepts_were_dropped_are_read_again(tmp_path, earlier):
    rows = source_rows(LENGTHS)
    rows[40] |= {"concept_text": rows[6]["concept_text"]}  # in article 5, of article 1
    options = ExtractOptions(duplicates="drop")
    extracted(earlier.concepts_path, source(rows), options=options)
    assert_same_as_full(tmp_path, source(rows), earlier, read=[rows[40]["article_id"]], options=options)

    now = [row for row in rows if row["article_id"] != article(1)]  # so that the repeated concept is the first

    assert_same_as_full(tmp_path, source(now), earlier, read=[rows[40]["article_id"]], options=options)


def test_a_failed_extraction_leaves_parts_and_the_next_one_goes_on(tmp_path, earlier):
    rows = source_rows(LENGTHS)
    with pytest.raises(ConnectionError):
        extracted(tmp_path / "failed.parquet", source(rows, failure=ConnectionError()), earlier=earlier)
    assert not (tmp_path / "failed.parquet").exists()

    read = [article(6)]  # the last article was not known to be whole, and filled no part

    assert_same_as_full(tmp_path, source(rows), earlier, read=read)


def test_promoted_concepts_and_parts_are_used_together(tmp_path, earlier):
    rows = source_rows(LENGTHS)
    extracted(earlier.concepts_path, source([row for row in rows if row["article_id"] < article(3)]))
    with pytest.raises(ConnectionError):
        extracted(tmp_path / "failed.parquet", source(rows, failure=ConnectionError()), earlier=earlier)

    assert_same_as_full(tmp_path, source(rows), earlier, read=[article(6)])


@pytest.mark.parametrize("what", ["concepts", "part"])
@pytest.mark.parametrize("at", ["start", "middle", "end"])
def test_a_damaged_copy_is_not_used(tmp_path, earlier, what, at):
    rows = source_rows(LENGTHS)
    if what == "concepts":
        extracted(earlier.concepts_path, source(rows))
        path = earlier.concepts_path
    else:
        with pytest.raises(ConnectionError):
            extracted(tmp_path / "failed.parquet", source(rows, failure=ConnectionError()), earlier=earlier)
        path = next(earlier.parts_dir.glob("*.parquet"))
    damaged = bytearray(path.read_bytes())
    position = {"start": 60, "middle": len(damaged) // 3, "end": len(damaged) - 3}[at]
    damaged[position] ^= 0xFF
    path.write_bytes(damaged)

    extraction = extracted(tmp_path / "again.parquet", source(rows), earlier=earlier)

    extracted(tmp_path / "full.parquet", source(rows))
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "full.parquet").read_bytes()
    assert extraction.num_articles_kept + extraction.num_articles_read == len(LENGTHS)


def test_a_table_of_an_earlier_version_has_no_digests_and_is_not_used(tmp_path, earlier):
    rows = source_rows(LENGTHS)
    extracted(earlier.concepts_path, MemorySource(rows))

    assert_same_as_full(tmp_path, source(rows), earlier, read=[article(number) for number in range(len(LENGTHS))])


def test_of_two_extractions_at_once_only_one_has_parts(tmp_path, earlier, monkeypatch):
    rows = source_rows(LENGTHS)
    have_parts = []

    class Recorded(kept._Parts):
        def __init__(self, earlier):
            super().__init__(earlier)
            have_parts.append(self.are_mine)

    monkeypatch.setattr(kept, "_Parts", Recorded)

    class Second(MemorySource):
        def read_batches(self, rule, *, article_ids=None):
            shutil.rmtree(tmp_path / "second", ignore_errors=True)
            (tmp_path / "second").mkdir()
            extracted(tmp_path / "second" / "staged.parquet", source(rows), earlier=earlier)
            return super().read_batches(rule, article_ids=article_ids)

    table = Second(rows, digests=source(rows).digests)
    extracted(tmp_path / "first.parquet", table, earlier=earlier)

    assert have_parts == [True, False]
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second" / "staged.parquet").read_bytes()


def test_batch_size_does_not_change_the_bytes(tmp_path):
    rows = source_rows([7] * 130, vector_dim=501)
    for row in rows:
        row["vector"] = np.array(row["vector"], np.float32)
    written = set()
    for size in (13, 31, 97, 910):
        extracted(tmp_path / "staged.parquet", source(rows, batch_rows=size))
        written.add((tmp_path / "staged.parquet").read_bytes())

    assert len(written) == 1
