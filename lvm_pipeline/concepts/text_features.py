"""Texts as sparse features: words, and pairs of characters in scripts that put no space between words.

Shapes: n = texts, F = features.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of pyarrow.compute are made when it is imported)

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

NOT_WORDS = r"[^\pL\pM\pN]+"
# Han, kana, Thai, Lao, Khmer and Burmese are written without spaces, so a "word" there is a whole clause.
WITHOUT_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
MIN_TEXTS = 2  # a feature of fewer texts tells nothing about another text
MAX_FRACTION = 0.5  # nor does one of more than half of them


@dataclass(frozen=True)
class Vocabulary:
    """The features that some texts have."""

    columns: dict[str, int]  # column of each feature
    weights: NDArray[np.float32]  # inverse document frequency of each, shape (F,)

    def features(self, texts: pa.Array) -> tuple[sparse.csr_matrix, NDArray[np.float32]]:
        """Return the features of other texts (n, F), as `text_features` does, and the share that is known (n,)."""
        counts, words = _word_counts(texts)
        parts, names = _parts_of(words)
        totals = np.asarray((counts @ parts).sum(axis=1)).ravel()
        columns = np.array([self.columns.get(name, -1) for name in names], np.int64)
        known = np.flatnonzero(columns >= 0)
        shape = (len(columns), len(self.weights))
        chosen = sparse.csr_matrix((np.ones(len(known), np.float32), (known, columns[known])), shape=shape)
        found = sparse.csr_matrix(counts @ (parts @ chosen))
        shares = np.asarray(found.sum(axis=1)).ravel() / np.maximum(totals, 1)
        return _weighted(found, self.weights), shares.astype(np.float32)


def text_features(texts: pa.Array) -> sparse.csr_matrix:
    """Return TF-IDF features of texts, shape (n, F), each row of length 1; a row without any known feature is 0."""
    return vocabulary_of(texts)[1]


def vocabulary_of(texts: pa.Array) -> tuple[Vocabulary, sparse.csr_matrix]:
    """Return the features that more than one text has, and those of each text, as `text_features` does."""
    counts, words = _word_counts(texts)
    parts, names = _parts_of(words)
    counts = sparse.csr_matrix(counts @ parts)
    num_with = np.bincount(counts.indices, minlength=len(names))
    kept = np.flatnonzero((num_with >= MIN_TEXTS) & (num_with <= MAX_FRACTION * len(texts)))
    weights = np.log(len(texts) / num_with[kept]).astype(np.float32)
    vocabulary = Vocabulary({names[column]: number for number, column in enumerate(kept.tolist())}, weights)
    return vocabulary, _weighted(sparse.csr_matrix(counts[:, kept]), weights)


def _word_counts(texts: pa.Array) -> tuple[sparse.csr_matrix, pa.Array]:
    """Count the words of each text, shape (n, words); return the words, too."""
    words = pc.split_pattern_regex(pc.utf8_lower(texts.fill_null("")), NOT_WORDS)
    owners = np.repeat(np.arange(len(texts)), pc.list_value_length(words).to_numpy())
    encoded = words.flatten().dictionary_encode()
    shape = (len(texts), len(encoded.dictionary))
    return _counts(owners, encoded.indices.to_numpy(), shape=shape), encoded.dictionary


def _counts(rows: NDArray[np.int64], columns: NDArray[np.int32], *, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)


def _parts_of(words: pa.Array) -> tuple[sparse.csr_matrix, list[str]]:
    """Return which features each distinct word has, shape (words, F): itself, or its pairs; their names."""
    is_run = pc.match_substring_regex(words, WITHOUT_SPACES).to_numpy(zero_copy_only=False)
    codes: dict[str, int] = {}
    owners, parts = [], []
    for number, word in enumerate(words.to_pylist()):
        # Of a run, each character and each pair of neighbours; the empty string around a text is no word.
        found = {*word, *map("".join, pairwise(word))} if is_run[number] else {word} - {""}
        owners += [number] * len(found)
        parts += [codes.setdefault(part, len(codes)) for part in found]
    counts = _counts(np.array(owners, np.int64), np.array(parts, np.int32), shape=(len(words), len(codes)))
    return counts, list(codes)


def _weighted(counts: sparse.csr_matrix, weights: NDArray[np.float32]) -> sparse.csr_matrix:
    features = counts.copy()
    features.data = 1 + np.log(features.data)
    features = features @ sparse.diags(weights)
    lengths = sparse.linalg.norm(features, axis=1)
    return sparse.csr_matrix(sparse.diags((1 / np.where(lengths > 0, lengths, 1)).astype(np.float32)) @ features)
