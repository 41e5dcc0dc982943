"""What the sequences stage reads of a concept table.

Shapes: N = concepts, D = vector width, A = articles.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import ConceptsMetadata, read_concepts_metadata
from lvm_pipeline.concepts.store import read_columns, read_vectors


@dataclass(frozen=True, kw_only=True)
class ConceptRows:
    """The columns of a concept table that decide sequences.

    Attributes:
        article_ids: The A article ids in order of first appearance.
        article_indices: Article of each row as an index into `article_ids`, shape (N,).
        texts: The N texts.
        vectors: Shape (N, D).
        metadata: What the table says of itself.
    """

    article_ids: list[str]
    article_indices: NDArray[np.int64]
    texts: list[str | None]
    vectors: NDArray[np.float32]
    metadata: ConceptsMetadata

    @property
    def article_lengths(self) -> NDArray[np.int64]:
        """Number of concepts of each article, shape (A,)."""
        return np.bincount(self.article_indices, minlength=len(self.article_ids))


def read_concept_rows(path: Path) -> ConceptRows:
    """Read articles, texts and vectors; articles are taken from `article_id`, whatever the other columns say.

    Raises:
        LvmError: If the file cannot be read, or a row has no vector.
    """
    columns = read_columns(path, ["article_id", "concept_text"])
    articles = columns["article_id"].combine_chunks().dictionary_encode()
    return ConceptRows(
        article_ids=articles.dictionary.to_pylist(),
        article_indices=articles.indices.to_numpy().astype(np.int64),
        texts=columns["concept_text"].to_pylist(),
        vectors=read_vectors(path),
        metadata=read_concepts_metadata(path),
    )
