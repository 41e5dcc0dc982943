"""Build the sequence table from a concept table.

Shapes: N = concepts, A = articles, S = sequences, T = context length in concepts.
"""

import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import explain_full_disk, read_columns
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import staged_file
from lvm_pipeline.findings import Finding
from lvm_pipeline.sequences.invariants import (
    MIN_VALIDATION_ARTICLES,
    MIN_VALIDATION_SEQUENCES,
    check_sequences,
)
from lvm_pipeline.sequences.rows import ConceptRows, read_concept_rows
from lvm_pipeline.sequences.schema import (
    SEQUENCES_SCHEMA,
    SPLITS,
    SequencesMetadata,
    SplitCounts,
    read_sequences,
    splits_of_sequences,
)
from lvm_pipeline.sequences.splits import split_by_hash, split_by_list, split_last_fifth, suggest_seed
from lvm_pipeline.sequences.windows import window_starts
from lvm_pipeline.source.split_hash import read_article_list
from lvm_pipeline.words import counted

SUMMARY_FIELDS = (
    *("context_length", "boundaries", "split_rule", "split_seed", "train_fraction", "validation_fraction"),
    *("near_duplicate_groups", "is_leaking", "leak_reason", "fingerprint", "concepts_fingerprint"),
)


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """How to cut and split; the names are those of the settings."""

    context_length: int = 5
    split_seed: int = 0
    train_fraction: float = 0.8
    validation_fraction: float = 0.1
    validation_articles: Path | None = None  # file of ids of validation articles; all others are train
    min_validation_articles: int = MIN_VALIDATION_ARTICLES
    min_validation_sequences: int = MIN_VALIDATION_SEQUENCES
    # "ignore" is the compatibility mode, whose sequences are labelled as leaking
    boundaries: Literal["respect", "ignore"] = "respect"
    split: Literal["articles", "last_20_percent"] = "articles"  # "last_20_percent" likewise

    def __post_init__(self) -> None:
        if self.split == "last_20_percent" and self.validation_articles is not None:
            raise LvmError(
                "LVM_SPLIT=last_20_percent makes its own validation split; unset it, or LVM_VALIDATION_ARTICLES."
            )


def build_sequences(
    concepts_path: Path, staged_path: Path, *, options: SequenceOptions, links_path: Path | None = None
) -> list[Finding]:
    """Cut every article into sequences, split the articles, and check the written table.

    Args:
        staged_path: Where the sequence table is written, whole or not at all; the caller promotes it if no blocking
            finding is returned.
        links_path: Where near-duplicates are saved for the next call on the same concepts; None: not saved.

    Raises:
        LvmError: If the concepts cannot be read, there is only one article, no article is long enough for a sequence,
            or the train or validation split would be empty.
    """
    rows = read_concept_rows(concepts_path, links_path=links_path)
    write_sequences(staged_path, rows, **_cut_and_split(rows, options), provenance=_provenance(options))
    return check_sequences(
        concepts_path,
        staged_path,
        rows=rows,
        min_articles=options.min_validation_articles,
        min_sequences=options.min_validation_sequences,
    )


def refuse_concepts_without_sequences(
    concepts_path: Path, *, options: SequenceOptions, links_path: Path | None = None
) -> None:
    """Raise the LvmError that `build_sequences` would raise, so that such concepts never replace valid ones."""
    _cut_and_split(read_concept_rows(concepts_path, links_path=links_path), options)


def write_sequences(
    staged_path: Path,
    rows: ConceptRows,
    *,
    starts: NDArray[np.int64],
    splits: NDArray[np.str_],
    article_splits: list[str],
    provenance: dict,
) -> None:
    """Write a sequence table with its metadata.

    `starts` are first context rows and `splits` those of the sequences, (S,) each. `provenance` has the metadata fields
    that do not follow from the concepts: `context_length`, `boundaries`, `split_rule` and, if they apply, seed,
    fractions and leak.
    """
    targets = starts + provenance["context_length"]
    article_ids = np.array(rows.article_ids, dtype=object)[rows.article_indices[targets]]
    article_splits_by_id = dict(zip(rows.article_ids, article_splits, strict=True))
    metadata = SequencesMetadata(
        fingerprint=_fingerprint(rows.metadata.fingerprint, starts, targets, splits, article_splits_by_id),
        concepts_fingerprint=rows.metadata.fingerprint,
        num_sequences=len(starts),
        split_counts=_split_counts(rows, splits, article_splits),
        near_duplicate_groups=_near_duplicate_groups(rows),
        **provenance,
    )
    known = splits_of_sequences(article_ids.tolist(), splits.tolist())
    alone = {each: split for each, split in article_splits_by_id.items() if known.get(each) != split}
    nulls = pa.nulls(len(alone), pa.int64())
    row_numbers = [pa.chunked_array([pa.array(rows, pa.int64()), nulls]) for rows in (starts, targets)]
    table = pa.table(
        [[*article_ids, *alone], *row_numbers, [*splits.tolist(), *alone.values()]], schema=SEQUENCES_SCHEMA
    )
    with staged_file(staged_path) as staged, explain_full_disk(staged_path.parent):
        pq.write_table(table.replace_schema_metadata(metadata.as_parquet_metadata()), staged, compression="zstd")


