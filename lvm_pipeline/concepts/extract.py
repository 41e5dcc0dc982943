"""Stream the source table into a staged concept table, whole articles at a time.

Articles that have not changed since an earlier extraction are taken from there (`kept`). They are processed like
articles from the source, so the file is identical byte for byte.

Findings that need the source (order, missing vectors, mixed widths, spaces, packings) are returned and stored in the
file's metadata. `invariants.check_concepts` checks the rest in the file.

Shapes: n = rows of a batch, D = vector width.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lvm_pipeline.concepts import source_findings
from lvm_pipeline.concepts.duplicates import DuplicateFilter
from lvm_pipeline.concepts.kept import ArticleStream, EarlierExtractions, UnusableCopyError, digest_column
from lvm_pipeline.concepts.numbering import article_starts, number_by_rank, number_by_source
from lvm_pipeline.concepts.ordering import OrderDecision, OrderRequest, OrderRule, choose_order
from lvm_pipeline.concepts.reader import ConceptReader, SourceDescription
from lvm_pipeline.concepts.schema import DIGEST_COLUMN, ConceptsMetadata, concepts_schema
from lvm_pipeline.concepts.store import ConceptsFingerprint, ConceptsWriter, explain_full_disk
from lvm_pipeline.concepts.vector_invariants import coverage_finding
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import MAX_LISTED, Finding, blocking_failures
from lvm_pipeline.source.space_ids import undeclared_space
from lvm_pipeline.words import counted

Progress = Callable[[int, int], None]  # rows done, rows in all
COPIED_COLUMNS = ("domain", "task", "modifier", "tmd_dense", "soft_negatives", "hard_negatives", "created_at")


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(OrderRequest):
    # keep repeated concepts, for `no_duplicate_concepts` to fail on, or drop all but the first
    duplicates: Literal["fail", "drop"] = "fail"
    # space of the vectors if the table declares none; without either it is `undeclared-<D>`
    space_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A staged concept table with the findings of the source; without path and metadata if a blocking one failed."""

    path: Path | None
    metadata: ConceptsMetadata | None
    findings: list[Finding]
    num_articles_kept: int = 0  # articles that had not changed since an earlier extraction
    num_articles_read: int = 0  # articles read from the source


@dataclass
class _VectorCensus:
    """Counts of missing vectors and of vectors by width, with some ids of each."""

    num_rows: int = 0
    num_missing: int = 0
    missing_ids: list[str] = field(default_factory=list)
    widths: dict[int, int] = field(default_factory=dict)
    ids_by_width: dict[int, list[str]] = field(default_factory=dict)

    def count(self, batch: pa.RecordBatch) -> bool:
        """Count a batch; True while all rows so far have vectors of one width."""
        self.num_rows += batch.num_rows
        ids, vectors = batch.column("cpe_id"), batch.column("vector")
        if vectors.null_count:
            self.num_missing += vectors.null_count
            self.missing_ids += ids.filter(vectors.is_null())[: MAX_LISTED - len(self.missing_ids)].to_pylist()
        widths = vectors.value_lengths().fill_null(-1).to_numpy()
        for width in np.unique(widths[widths >= 0]).tolist():
            rows = np.flatnonzero(widths == width)
            self.widths[width] = self.widths.get(width, 0) + len(rows)
            known = self.ids_by_width.setdefault(width, [])
            known += ids.take(pa.array(rows[: MAX_LISTED - len(known)])).to_pylist()
        return not self.num_missing and len(self.widths) == 1 and 0 not in self.widths

    def findings(self) -> list[Finding]:
        return [
            coverage_finding(self.num_rows, self.num_missing, self.missing_ids),
            source_findings.width_finding(self.widths, self.ids_by_width),
        ]

    @property
    def vector_dim(self) -> int:
        (width,) = self.widths
        return width


