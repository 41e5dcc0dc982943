"""Reuse articles that an earlier extraction has read and that have not changed since.

They are in the promoted concept table and in parts: a long extraction copies what it reads from the source into files
of `part_concepts` concepts, which are deleted when it ends. If it is interrupted, the next extraction reads its
parts instead of the source.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from shutil import rmtree
from typing import Any, Self
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from lvm_pipeline import files
from lvm_pipeline.concepts.numbering import article_starts, read_ahead, whole_articles
from lvm_pipeline.concepts.ordering import OrderRule
from lvm_pipeline.concepts.reader import SOURCE_SCHEMA, SourceTable
from lvm_pipeline.concepts.schema import DIGEST_COLUMN, DIGEST_FIELD
from lvm_pipeline.source.parquet_file import PARQUET_ERRORS

PART_CONCEPTS = 65_536
PART_SCHEMA = SOURCE_SCHEMA.append(DIGEST_FIELD)
PART_OPTIONS: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
SAME_COLUMNS = [name for name in SOURCE_SCHEMA.names if name not in ("source_position", "vector")]
KEYS = ["article_id", DIGEST_COLUMN]


class UnusableCopyError(Exception):
    """A copy of an article cannot be read, so all articles must be read from the source."""


@dataclass(frozen=True, kw_only=True)
class EarlierExtractions:
    """Where the articles of earlier extractions are."""

    concepts_path: Path  # the promoted concept table, which may be missing
    parts_dir: Path  # parts of an extraction that was interrupted
    part_concepts: int = PART_CONCEPTS


class _Copies:
    """A concept table or a part (`PART_SCHEMA`), with digests of its articles. Row groups hold whole articles."""

    def __init__(self, path: Path, rule: OrderRule):
        self._rule = rule
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except PARQUET_ERRORS as error:
            raise UnusableCopyError from error
        self._group_of: dict[str, int] = {}

    def unchanged(self, digests: Mapping[str, int]) -> list[str]:
        """Return the articles whose digest is still the same."""
        if not set(KEYS) <= set(self._file.schema_arrow.names):
            return []
        found = []
        for group in range(self._file.num_row_groups):
            keys = self._read(group, KEYS)
            firsts = keys.take(article_starts(keys["article_id"].combine_chunks()))
            for article_id, digest in zip(*(firsts[name].to_pylist() for name in KEYS), strict=True):
                if digest is not None and digests.get(article_id) == digest:
                    self._group_of[article_id] = group
                    found.append(article_id)
        return found

    def batches(self, article_ids: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some unchanged articles as the source gave them, in the order of the file."""
        wanted: dict[int, list[str]] = {}
        for article_id in article_ids:
            wanted.setdefault(self._group_of[article_id], []).append(article_id)
        for group in sorted(wanted):
            rows = self._as_source(group)
            is_wanted = pc.is_in(  # pyright: ignore[reportAttributeAccessIssue]
                rows.column("article_id"), pa.array(wanted[group], pa.string())
            )
            yield rows if is_wanted.false_count == 0 else rows.filter(is_wanted)

    def _as_source(self, group: int) -> pa.RecordBatch:
        if "source_position" in self._file.schema_arrow.names:
            return self._read(group, SOURCE_SCHEMA.names).combine_chunks().to_batches()[0]
        rows = self._read(group, [*SAME_COLUMNS, "position", "vector"]).combine_chunks()
        columns: dict[str, Any] = {name: rows[name].combine_chunks() for name in SAME_COLUMNS}
        numbers = rows["vector"].combine_chunks().flatten()
        width = len(numbers) // max(rows.num_rows, 1)
        offsets = pa.array(np.arange(rows.num_rows + 1, dtype=np.int64) * width)
        columns["vector"] = pa.LargeListArray.from_arrays(offsets, numbers)
        columns["source_position"] = pa.nulls(rows.num_rows, pa.int64())
        if self._rule.is_counted:
            columns["source_position"] = pa.array(rows["position"].to_numpy() + np.int64(self._rule.first_position))
        return pa.record_batch([columns[name] for name in SOURCE_SCHEMA.names], schema=SOURCE_SCHEMA)

    def _read(self, group: int, names: list[str]) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=names)
        except PARQUET_ERRORS as error:
            raise UnusableCopyError from error