def sequences_summary(concepts_path: Path, sequences_path: Path) -> dict[str, Any]:
    """Describe a sequence table for the verification report, as plain JSON values.

    Raises:
        LvmError: If a file cannot be read, or the sequences were built from other concepts.
    """
    articles = read_columns(concepts_path, ["article_id"])["article_id"].to_pylist()
    fingerprint = read_concepts_metadata(concepts_path).fingerprint
    metadata = read_sequences(sequences_path, concepts_fingerprint=fingerprint).metadata
    lengths, context_length = Counter(articles).values(), metadata.context_length
    num_inside = sum(max(0, length - context_length) for length in lengths)
    described = metadata.as_json()
    return {
        "num_windows": metadata.num_sequences,
        "num_expected_windows": max(0, len(articles) - context_length)
        if metadata.boundaries == "ignore"
        else num_inside,
        "num_windows_inside_articles": num_inside,
        "num_articles_without_window": sum(length <= context_length for length in lengths),
        "splits": described["split_counts"],
        **{name: described[name] for name in SUMMARY_FIELDS},
    }


def _cut_and_split(rows: ConceptRows, options: SequenceOptions) -> dict[str, Any]:
    """Return starts and splits of the sequences, and splits of the articles."""
    starts = _window_starts(rows, options)
    target_articles = rows.article_indices[starts + options.context_length]
    if options.split == "last_20_percent":
        splits = split_last_fifth(len(starts))
        article_splits = _splits_of_articles(rows, target_articles, splits)
    else:
        article_splits = _split_articles(rows, options)
        splits = np.array(article_splits)[target_articles]
    _refuse_empty_split(rows, target_articles, splits, options)
    return {"starts": starts, "splits": splits, "article_splits": article_splits}


def _window_starts(rows: ConceptRows, options: SequenceOptions) -> NDArray[np.int64]:
    if len(rows.article_ids) < 2 and options.split == "articles":
        raise LvmError(
            f"The concept table holds {len(rows.article_ids)} article, but train and validation need at least one "
            "article each; load more articles."
        )
    articles = np.zeros_like(rows.article_indices) if options.boundaries == "ignore" else rows.article_indices
    try:
        starts = window_starts(articles, options.context_length)
    except ValueError as error:
        raise LvmError(f"The concept table cannot be cut ({error}); extract the concepts again.") from None
    if not len(starts):
        raise LvmError(
            f"No article is long enough: a sequence needs {options.context_length + 1} concepts, and the longest of "
            f"the {counted(len(rows.article_ids), 'article')} "
            f"has {rows.article_lengths.max(initial=0)}; load longer articles, or "
            "set a smaller LVM_CONTEXT_LENGTH."
        )
    return starts


def _split_articles(rows: ConceptRows, options: SequenceOptions) -> list[str]:
    if options.validation_articles is not None:
        return split_by_list(rows.article_ids, read_article_list(options.validation_articles))
    if options.train_fraction + options.validation_fraction > 1:
        raise LvmError(
            f"The train and validation fractions {options.train_fraction} and {options.validation_fraction} add up "
            "to more than 1; lower LVM_TRAIN_FRACTION or LVM_VALIDATION_FRACTION."
        )
    return split_by_hash(
        rows.article_ids,
        rows.near_duplicates.groups,
        seed=options.split_seed,
        train_fraction=options.train_fraction,
        validation_fraction=options.validation_fraction,
    )


