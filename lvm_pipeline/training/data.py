"""The data of a training: memory-mapped vectors, articles and sequences that belong together.

Shapes: N = concepts, A = articles, S = sequences, R = spans, D = vector width.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import ConceptsMetadata, read_concepts_metadata
from lvm_pipeline.concepts.store import Articles, article_ranges, memory_mapped_vectors, read_columns
from lvm_pipeline.errors import LvmError
from lvm_pipeline.sequences.schema import Sequences, Split, read_sequences
from lvm_pipeline.training.spans import Spans as Spans
from lvm_pipeline.training.spans import consecutive
from lvm_pipeline.training.tmd_vectors import CONDITION_DIM, read_tmd_vectors
from lvm_pipeline.words import counted

UNIT_LENGTH_TOLERANCE = 1e-3
MAX_SAMPLE_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    vectors: NDArray[np.float32]  # all vectors, memory-mapped, shape (N, D)
    articles: Articles  # where each article lies
    article_splits: NDArray[np.str_]  # split of each article, shape (A,)
    sequences: Sequences  # contexts and targets by row
    concepts: ConceptsMetadata  # metadata of the concept table
    concepts_path: Path | None = None  # the concept table, for columns that some models and strategies read
    encoders_dir: Path | None = None  # folder of encoders, for strategies that need one
    decoders_dir: Path | None = None  # folder of trained text decoders, likewise

    def has_written_negatives(self) -> bool:
        """Return whether the table names a soft or hard negative of any concept."""
        if self.concepts_path is None:
            return False
        columns = read_columns(self.concepts_path, ["soft_negatives", "hard_negatives"])
        return any(len(each.combine_chunks().flatten().drop_null()) for each in columns.columns)

    def condition(self, condition_dim: int) -> NDArray[np.float32] | None:
        """Return the TMD vector of every concept, (N, C), zeros where it is null; None for a model without a condition.

        Raises:
            LvmError: If the table has no TMD vectors, or `condition_dim` is not their width.
        """
        if condition_dim == 0:
            return None
        if condition_dim != CONDITION_DIM:
            raise LvmError(
                f"condition_dim is {condition_dim}, but the TMD vectors of the concepts have {CONDITION_DIM} numbers; "
                f"set condition_dim to {CONDITION_DIM}, or to 0 for no condition."
            )
        found = None if self.concepts_path is None else read_tmd_vectors(self.concepts_path)
        if found is None:
            raise LvmError(
                "The concepts have no TMD vectors (column tmd_dense), so a model with a condition cannot read them; "
                "load concepts with TMD vectors, or set condition_dim to 0."
            )
        return found

    @property
    def fingerprints(self) -> dict[str, str]:
        return {"concepts": self.concepts.fingerprint, "sequences": self.sequences.metadata.fingerprint}

    @property
    def context_length(self) -> int:
        return self.sequences.metadata.context_length

    def train_rows(self) -> NDArray[np.int64]:
        """Return the rows of all concepts of train articles, ascending."""
        chosen = self.article_splits == "train"
        return consecutive(self.articles.first_rows[chosen], self.articles.lengths[chosen])

    def articles_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of the article of each row."""
        return np.searchsorted(self.articles.first_rows, rows, side="right") - 1

    def window_spans(self, split: Split) -> Spans:
        """Return one span for each sequence of a split: T context concepts, the target after the last."""
        indices = self.sequences.of_split(split)
        lengths = np.full(len(indices), self.context_length)
        return Spans(first_rows=self.sequences.first_rows[indices], lengths=lengths, first_targets=lengths - 1)

    def article_spans(self, split: Split) -> Spans:
        """Return one span for each article of a split, with a target at every position."""
        chosen = np.flatnonzero((self.article_splits == split) & (self.articles.lengths >= 2))
        lengths = self.articles.lengths[chosen] - 1
        return Spans(first_rows=self.articles.first_rows[chosen], lengths=lengths, first_targets=np.zeros_like(lengths))

    def scored_spans(self, split: Split, *, mode: str) -> Spans:
        """Return spans whose targets are exactly those of a split's sequences, in their order.

        Mode `windows` gives every target its T concepts of context, `articles` all before it.

        Raises:
            LvmError: If the sequences do not keep to whole articles and the mode is articles.
        """
        if mode == "windows":
            return self.window_spans(split)
        target_rows = self.sequences.target_rows[self.sequences.of_split(split)]
        articles = self.articles_of(target_rows)
        chosen, first = np.unique(articles, return_index=True)
        spans = Spans(
            first_rows=self.articles.first_rows[chosen],
            lengths=self.articles.lengths[chosen] - 1,
            first_targets=target_rows[first] - self.articles.first_rows[chosen] - 1,
        )
        if (spans.first_targets < 0).any() or not np.array_equal(spans.target_rows(), target_rows):
            raise LvmError("These sequences do not keep to whole articles (compatibility mode); use mode windows.")
        return spans

    def train_sample(self) -> NDArray[np.float32]:
        """Return an even sample of at most `MAX_SAMPLE_ROWS` train vectors, for estimates, shape (n, D)."""
        rows = self.train_rows()
        return np.asarray(self.vectors[rows[:: -(-len(rows) // MAX_SAMPLE_ROWS) or 1]])

    @cached_property
    def fits(self) -> dict[str, dict[str, float]]:
        """Cache of fitted values by a hash of the rows they were fitted on; the trials of a process share it."""
        return {}

    @cached_property
    def is_of_unit_length(self) -> bool:
        """Whether the train concepts' vectors have length one."""
        norms = np.linalg.norm(self.train_sample(), axis=1)
        return bool(np.abs(norms - 1).max(initial=0) < UNIT_LENGTH_TOLERANCE)


def load_training_data(
    concepts_path: Path,
    sequences_path: Path,
    vectors_dir: Path,
    *,
    encoders_dir: Path | None = None,
    decoders_dir: Path | None = None,
) -> TrainingData:
    """Open a concept table and the sequences made from it; the memory-mapped vectors are kept in `vectors_dir`.

    Raises:
        LvmError: If a file cannot be read, or the sequences were made from other concepts.
    """
    concepts = read_concepts_metadata(concepts_path)
    sequences = read_sequences(sequences_path, concepts_fingerprint=concepts.fingerprint)
    articles = article_ranges(concepts_path)
    splits = sequences.article_splits
    unknown = [article_id for article_id in articles.ids if article_id not in splits]
    if unknown:
        raise LvmError(
            f"{sequences_path} names no split for {counted(len(unknown), 'article')} ({unknown[0]} is one); "
            "build the sequences again."
        )
    return TrainingData(
        vectors=memory_mapped_vectors(concepts_path, vectors_dir),
        articles=articles,
        article_splits=np.array([splits[article_id] for article_id in articles.ids]),
        sequences=sequences,
        concepts=concepts,
        concepts_path=concepts_path,
        encoders_dir=encoders_dir,
        decoders_dir=decoders_dir,
    )
