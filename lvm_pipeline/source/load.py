"""Load a file into the source table, completely or not at all; loading it again changes nothing.

Shapes: N = concepts, D = vector width.
"""

import codecs
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import listed
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.deduplication import Deduplicator, Location, TableState
from lvm_pipeline.source.encoders import lsa
from lvm_pipeline.source.encoders.encoder import Encoder, Progress, encoder_folder
from lvm_pipeline.source.encoders.registry import encoder_named, is_fitted_by_ingest, remember_encoder, renamed
from lvm_pipeline.source.encoders.sentence_transformer import SentenceTransformerEncoder, bare_space
from lvm_pipeline.source.given_file import STDIN, FileKind, kind_of, plain_file
from lvm_pipeline.source.ingest_report import IngestReport
from lvm_pipeline.source.jsonl import read_jsonl
from lvm_pipeline.source.parquet import read_parquet_or_texts
from lvm_pipeline.source.records import (
    BadInputError,
    BadRow,
    Concept,
    SourceRecords,
    first_of,
    text_problem,
    vector_digests,
)
from lvm_pipeline.source.replacing import changed_articles
from lvm_pipeline.source.space_fingerprint import MAX_CONCEPTS, kept_path, read_fingerprint
from lvm_pipeline.source.space_ids import is_declared, undeclared_space
from lvm_pipeline.source.split_hash import read_article_list, split_of
from lvm_pipeline.words import counted

Batch = tuple[Sequence[Concept], NDArray[np.float32]]

DATASET_SOURCE = "user_input"
BATCH_SIZE = 2_048


@dataclass(frozen=True, kw_only=True)
class EntryBatch:
    """Rows for both tables: concepts, their locations and their vectors, shape (n, D)."""

    concepts: Sequence[Concept]
    locations: Sequence[Location]
    vectors: NDArray[np.float32]


class ConceptWriter(Protocol):
    """The source table; implemented by `adapters/postgres_writer.py`."""

    def state(self, dataset_source: str) -> TableState:
        """Return the rows of a dataset source; creates missing tables."""
        ...

    def write(
        self,
        batches: Iterable[EntryBatch],
        *,
        dataset_source: str,
        space_id: str,
        replaced: Collection[str] = (),
        num_known: int | None = None,
    ) -> int:
        """Delete the rows of `replaced` articles and insert the batches, unless there are not `num_known` others."""
        ...


