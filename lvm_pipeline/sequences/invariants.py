"""Invariants of a sequence table, checked against the concept table.

The checks use none of the code that builds the table, except the search for near-duplicates, which tests compare with
a slow reference. In the compatibility mode, which leaks by design, failures of these checks are warnings.

Shapes: N = concepts, S = sequences, T = context length in concepts.
"""

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.findings import MAX_LISTED, Finding, InvariantCheck, Severity, declared_in, invariant, listed
from lvm_pipeline.sequences.rows import ConceptRows, read_concept_rows
from lvm_pipeline.sequences.schema import SPLITS, Sequences, read_sequences
from lvm_pipeline.source.space_ids import FITTED
from lvm_pipeline.source.split_hash import hash_fraction
from lvm_pipeline.words import counted

MIN_VALIDATION_ARTICLES, MIN_VALIDATION_SEQUENCES = 20, 200
AGAIN = "Materialise sequences again; do not train on this file."


def invariants() -> tuple[InvariantCheck[...], ...]:
    """Return the invariants of a sequence table, in the order in which they are checked and reported."""
    return declared_in(globals())


def check_sequences(
    concepts_path: Path,
    sequences_path: Path,
    *,
    rows: ConceptRows | None = None,
    min_articles: int = MIN_VALIDATION_ARTICLES,
    min_sequences: int = MIN_VALIDATION_SEQUENCES,
) -> list[Finding]:
    """Check every invariant of a sequence table.

    Args:
        concepts_path: The concept table.
        sequences_path: The sequence table.
        rows: The rows of the concept table, if they were read already; saves a second search for near-duplicates.
        min_articles: Articles that validation needs.
        min_sequences: Sequences that validation needs.

    Raises:
        LvmError: If a file cannot be read, or the sequences were built from other concepts.
    """
    rows = rows or read_concept_rows(concepts_path)
    sequences = read_sequences(sequences_path, concepts_fingerprint=rows.metadata.fingerprint)
    options = {"splits_have_their_share": {"min_articles": min_articles, "min_sequences": min_sequences}}
    return [check(rows, sequences, **options.get(check.name, {})) for check in invariants()]


@invariant(remedy=AGAIN)
def windows_stay_inside_articles(rows: ConceptRows, sequences: Sequences) -> Finding:
    """The context and the target of every sequence are consecutive rows of one article."""
    context_length = sequences.metadata.context_length
    lies_in_table = (sequences.first_rows >= 0) & (sequences.target_rows < len(rows.article_indices))
    has_length = sequences.target_rows - sequences.first_rows == context_length
    is_good = lies_in_table & has_length
    named = _indices_of(rows, sequences.article_ids)
    for offset in range(context_length + 1):
        window_rows = np.where(is_good, sequences.first_rows + offset, 0)
        is_good &= rows.article_indices[window_rows] == named
    bad = np.flatnonzero(~is_good)
    windows = [
        {
            "sequence": int(index),
            "first_row": int(sequences.first_rows[index]),
            "target_row": int(sequences.target_rows[index]),
            "article_id": str(sequences.article_ids[index]),
        }
        for index in bad[:MAX_LISTED]
    ]
    where = ", ".join(f"rows {window['first_row']} to {window['target_row']}" for window in windows)
    return windows_stay_inside_articles.from_count(
        len(bad),
        f"{len(bad):,} of {len(is_good):,} windows are not {context_length + 1} rows of their article ({where})",
        otherwise=f"all {len(is_good):,} windows are inside their article",
        severity=_severity(sequences),
        details={"windows": windows},
    )


@invariant(remedy=AGAIN)
def window_count_is_exact(rows: ConceptRows, sequences: Sequences) -> Finding:
    """An article of n concepts gives max(0, n - context length) sequences: one for each target with a full context."""
    context_length = sequences.metadata.context_length
    lengths = zip(rows.article_ids, rows.article_lengths.tolist(), strict=True)
    expected = {article_id: max(0, length - context_length) for article_id, length in lengths}
    target_articles = Counter(sequences.article_ids.tolist())
    wrong = {
        article_id: {"windows": target_articles[article_id], "expected": expected.get(article_id, 0)}
        for article_id in [*expected, *(target_articles.keys() - expected.keys())]
        if target_articles[article_id] != expected.get(article_id, 0)
    }
    num_repeated = len(sequences.first_rows) - len(np.unique(sequences.first_rows))
    num_expected = sum(expected.values())
    problems = []
    if wrong:
        problems.append(f"articles with a wrong number of windows: {listed(list(wrong))}")
    if num_repeated:
        problems.append(counted(num_repeated, "window is repeated", "windows are repeated"))
    if problems:
        problems.insert(
            0, f"{counted(len(sequences.first_rows), 'window')}, expected {num_expected:,} from the article lengths"
        )
    return window_count_is_exact.from_problems(
        problems,
        otherwise=f"{counted(num_expected, 'window')}, as expected from the article lengths",
        severity=_severity(sequences),
        observed=len(sequences.first_rows),
        allowed=num_expected,
        details={"articles": dict(list(wrong.items())[:MAX_LISTED]), "repeated_windows": num_repeated},
    )