class _Parts:
    """The parts of this extraction and of an interrupted one. A lock lets one extraction at a time have any."""

    def __init__(self, earlier: EarlierExtractions):
        self._folder, self._part_concepts = earlier.parts_dir, earlier.part_concepts
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self._folder}.lock")
        try:
            self._lock.acquire(timeout=0)
            self.are_mine = True
        except Timeout:
            self.are_mine = False

    def are_worth(self, num_rows: int) -> bool:
        """Whether an extraction of `num_rows` rows fills a part."""
        return self.are_mine and num_rows >= self._part_concepts

    def copies(self, rule: OrderRule) -> list[_Copies]:
        found = []
        for path in sorted(self._folder.glob("*.parquet")) if self.are_mine else []:
            with suppress(UnusableCopyError):
                found.append(_Copies(path, rule))
        return found

    def copying(self, batches: Iterable[pa.RecordBatch], digests: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
        """Yield batches of whole articles and copy them into parts; an unfinished part is discarded."""
        self._folder.mkdir(parents=True, exist_ok=True)
        writer, num_written = None, 0
        staged = self._folder / f"{uuid4().hex}.unfinished"
        try:
            for batch in batches:
                writer = writer or pq.ParquetWriter(staged, PART_SCHEMA, **PART_OPTIONS)
                digest = digest_column(batch.column("article_id"), digests)
                writer.write_batch(batch.append_column(DIGEST_FIELD, digest))
                num_written += batch.num_rows
                if num_written >= self._part_concepts:
                    writer.close()
                    files.promote(staged, staged.with_suffix(".parquet").with_stem(uuid4().hex))
                    writer, num_written = None, 0
                yield batch
        finally:
            if writer is not None:
                with suppress(OSError, pa.ArrowException):
                    writer.close()
            staged.unlink(missing_ok=True)

    def release(self, *, is_done: bool) -> None:
        """Release the lock, and delete the parts if the extraction is done."""
        if not self.are_mine:
            return
        if is_done:
            rmtree(self._folder, ignore_errors=True)
        self._lock.release()


def digest_column(article_ids: pa.Array, digests: Mapping[str, int]) -> pa.Array:
    """Return the digest of each row's article; null where it has none."""
    encoded = article_ids.dictionary_encode()
    values = pa.array([digests.get(each) for each in encoded.dictionary.to_pylist()], DIGEST_FIELD.type)
    return values.take(encoded.indices)


class ArticleStream:
    """Reads articles in the rule's order: unchanged ones from copies, the others from the source.

    A context manager. Partial files are kept if the block raises, except when the disk is full. `digests` are those
    of all articles now, None for a source without.
    """

    def __init__(self, table: SourceTable, rule: OrderRule, *, earlier: EarlierExtractions | None):
        self._table, self._rule = table, rule
        self.digests = table.article_digests(rule)
        self._copies: list[_Copies] = []
        self._copy_of: dict[str, int] = {}
        self._earlier = earlier if self.digests is not None else None
        self._parts = _Parts(self._earlier) if self._earlier is not None else None
        if self._parts is not None:
            self._find_unchanged()

    @property
    def num_kept(self) -> int:
        """Number of articles that are taken from copies."""
        return len(self._copy_of)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        is_disk_full = isinstance(error, OSError) and error.errno in files.FULL_DISK
        if self._parts is not None:
            self._parts.release(is_done=error is None or is_disk_full or isinstance(error, UnusableCopyError))

    def batches(self, num_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield all articles, of about `num_rows` concepts, in batches of whole ones."""
        if not self._copy_of or self.digests is None:
            yield from self._from_source(None, num_rows)
            return
        changed = [article_id for article_id in self.digests if article_id not in self._copy_of]
        feeds = {-1: _Feed(self._from_source(changed, num_rows) if changed else iter(()))}
        for number, copies in enumerate(self._copies):
            chosen = [article_id for article_id, copy in self._copy_of.items() if copy == number]
            feeds[number] = _Feed(read_ahead(copies.batches(chosen)))
        for number, article_ids in groupby(self.digests, key=lambda each: self._copy_of.get(each, -1)):
            yield from feeds[number].take(list(article_ids))

    def _find_unchanged(self) -> None:
        assert self._earlier is not None
        assert self._parts is not None
        assert self.digests is not None
        self._copies = self._parts.copies(self._rule)
        with suppress(UnusableCopyError, FileNotFoundError):
            self._copies.append(_Copies(self._earlier.concepts_path, self._rule))
        for number, copies in enumerate(self._copies):
            with suppress(UnusableCopyError):
                self._copy_of.update(dict.fromkeys(copies.unchanged(self.digests), number))

    def _from_source(self, article_ids: Sequence[str] | None, num_rows: int) -> Iterator[pa.RecordBatch]:
        batches = whole_articles(self._table.read_batches(self._rule, article_ids=article_ids))
        if self._parts is not None and self.digests is not None and self._parts.are_worth(num_rows):
            batches = self._parts.copying(batches, self.digests)
        yield from read_ahead(batches)


class _Feed:
    """Batches of whole articles, taken article by article."""

    def __init__(self, batches: Iterator[pa.RecordBatch]):
        self._batches = batches
        self._rows: pa.RecordBatch | None = None
        self._starts: list[int] = []

    def take(self, article_ids: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the next articles. Raises UnusableCopyError if they are not these."""
        while article_ids:
            if len(self._starts) < 2:
                self._rows = next(self._batches, None)
                if self._rows is None:
                    raise UnusableCopyError
                self._starts = [*article_starts(self._rows.column("article_id")).tolist(), self._rows.num_rows]
            assert self._rows is not None
            count = min(len(article_ids), len(self._starts) - 1)
            found = [self._rows.column("article_id")[start].as_py() for start in self._starts[:count]]
            if found != list(article_ids[:count]):
                raise UnusableCopyError
            yield self._rows.slice(self._starts[0], self._starts[count] - self._starts[0])
            self._starts, article_ids = self._starts[count:], article_ids[count:]
            if len(self._starts) < 2:
                self._rows = None