def ingest(
    path: Path,
    writer: ConceptWriter,
    *,
    settings: Settings,
    dataset_source: str = DATASET_SOURCE,
    space_id: str | None = None,
    encoder: str | Encoder = lsa.NAME,
    duplicates: Literal["drop", "fail"] = "drop",
    skip_bad: bool = False,
    replace_changed: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Load a file of articles or concepts, JSONL or Parquet, into the source table.

    Args:
        settings: Split, folder of the encoders.
        dataset_source: Label of the rows.
        space_id: Space of a Parquet file's vectors.
        encoder: Encodes the texts of a file without vectors.
        duplicates: What to do with concepts that repeat the text or the vector of another one, in the file or in the
            table under the same dataset source. `drop` renumbers the positions of the others.
        skip_bad: Load the good rows of a file that has bad ones.
        replace_changed: Replace articles that the table has with other concepts or in another order. Their place
            among the articles stays, their TMD codes do not.
        progress: Called with the number of encoded concepts and the number of all.

    Raises:
        BadInputError: If the file has bad rows and `skip_bad` is off, or articles that have changed and
            `replace_changed` is off; nothing was loaded.
        LvmError: If the file cannot be read or is empty, if its vectors are of another space than those in the table or
            than `space_id`, or if it has duplicates under the policy `fail`.
    """
    if skip_bad and replace_changed:
        raise LvmError(
            "--replace and --skip-bad cannot be combined, since an article with a bad row would lose a part of its "
            "concepts; correct the file, or omit one of them."
        )
    with plain_file(path) as plain:
        report = _ingest(
            plain,
            writer,
            settings=settings,
            dataset_source=dataset_source,
            space_id=space_id,
            encoder=encoder,
            duplicates=duplicates,
            skip_bad=skip_bad,
            replace_changed=replace_changed,
            progress=progress,
        )
    return replace(report, path="input" if path == STDIN else str(path))  # and not that of a temporary copy


def _ingest(
    path: Path,
    writer: ConceptWriter,
    *,
    settings: Settings,
    dataset_source: str,
    space_id: str | None,
    encoder: str | Encoder,
    duplicates: Literal["drop", "fail"],
    skip_bad: bool,
    replace_changed: bool,
    progress: Progress | None,
) -> IngestReport:
    records = _usable_records(path, dataset_source=dataset_source, skip_bad=skip_bad)
    state = writer.state(dataset_source)
    replaced = changed_articles(records.concepts, state) if replace_changed else set()
    state = state.without(replaced)
    deduplicator = Deduplicator(state, row_kind=records.row_kind)
    new = deduplicator.new_texts(records.concepts)
    _raise_on_bad(records, deduplicator.bad_rows, skip_bad=skip_bad)
    if records.read_vectors is None:
        chosen = _encoder_for(new, encoder, state, settings=settings, space_id=space_id)
        _refuse_another_space(state, chosen.space_id, dataset_source=dataset_source)
        source = _encoded(new, chosen, encoders_dir=settings.encoders_dir, progress=progress)
    else:
        source = _stored(records, new, space_id=space_id)
        _refuse_another_space(state, source.space_id, dataset_source=dataset_source)
        _refuse_other_statistics(source, len(new), spaces_dir=settings.spaces_dir)
    kept = deduplicator.new_vectors(new, source.digests)
    if duplicates == "fail" and deduplicator.duplicates:
        raise LvmError(
            f"{path.name} repeats {counted(len(deduplicator.duplicates), 'concept')} and was not loaded "
            f"({first_of(deduplicator.duplicates)}). Remove them, or load the file with the duplicates policy `drop`."
        )
    loaded = [new[index] for index in kept]
    batches = _batches(source, kept, deduplicator.locations(loaded))
    return IngestReport(
        path=str(path),
        dataset_source=dataset_source,
        space_id=source.space_id,
        num_articles=len({concept.article_id for concept in loaded}),
        num_concepts=len(records.concepts),
        num_inserted=writer.write(
            batches,
            dataset_source=dataset_source,
            space_id=source.space_id,
            replaced=sorted(replaced),
            num_known=len(state.rows),
        )
        if loaded or replaced
        else 0,
        num_replaced=len(replaced),
        num_known=len(deduplicator.known),
        duplicates=deduplicator.duplicates,
        bad_rows=[*records.bad_rows, *deduplicator.bad_rows],
        gaps=records.gaps,
        cut=source.cut,
    )


def _usable_records(path: Path, *, dataset_source: str, skip_bad: bool) -> SourceRecords:
    """Read a file and refuse its bad rows and gaps, unless these are skipped."""
    records = read_records(path, dataset_source=dataset_source)
    if records.gaps and not records.bad_rows and not skip_bad:
        raise BadInputError(records.path, records.gaps, skip="close the gaps between positions with --skip-bad")
    _raise_on_bad(records, [*records.bad_rows, *records.gaps], skip_bad=skip_bad)
    return records


def _batches(source: "_VectorSource", kept: Sequence[int], locations: Mapping[str, Location]) -> Iterator[EntryBatch]:
    for concepts, vectors in source.batches(kept):
        yield EntryBatch(concepts=concepts, locations=[locations[each.cpe_id] for each in concepts], vectors=vectors)


def read_records(path: Path, *, dataset_source: str) -> SourceRecords:
    """Read and check a file of either kind.

    Raises:
        LvmError: If it cannot be read, or has no articles, or the dataset source is empty or cannot be stored.
    """
    if problem := text_problem(dataset_source, name="the dataset source"):
        raise LvmError(f"{problem.capitalize()}; give --dataset-source a name.")
    kind = kind_of(path)
    if kind not in (FileKind.PARQUET, FileKind.LINES):
        advice = "; import it with `lvm import`" if kind is FileKind.NPZ else ""
        raise LvmError(
            f"{path.name} is a file of {kind}{advice}; `lvm ingest` takes JSON lines of articles, or Parquet of "
            "articles or concepts."
        )
    read = read_parquet_or_texts if kind is FileKind.PARQUET else read_jsonl
    records = read(path, dataset_source=dataset_source)
    if not records.concepts and not records.bad_rows:
        raise LvmError(f"{path.name} has no articles; give a file with at least one.")
    if kind is FileKind.LINES and not records.concepts and not _begins_as_json(path):
        raise LvmError(
            f"{path.name} holds no JSON; give JSON lines of articles, or Parquet. pandas converts CSV of title and "
            "text: read_csv(file).to_json('articles.jsonl', orient='records', lines=True)."
        )
    return records


def _begins_as_json(path: Path) -> bool:
    """Return whether the first line that is not empty begins as a JSON object or array does."""
    with path.open("rb") as lines:
        first = next((line for line in lines if line.removeprefix(codecs.BOM_UTF8).strip()), b"")
    return first.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b"{", b"["))


def train_texts(concepts: Iterable[Concept], *, settings: Settings) -> list[str]:
    """Return the texts of the articles in the train split.

    Raises:
        LvmError: If there are none, or the file of validation articles cannot be read.
    """
    concepts = list(concepts)
    article_ids = {concept.article_id for concept in concepts}
    if settings.validation_articles is not None:
        train_ids = article_ids - set(read_article_list(settings.validation_articles))
    else:
        train_ids = {article_id for article_id in article_ids if _hashes_to_train(article_id, settings)}
    texts = [concept.text for concept in concepts if concept.article_id in train_ids]
    if not texts:
        raise LvmError(
            f"None of the {len(article_ids):,} articles is in the train split, on which {lsa.NAME} is fitted; "
            "load more articles at once, or name another encoder with --encoder."
        )
    return texts


@dataclass(frozen=True, kw_only=True)
class _VectorSource:
    """The vectors of the new concepts: their space, their digests, and how to read some of them."""

    space_id: str
    digests: list[bytes]
    batches: Callable[[Sequence[int]], Iterator[Batch]]  # indices of new concepts, ascending
    cut: list[str] = field(default_factory=list)  # ids of the concepts whose texts the encoder cut


def _stored(records: SourceRecords, new: Sequence[Concept], *, space_id: str | None) -> _VectorSource:
    """Read the vectors from the file."""

    def batches(kept: Sequence[int]) -> Iterator[Batch]:
        by_number = {new[index].number: new[index] for index in kept}
        assert records.read_vectors is not None
        for numbers, vectors in records.read_vectors(sorted(by_number)):
            yield [by_number[number] for number in numbers], vectors

    if space_id and records.space_id and space_id != records.space_id:
        raise LvmError(
            f"{records.path.name} declares vectors of the space {records.space_id}, not {space_id}; "
            "omit --space, or correct the file."
        )
    space_id = space_id or records.space_id or undeclared_space(records.vector_dim)
    return _VectorSource(space_id=space_id, digests=[concept.vector_digest or b"" for concept in new], batches=batches)


def _encoder_for(
    new: Sequence[Concept], encoder: str | Encoder, state: TableState, *, settings: Settings, space_id: str | None
) -> Encoder:
    """Return the given or named encoder; raises LvmError if its space is not `space_id`."""
    chosen = _chosen_encoder(new, encoder, state, settings=settings) if isinstance(encoder, str) else encoder
    if space_id not in (None, chosen.space_id):
        raise LvmError(f"The encoder makes vectors of the space {chosen.space_id}, not {space_id}; omit --space.")
    return chosen


def _encoded(
    new: Sequence[Concept], chosen: Encoder, *, encoders_dir: Path, progress: Progress | None
) -> _VectorSource:
    """Encode the texts, and keep the encoder so that its vectors can be checked later."""
    remember_encoder(chosen, encoders_dir=encoders_dir)
    texts = [concept.text for concept in new]
    vectors = chosen.encode(texts, progress=progress)
    squares = np.einsum("nd,nd->n", vectors, vectors)  # NaN is neither above 0 nor below infinity
    bad = [new[row].cpe_id for row in np.flatnonzero(~((squares > 0) & (squares < np.inf))).tolist()]
    if bad:
        raise LvmError(
            f"The vectors that the encoder of {chosen.space_id} made for {counted(len(bad), 'text')} are zero, NaN or "
            "infinite: "
            f"{listed(bad)}; use another encoder."
        )

    def batches(kept: Sequence[int]) -> Iterator[Batch]:
        for start in range(0, len(kept), BATCH_SIZE):
            rows = list(kept[start : start + BATCH_SIZE])
            yield [new[row] for row in rows], vectors[rows]

    cut = chosen.cut_texts(texts) if isinstance(chosen, SentenceTransformerEncoder) else []
    return _VectorSource(
        space_id=chosen.space_id,
        digests=vector_digests(vectors),
        batches=batches,
        cut=[new[index].cpe_id for index in cut],
    )


def _chosen_encoder(new: Sequence[Concept], name: str, state: TableState, *, settings: Settings) -> Encoder:
    """Load the named encoder. A fitted one is the one that encoded the table; if there is none, fit one."""
    if not is_fitted_by_ingest(name):
        found = encoder_named(name, encoders_dir=settings.encoders_dir)
        bare = bare_space(found.space_id)  # the id that earlier versions gave to the vectors in the table
        return (
            renamed(found, bare)
            if isinstance(found, SentenceTransformerEncoder) and bare in state.space_counts
            else found
        )
    fitted = [space for space in state.space_counts if space is not None and space.startswith(f"{name}@")]
    if fitted:
        return lsa.load_lsa(encoder_folder(settings.encoders_dir, fitted[0]))
    if state.space_counts:
        present = ", ".join(str(space) for space in state.space_counts)
        raise LvmError(
            f"The table has vectors of the space {present} under this dataset source, which {name} does not make; "
            "name their encoder with --encoder, or use another --dataset-source."
        )
    return lsa.fit_lsa(train_texts(new, settings=settings))


def _refuse_other_statistics(source: "_VectorSource", num_new: int, *, spaces_dir: Path) -> None:
    """Refuse vectors that do not fit the statistics of their declared space, all together or those of one article."""
    fingerprint = read_fingerprint(kept_path(spaces_dir, source.space_id)) if is_declared(source.space_id) else None
    if fingerprint is None or not num_new:
        return
    read = list(source.batches(range(0, num_new, -(-num_new // MAX_CONCEPTS))))
    vectors = np.concatenate([vectors for _, vectors in read])
    article_ids = [concept.article_id for concepts, _ in read for concept in concepts]
    articles, codes, counts = np.unique(article_ids, return_inverse=True, return_counts=True)
    others = {"": fingerprint.why_other(vectors)}
    for code in np.flatnonzero(counts >= fingerprint.min_vectors).tolist():  # the others are too few to be judged
        others[f" of the article {articles[code]}"] = fingerprint.why_other(vectors[codes == code])
    for where, why in others.items():
        if why is not None:
            raise LvmError(
                f"The vectors{where} are declared as space {source.space_id}, but {why}; name their own space with "
                f"--space (if the earlier ones were wrong, delete {kept_path(spaces_dir, source.space_id)})."
            )


def _refuse_another_space(state: TableState, space_id: str, *, dataset_source: str) -> None:
    others = {space: count for space, count in state.space_counts.items() if space != space_id}
    if others:
        space, count = next(iter(others.items()))
        held = f"of the space {space}" if space is not None else "of an undeclared space"
        is_unknown = space is not None and not is_declared(space)
        same = f", or if they are of the same space, omit --space and set LVM_SPACE_ID={space_id}" * is_unknown
        raise LvmError(
            f"The table already has {counted(count, 'vector')} {held} under the dataset source {dataset_source!r}, "
            f"this file has vectors of the space {space_id}; they cannot be mixed: use another --dataset-source{same}."
        )


def _raise_on_bad(records: SourceRecords, bad_rows: Sequence[BadRow], *, skip_bad: bool) -> None:
    if bad_rows and not skip_bad:
        raise BadInputError(records.path, bad_rows)
    if not records.concepts:
        raise LvmError(f"{records.path.name} has no row that can be loaded ({bad_rows[0]}); correct the file.")


def _hashes_to_train(article_id: str, settings: Settings) -> bool:
    split = split_of(
        article_id,
        seed=settings.split_seed,
        train_fraction=settings.train_fraction,
        validation_fraction=settings.validation_fraction,
    )
    return split == "train"