@invariant(remedy="Materialise sequences again, or correct the list of validation articles (LVM_VALIDATION_ARTICLES).")
def articles_are_in_one_split(rows: ConceptRows, sequences: Sequences) -> Finding:
    """Every article is in exactly one split with all its sequences.

    Otherwise a model would be scored on articles that it has seen in training.
    """
    declared = sequences.article_splits
    one_split = [{split} for split in SPLITS]
    known = set(rows.article_ids)
    found: dict[str, set[str]] = {article_id: {split} for article_id, split in declared.items()}
    target_articles = rows.article_indices[np.clip(sequences.target_rows, 0, len(rows.texts) - 1)]
    targets = [rows.article_ids[index] for index in target_articles.tolist()]
    for ids in (targets, sequences.article_ids.tolist()):
        for article_id, split in set(zip(ids, sequences.splits.tolist(), strict=True)):
            found.setdefault(article_id, set()).add(split)
    bad = {
        article_id: sorted(found.get(article_id, set()))
        for article_id in dict.fromkeys([*rows.article_ids, *found])
        if article_id not in declared or article_id not in known or found[article_id] not in one_split
    }
    described = [f"{article_id}: {' and '.join(splits) or 'no split'}" for article_id, splits in bad.items()]
    return articles_are_in_one_split.from_count(
        len(bad),
        f"{counted(len(bad), 'article is', 'articles are')} not in exactly one split ({listed(described)})",
        otherwise=f"each of the {len(rows.article_ids):,} articles is in one split",
        severity=_severity(sequences),
        details={"articles": dict(list(bad.items())[:MAX_LISTED])},
    )


@invariant(
    remedy="Delete the listed copies, or move their articles to one split. The default split by seed does that itself."
)
def no_near_duplicate_across_splits(rows: ConceptRows, sequences: Sequences) -> Finding:
    """No concept has a near-duplicate, by text or vector, in another split."""
    splits = [sequences.article_splits.get(article_id) for article_id in rows.article_ids]
    links = rows.near_duplicates
    crossing = [
        {
            "rows": [int(row), int(other)],
            "articles": [rows.article_ids[article], rows.article_ids[other_article]],
            "splits": [splits[article], splits[other_article]],
        }
        for (row, other), (article, other_article) in zip(links.rows, links.articles, strict=True)
        if splits[article] != splits[other_article]
    ]
    described = [
        f"row {pair['rows'][0]} of {pair['articles'][0]} ({pair['splits'][0]}) and "
        f"row {pair['rows'][1]} of {pair['articles'][1]} ({pair['splits'][1]})"
        for pair in crossing
    ]
    return no_near_duplicate_across_splits.from_count(
        len(crossing),
        f"{counted(len(crossing), 'pair of near-duplicates is', 'pairs of near-duplicates are')} "
        f"in different splits: {listed(described)}",
        otherwise=f"no concept has a near-duplicate in another split ({counted(len(links.rows), 'pair')} "
        "inside one split)",
        severity=_severity(sequences),
        details={"pairs": crossing[:MAX_LISTED]},
    )


@invariant(remedy="Load more articles, or list more articles for the empty split.")
def every_split_has_sequences(rows: ConceptRows, sequences: Sequences) -> Finding:
    """Train, validation and test split contain sequences. An empty test split is only a warning.

    No test split is expected if validation articles are listed, or the fractions of the other splits add up to one.
    """
    metadata = sequences.metadata
    is_all = (metadata.train_fraction or 0.0) + (metadata.validation_fraction or 0.0) >= 1
    filled = SPLITS if metadata.split_rule == "seeded_hash" and not is_all else ("train", "validation")
    empty = [split for split in filled if not np.any(sequences.splits == split)]
    return every_split_has_sequences.from_count(
        len(empty),
        f"there are no sequences in the split {' or '.join(empty)}",
        otherwise=f"there are sequences in the splits {listed(filled)}",
        severity=Severity.WARNING if empty == ["test"] else None,
        details={"empty_splits": empty},
    )


