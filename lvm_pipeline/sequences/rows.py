"""The columns of a concept table that the sequences stage reads.

Shapes: N = concepts, D = vector width, A = articles.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import ConceptsMetadata, read_concepts_metadata
from lvm_pipeline.concepts.store import read_columns, read_vectors
from lvm_pipeline.sequences.near_duplicates import NearDuplicateLinks, find_near_duplicates, load_links, save_links


@dataclass(frozen=True, kw_only=True)
class ConceptRows:
    """The columns of a concept table that determine its sequences."""

    path: Path  # the concept table
    article_ids: list[str]  # the A article ids in order of first appearance
    article_indices: NDArray[np.int64]  # article of each row as an index into `article_ids`, shape (N,)
    texts: list[str | None]  # the N texts
    metadata: ConceptsMetadata  # metadata of the table
    # where near-duplicates are saved between the steps of one refresh; None: they are searched for every time
    links_path: Path | None = None

    @property
    def article_lengths(self) -> NDArray[np.int64]:
        return np.bincount(self.article_indices, minlength=len(self.article_ids))

    @cached_property
    def near_duplicates(self) -> NearDuplicateLinks:
        """Articles that share near-duplicate concepts, read from `links_path` or searched for once.

        Raises:
            LvmError: If a row has no vector.
        """
        links = load_links(self.links_path, key=self.links_key) if self.links_path else None
        if links is None:
            links = find_near_duplicates(read_vectors(self.path), self.texts, self.article_indices)
            if self.links_path:
                save_links(self.links_path, links, key=self.links_key)
        return links

    @cached_property
    def links_key(self) -> str:
        """The key of saved near-duplicates: hashes of the table and of its texts."""
        texts = hashlib.sha256("\0".join(text or "" for text in self.texts).encode(errors="surrogatepass"))
        return f"{self.metadata.fingerprint}:{texts.hexdigest()}"


def read_concept_rows(path: Path, *, links_path: Path | None = None) -> ConceptRows:
    """Read articles and texts of a concept table; articles are taken from `article_id`, whatever other columns say.

    Raises:
        LvmError: If the file cannot be read.
    """
    columns = read_columns(path, ["article_id", "concept_text"])
    articles = columns["article_id"].combine_chunks().dictionary_encode()
    return ConceptRows(
        path=path,
        article_ids=articles.dictionary.to_pylist(),
        article_indices=articles.indices.to_numpy().astype(np.int64),
        texts=columns["concept_text"].to_pylist(),
        metadata=read_concepts_metadata(path),
        links_path=links_path,
    )
