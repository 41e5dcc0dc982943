"""Statistics of the vectors of a concept table, from evenly spread articles.

Shapes: n = read concepts, A = articles, D = vector width.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import explain_bad_parquet, read_concepts_metadata
from lvm_pipeline.source.space_fingerprint import MAX_CONCEPTS, SpaceFingerprint, fingerprint_of

MAX_GROUPS = 12  # row groups of whole articles that are read


class SpreadVectors(NamedTuple):
    """Vectors of whole articles, those of an article together."""

    vectors: NDArray[np.float32]  # (n, D)
    articles: NDArray[np.int64]  # index of each one's article into `article_ids`, (n,)
    article_ids: list[str]


class TableFit(NamedTuple):
    """How well the vectors of a table fit a fingerprint."""

    fit: float  # mean of all
    num_judged: int  # articles with enough vectors to be judged
    articles: list[str]  # those whose vectors are of another space, worst first


def read_spread(path: Path) -> SpreadVectors:
    """Read the usable vectors of evenly spread articles, at most about `MAX_CONCEPTS`.

    Raises:
        LvmError: If the table cannot be read.
    """
    width, tables = read_concepts_metadata(path).vector_dim, []
    with explain_bad_parquet(path), pq.ParquetFile(path) as file:
        groups = (
            np.unique(np.linspace(0, file.num_row_groups - 1, MAX_GROUPS).astype(int)) if file.num_row_groups else ()
        )
        for group in groups:
            rows = file.read_row_group(int(group), columns=["article_id", "vector"])
            widths = rows["vector"].combine_chunks().value_lengths().fill_null(-1).to_numpy()
            tables.append(rows.filter(pa.array(widths == width)))
    if not tables:
        return SpreadVectors(np.empty((0, width), np.float32), np.empty(0, np.int64), [])
    table = pa.concat_tables(tables)
    encoded = table["article_id"].combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)
    order = np.argsort(codes, kind="stable")
    order = order[codes[order] % -(-len(codes) // MAX_CONCEPTS) == 0] if len(codes) else order
    flat = table["vector"].take(pa.array(order)).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return SpreadVectors(flat.reshape(-1, width), codes[order], encoded.dictionary.to_pylist())


def fingerprint_of_table(path: Path) -> SpaceFingerprint | None:
    """Measure the vectors of a concept table; None if they are too few to tell.

    Raises:
        LvmError: If the table cannot be read.
    """
    spread = read_spread(path)
    return fingerprint_of(read_concepts_metadata(path).space_id, spread.vectors, spread.articles)


def fit_of_table(path: Path, fingerprint: SpaceFingerprint) -> TableFit | None:
    """Compare the vectors of a concept table with a fingerprint, article by article; None if they cannot be judged.

    Raises:
        LvmError: If the table cannot be read.
    """
    vectors, articles, article_ids = read_spread(path)
    if not fingerprint.min_vectors or len(vectors) < fingerprint.min_vectors:
        return None
    if vectors.shape[1] != len(fingerprint.mean):
        return TableFit(0.0, len(article_ids), article_ids)
    fits = np.nan_to_num(fingerprint.fits(vectors))
    lengths = np.bincount(articles, minlength=len(article_ids))
    means = np.bincount(articles, fits, minlength=len(article_ids)) / np.maximum(lengths, 1)
    is_judged = lengths >= fingerprint.min_vectors
    other = np.flatnonzero(is_judged & (means < fingerprint.limit))
    named = [article_ids[index] for index in other[np.argsort(means[other])].tolist()]
    return TableFit(float(fits.mean()), int(is_judged.sum()), named)