@dataclass
class _Assembly:
    rule: OrderRule
    options: ExtractOptions
    path: Path
    digests: Mapping[str, int] | None = None  # of all articles, if the source has them
    census: _VectorCensus = field(default_factory=_VectorCensus)
    fingerprint: ConceptsFingerprint = field(default_factory=ConceptsFingerprint)
    duplicates: DuplicateFilter = field(default_factory=DuplicateFilter)
    writer: ConceptsWriter | None = None
    num_concepts: int = 0
    num_articles: int = 0
    num_source_articles: int = 0  # those whose concepts were all dropped count, too

    def add(self, batch: pa.RecordBatch) -> None:
        """Number the concepts of whole articles and write those that are kept; after a bad vector, only count."""
        if batch.column("cpe_id").null_count:
            raise LvmError(
                f"{counted(batch.column('cpe_id').null_count, 'row has', 'rows have')} "
                "no cpe_id; give them one or delete them."
            )
        if not self.census.count(batch):
            return
        vector_dim = self.census.vector_dim
        if self.writer is None:
            self.writer = ConceptsWriter(self.path, vector_dim=vector_dim, has_digests=self.digests is not None)
        table, article_ids, vectors = self._numbered(batch, vector_dim)
        self.fingerprint.update(table["cpe_id"].to_pylist(), article_ids.to_pylist(), vectors)
        self.num_concepts += table.num_rows
        self.writer.write(table)

    def abandon(self) -> None:
        if self.writer is not None:
            self.writer.abandon()
        self.path.unlink(missing_ok=True)

    def _numbered(self, batch: pa.RecordBatch, vector_dim: int) -> tuple[pa.Table, pa.Array, np.ndarray]:
        ids, texts, article_ids = (batch.column(name) for name in ("cpe_id", "concept_text", "article_id"))
        vectors = batch.column("vector").flatten().to_numpy().reshape(-1, vector_dim)
        starts = article_starts(article_ids)
        self.num_source_articles += len(starts)
        kept = np.ones(batch.num_rows, np.bool_)
        if self.options.duplicates == "drop":
            kept = self.duplicates.keep(ids, texts.to_pylist(), vectors)
        positions = self._positions(batch, starts, kept)
        article_of_row = np.repeat(np.arange(len(starts)), np.diff(starts, append=batch.num_rows))
        columns = {name: batch.column(name) for name in ("cpe_id", "article_id", "concept_text", *COPIED_COLUMNS)}
        if self.digests is not None:
            columns[DIGEST_COLUMN] = self._digests(article_ids, article_of_row, kept)
        if not kept.all():
            mask = pa.array(kept)
            columns = {name: column.filter(mask) for name, column in columns.items()}
            vectors, positions, article_of_row = vectors[kept], positions[kept], article_of_row[kept]
        # An article whose concepts were all dropped gets no index.
        is_first = np.diff(article_of_row, prepend=-1) != 0
        columns["article_index"] = pa.array(self.num_articles + np.cumsum(is_first) - 1, pa.int32())
        self.num_articles += int(is_first.sum())
        columns["row"] = pa.array(self.num_concepts + np.arange(len(vectors)))
        columns["position"] = pa.array(positions, pa.int32())
        schema = concepts_schema(vector_dim)
        columns["vector"] = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.ravel()), type=schema.field("vector").type
        )
        table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
        if self.digests is not None:
            table = table.append_column(DIGEST_COLUMN, columns[DIGEST_COLUMN])
        return table, columns["article_id"], vectors

    def _digests(self, article_ids: pa.Array, article_of_row: np.ndarray, kept: np.ndarray) -> pa.Array:
        """Return the digest of each row's article; null where a concept was dropped, since the file lacks it."""
        assert self.digests is not None
        found = digest_column(article_ids, self.digests)
        if kept.all():
            return found
        is_cut = np.isin(article_of_row, article_of_row[~kept])
        return pc.if_else(pa.array(is_cut), None, found)  # pyright: ignore[reportAttributeAccessIssue]

    def _positions(self, batch: pa.RecordBatch, starts: np.ndarray, kept: np.ndarray) -> np.ndarray:
        if not self.rule.is_counted:
            return number_by_rank(starts, kept)
        source_positions = batch.column("source_position").to_numpy()
        return number_by_source(starts, source_positions, kept, first_position=self.rule.first_position)


