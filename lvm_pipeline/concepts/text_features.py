"""Texts as sparse features: words, and pairs of characters in scripts that put no space between words.

Shapes: n = texts, F = features.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of pyarrow.compute are made when it is imported)

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


def text_features(texts: pa.Array) -> sparse.csr_matrix:
    """Return TF-IDF features of texts, shape (n, F), each row of length 1; a row without any known feature is 0."""
    words = pc.split_pattern_regex(pc.utf8_lower(texts.fill_null("")), NOT_WORDS)
    owners = np.repeat(np.arange(len(texts)), pc.list_value_length(words).to_numpy())
    encoded = words.flatten().dictionary_encode()
    counts = _counts(owners, encoded.indices.to_numpy(), shape=(len(texts), len(encoded.dictionary)))
    return _weighted(counts @ _parts_of(encoded.dictionary))


def _counts(rows: NDArray[np.int64], columns: NDArray[np.int32], *, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)


def _parts_of(words: pa.Array) -> sparse.csr_matrix:
    """Return which features each distinct word has, shape (words, F): itself, or its pairs of characters."""
    is_run = pc.match_substring_regex(words, WITHOUT_SPACES).to_numpy(zero_copy_only=False)
    codes: dict[str, int] = {}
    owners, parts = [], []
    for number, word in enumerate(words.to_pylist()):
        # Of a run, each character and each pair of neighbours; the empty string around a text is no word.
        found = {*word, *map("".join, pairwise(word))} if is_run[number] else {word} - {""}
        owners += [number] * len(found)
        parts += [codes.setdefault(part, len(codes)) for part in found]
    return _counts(np.array(owners, np.int64), np.array(parts, np.int32), shape=(len(words), len(codes)))


def _weighted(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    num_texts, num_features = counts.get_shape()
    num_with = np.bincount(counts.indices, minlength=num_features)
    kept = np.flatnonzero((num_with >= MIN_TEXTS) & (num_with <= MAX_FRACTION * num_texts))
    features = counts[:, kept]
    features.data = 1 + np.log(features.data)
    features = features @ sparse.diags(np.log(num_texts / num_with[kept]).astype(np.float32))
    lengths = sparse.linalg.norm(features, axis=1)
    return sparse.csr_matrix(sparse.diags((1 / np.where(lengths > 0, lengths, 1)).astype(np.float32)) @ features)