def _splits_of_articles(rows: ConceptRows, target_articles: NDArray[np.int64], splits: NDArray[np.str_]) -> list[str]:
    """Return validation for articles whose sequences are all validation, else train."""
    validation = np.setdiff1d(target_articles[splits == "validation"], target_articles[splits == "train"])
    return np.where(np.isin(np.arange(len(rows.article_ids)), validation), "validation", "train").tolist()


def _refuse_empty_split(
    rows: ConceptRows, target_articles: NDArray[np.int64], splits: NDArray[np.str_], options: SequenceOptions
) -> None:
    empty = [split for split in ("train", "validation") if not np.any(splits == split)]
    if not empty:
        return
    has_sequences = np.isin(np.arange(len(rows.article_ids)), target_articles)
    num_long = counted(int(has_sequences.sum()), "article is", "articles are")
    message = f"The {empty[0]} split would be empty ({num_long} long enough for a sequence)"
    if options.split == "last_20_percent":
        raise LvmError(f"{message}; load more articles.")
    if options.validation_articles is not None:
        raise LvmError(f"{message}; list other validation articles, or load more articles.")
    joined = _largest_group_in_words(rows)
    seed = suggest_seed(
        rows.article_ids,
        rows.near_duplicates.groups,
        has_sequences,
        train_fraction=options.train_fraction,
        validation_fraction=options.validation_fraction,
    )
    advice = f", or set LVM_SPLIT_SEED={seed}, with which no split is empty" if seed is not None else ""
    if joined:
        raise LvmError(f"{message}: {joined}; delete the text that these articles share (templates, licences){advice}.")
    raise LvmError(
        f"{message}; load more articles, or name some with --validation-articles or LVM_VALIDATION_ARTICLES{advice}."
    )


def _largest_group_in_words(rows: ConceptRows) -> str:
    """Say that near-duplicates join more than half of the articles to one group; empty if they do not."""
    links, num_articles = rows.near_duplicates, len(rows.article_ids)
    sizes = np.bincount(links.groups, minlength=num_articles)
    largest = int(sizes.argmax())
    if 2 * sizes[largest] <= num_articles:
        return ""
    row, other = links.rows[links.groups[links.articles[:, 0]] == largest][0].tolist()
    return (
        f"near-duplicates, such as rows {row} and {other}, join {sizes[largest]:,} of {num_articles:,} articles to one "
        "group, which stays in one split"
    )


def _provenance(options: SequenceOptions) -> dict:
    reasons = []
    if options.boundaries == "ignore":
        reasons.append("windows cross article boundaries, so contexts hold concepts of other articles and splits")
    if options.split == "last_20_percent":
        reasons.append("the last 20 % of the sequences are validation wherever an article is cut, and contexts overlap")
    provenance = {
        "context_length": options.context_length,
        "boundaries": options.boundaries,
        "split_rule": "last_20_percent" if options.split == "last_20_percent" else "validation_articles",
        "is_leaking": bool(reasons),
        "leak_reason": "; ".join(reasons) or None,
    }
    if options.split == "articles" and options.validation_articles is None:
        provenance |= {
            "split_rule": "seeded_hash",
            "split_seed": options.split_seed,
            "train_fraction": options.train_fraction,
            "validation_fraction": options.validation_fraction,
        }
    return provenance


def _split_counts(rows: ConceptRows, splits: NDArray[np.str_], article_splits: list[str]) -> dict[str, SplitCounts]:
    of_article = np.array(article_splits)
    return {
        split: SplitCounts(
            num_articles=int(np.sum(of_article == split)),
            num_concepts=int(rows.article_lengths[of_article == split].sum()),
            num_sequences=int(np.sum(splits == split)),
        )
        for split in SPLITS
    }


def _near_duplicate_groups(rows: ConceptRows) -> list[list[str]]:
    members = defaultdict(list)
    for article_id, group in zip(rows.article_ids, rows.near_duplicates.groups.tolist(), strict=True):
        members[group].append(article_id)
    return [article_ids for article_ids in members.values() if len(article_ids) > 1]


def _fingerprint(
    concepts_fingerprint: str,
    starts: NDArray[np.int64],
    targets: NDArray[np.int64],
    splits: NDArray[np.str_],
    article_splits: dict[str, str],
) -> str:
    digest = hashlib.sha256(concepts_fingerprint.encode())
    for rows in (starts, targets):
        digest.update(np.ascontiguousarray(rows, dtype="<i8").tobytes())
    digest.update("\n".join(splits.tolist()).encode())
    digest.update(json.dumps(article_splits).encode())
    return digest.hexdigest()