@invariant(
    remedy="If near-duplicates are listed, delete the text that these articles share (templates, licences). "
    "Otherwise load more articles, raise LVM_VALIDATION_FRACTION, or set another LVM_SPLIT_SEED."
)
def splits_have_their_share(
    rows: ConceptRows,
    sequences: Sequences,
    *,
    min_articles: int = MIN_VALIDATION_ARTICLES,
    min_sequences: int = MIN_VALIDATION_SEQUENCES,
) -> Finding:
    """The validation split is large enough for a score: by default 20 articles and 200 sequences.

    It blocks if the table is large enough for that and the split still has less than half of its share, as when
    near-duplicates chain most articles into one group. A table that is too small is a warning.
    """
    metadata = sequences.metadata
    counts = metadata.split_counts
    has_sequences = {*sequences.article_ids[sequences.splits == "validation"].tolist()}
    num_articles, num_sequences = len(has_sequences), counts["validation"].num_sequences
    asked = (metadata.validation_fraction or 0.0) * metadata.num_sequences
    is_short = num_articles < min_articles or num_sequences < min_sequences
    is_short_of_articles_only = is_short and num_sequences >= min_sequences
    is_swallowed = is_short and asked >= min_sequences and num_sequences < asked / 2
    sizes = " / ".join(str(counts[split].num_sequences) for split in SPLITS)
    largest = max(metadata.near_duplicate_groups, key=len, default=[])
    problem = (
        f"validation has {counted(num_articles, 'article')} "
        f"and {counted(num_sequences, 'sequence')}, at least {min_articles} and "
        f"{min_sequences} are needed ({sizes} sequences in {', '.join(SPLITS)})"
    )
    if is_swallowed and largest:
        lengths = dict(zip(rows.article_ids, rows.article_lengths.tolist(), strict=True))
        longest = sorted(largest, key=lambda article_id: -lengths[article_id])[:MAX_LISTED]
        names = listed([f"{article_id} ({lengths[article_id]})" for article_id in longest], len(largest))
        problem += (
            f"; near-duplicates join {len(largest):,} of {len(rows.article_ids):,} articles to one group: {names}"
        )
    return splits_have_their_share.from_count(
        is_short,
        problem,
        otherwise=f"validation has {counted(num_articles, 'article')} and {counted(num_sequences, 'sequence')} "
        f"({sizes})",
        severity=None if is_swallowed and not metadata.is_leaking else Severity.WARNING,
        observed=num_articles if is_short_of_articles_only else num_sequences,
        allowed=min_articles if is_short_of_articles_only else min_sequences,
        details={
            "num_articles": num_articles,
            "min_articles": min_articles,
            "num_sequences": num_sequences,
            "min_sequences": min_sequences,
            "num_asked_sequences": asked,
            "largest_group": largest[:MAX_LISTED],
            "num_in_largest_group": len(largest),
        },
    )


@invariant(
    severity=Severity.WARNING,
    remedy="Unset LVM_BOUNDARIES and LVM_SPLIT, or import a file that names its articles, unless you need the original "
    "numbers for comparison. If near-duplicates are the cause, delete the text that these articles share (templates, "
    "licences), or encode the texts with another encoder.",
)
def sequences_do_not_leak(rows: ConceptRows, sequences: Sequences) -> Finding:
    """Sequences and splits keep articles whole.

    In the compatibility mode they do not, and scores say nothing about unseen articles. It also warns if articles on
    which `lvm ingest` may have fitted the encoder `lsa-768` are in validation or test because of near-duplicates.
    """
    metadata, seen = sequences.metadata, _seen_by_encoder(rows, sequences)
    problems = [f"scores from these sequences leak: {metadata.leak_reason}"] * metadata.is_leaking
    if seen:
        problems.append(
            f"near-duplicates moved {counted(len(seen), 'article')} to validation or test on which "
            f"the encoder {rows.metadata.space_id} may have been fitted ({listed(seen)})"
        )
    return sequences_do_not_leak.from_problems(
        problems,
        otherwise="the sequences keep articles whole",
        allowed=None,
        details={
            "split_rule": metadata.split_rule,
            "boundaries": metadata.boundaries,
            "num_articles_seen_by_encoder": len(seen),
        },
    )


def _seen_by_encoder(rows: ConceptRows, sequences: Sequences) -> list[str]:
    """Return the validation and test articles that hash to train, if the encoder is fitted on those."""
    seed, train_fraction = sequences.metadata.split_seed, sequences.metadata.train_fraction
    if not rows.metadata.space_id.startswith(FITTED) or seed is None or train_fraction is None:
        return []
    return [
        article_id
        for article_id, split in sequences.article_splits.items()
        if split != "train" and hash_fraction(article_id, seed=seed) < train_fraction
    ]


def _severity(sequences: Sequences) -> Severity | None:
    return Severity.WARNING if sequences.metadata.is_leaking else None


def _indices_of(rows: ConceptRows, article_ids: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return the article index of each id, -1 where the table has no such article."""
    index_of = {article_id: index for index, article_id in enumerate(rows.article_ids)}
    return np.array([index_of.get(article_id, -1) for article_id in article_ids.tolist()], dtype=np.int64)