def extract_concepts(
    reader: ConceptReader,
    *,
    options: ExtractOptions,
    staged_path: Path,
    progress: Progress | None = None,
    earlier: EarlierExtractions | None = None,
) -> Extraction:
    """Read the selected concepts of a source, in order, into a Parquet file at `staged_path`, whose folder exists.

    If the result has no path, nothing is left there. `progress` is called after each batch with the number of rows done
    and of all rows. With `earlier`, articles that have not changed are taken from there; without it, all are read.

    Raises:
        LvmError: If the source cannot be read, or the disk is full.
    """
    try:
        return _extract(reader, options=options, staged_path=staged_path, progress=progress, earlier=earlier)
    except UnusableCopyError:
        return _extract(reader, options=options, staged_path=staged_path, progress=progress, earlier=None)


def _extract(
    reader: ConceptReader,
    *,
    options: ExtractOptions,
    staged_path: Path,
    progress: Progress | None,
    earlier: EarlierExtractions | None,
) -> Extraction:
    with reader.open() as table:
        description = table.describe()
        decision = choose_order(description.column_kinds, table.examine, request=options)
        space_id, space_finding = source_findings.choose_space(description.space_counts, wanted=options.space_id)
        findings = [decision.finding, source_findings.packing_finding(description.packed_codes)]
        findings += [space_finding] if space_finding else []
        if decision.rule is None or blocking_failures(findings):
            return Extraction(path=None, metadata=None, findings=findings)
        stream = ArticleStream(table, decision.rule, earlier=earlier)
        with explain_full_disk(staged_path.parent), stream, ExitStack() as on_failure:
            assembly = _Assembly(rule=decision.rule, options=options, path=staged_path, digests=stream.digests)
            on_failure.callback(assembly.abandon)
            _stream(stream, assembly, num_rows=description.num_rows, progress=progress)
            findings += assembly.census.findings()
            if blocking_failures(findings):
                return Extraction(path=None, metadata=None, findings=findings)
            metadata = _metadata(assembly, description, decision, space_id)
            assert assembly.writer is not None
            metadata = assembly.writer.finish(metadata, source_findings=findings)
            on_failure.pop_all()
        return Extraction(
            path=staged_path,
            metadata=metadata,
            findings=findings,
            num_articles_kept=stream.num_kept,
            num_articles_read=assembly.num_source_articles - stream.num_kept,
        )


def _stream(stream: ArticleStream, assembly: _Assembly, *, num_rows: int, progress: Progress | None) -> None:
    for batch in stream.batches(num_rows):
        assembly.add(batch)
        if progress is not None:
            progress(assembly.census.num_rows, max(num_rows, assembly.census.num_rows))
    if not assembly.census.num_rows:
        raise LvmError("The source gave no rows; another program may have deleted them: extract again.")


def _metadata(
    assembly: _Assembly, description: SourceDescription, decision: OrderDecision, space_id: str | None
) -> ConceptsMetadata:
    return ConceptsMetadata(
        fingerprint=assembly.fingerprint.hexdigest(),
        space_id=space_id or undeclared_space(assembly.census.vector_dim),
        vector_dim=assembly.census.vector_dim,
        source=description.source,
        dataset_source=description.dataset_source,
        order_key=assembly.rule.name,
        num_concepts=assembly.num_concepts,
        num_articles=assembly.num_articles,
        num_source_rows=assembly.census.num_rows,
        duplicates_policy=assembly.options.duplicates,
        dropped=assembly.duplicates.dropped,
        order_warning=decision.warning,
    )
