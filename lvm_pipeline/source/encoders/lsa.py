"""`lsa-768`: latent semantic analysis, an encoder that needs no download.

Words are weighted by TF-IDF (sublinear term frequency), projected on the 768 leading right singular
vectors of the training texts, and scaled to unit length (Deerwester et al. 1990). It knows which words
occur together but not their order, so it is much weaker than a sentence encoder.

The randomised SVD (Halko, Martinsson and Tropp 2011, https://arxiv.org/abs/0909.4061) is not that of
scikit-learn: its QR or LU steps take 7 to 20 times as long on the demo corpus, and its other random basis
gives other vectors, which would change the space id of every home.

Shapes: N = texts, W = words in the vocabulary, D = vector width (768).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import linalg, sparse

from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import staged_dir, usual_mode, write_json
from lvm_pipeline.source.encoders.encoder import Progress, unit_length

NAME = "lsa-768"
VECTOR_DIM = 768
VERSION = 1  # increase it if the same texts give other vectors
MAX_WORDS = 20_000
RARE_BELOW = 1_000  # with this many texts or more, a word must occur in two of them
NUM_ITERATIONS = 2
OVERSAMPLING = 16
RANK_TOLERANCE = 1e-10
SEED = 0
HASH_WEIGHT = np.float32(1e-3)
WORD = r"(?u)\b\w+\b"
_WORD = re.compile(WORD)
BATCH_SIZE = 4_096
STATE_FILE, DESCRIPTION_FILE = "lsa.safetensors", "lsa.json"


@dataclass(frozen=True, kw_only=True)
class LsaEncoder:
    """A fitted encoder.

    The space id is `lsa-768@` and 12 hex digits, a hash of everything that determines the fit: the texts in their
    order, the parameters and the version of scikit-learn. Fitting the same texts again gives the same id. The vectors
    are then equal bit for bit on one machine, and to 1e-4 on machines whose linear algebra rounds differently.
    """

    space_id: str
    vocabulary: tuple[str, ...]
    idf: NDArray[np.float64]  # (W,)
    projection: NDArray[np.float32]  # (W, D)
    num_train_texts: int

    @property
    def vector_dim(self) -> int:
        return self.projection.shape[1]

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> NDArray[np.float32]:
        """Return one unit vector for each text, shape (N, D).

        A random direction, seeded by the hash of the text, is added with a weight of 0.001. So texts of the same
        words in another order have nearly but not exactly the same vector, and so does a text without a known word.
        """
        vectors = np.empty((len(texts), self.vector_dim), np.float32)
        for start in range(0, len(texts), BATCH_SIZE):
            batch = texts[start : start + BATCH_SIZE]
            vectors[start : start + BATCH_SIZE] = self._project(batch)
            if progress is not None:
                progress(start + len(batch), len(texts))
        return vectors

    def _project(self, texts: Sequence[str]) -> NDArray[np.float32]:
        weights = self._weights(texts)
        used, columns = np.unique(weights.indices, return_inverse=True)  # few rows of the projection
        narrow = sparse.csr_matrix((weights.data, columns, weights.indptr), shape=(len(texts), len(used)))
        projected = np.asarray(narrow @ self.projection[used].astype(np.float64))
        hashed = np.stack([_hash_direction(text, self.vector_dim) for text in texts])
        return unit_length(unit_length(projected) + HASH_WEIGHT * hashed)

    def _weights(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Return the TF-IDF weights of texts, (N, W): those of scikit-learn, bit for bit, without importing it."""
        columns, counts, starts = list[int](), list[int](), [0]
        for text in texts:
            found = Counter(self._columns[word] for word in _WORD.findall(text.lower()) if word in self._columns)
            columns += sorted(found)
            counts += map(found.__getitem__, columns[starts[-1] :])
            starts.append(len(columns))
        values = (np.log(np.array(counts, np.float64)) + 1) * self.idf[np.array(columns, np.int64)]
        shape = (len(texts), len(self.vocabulary))
        weights = sparse.csr_matrix((values, columns, starts), shape=shape)
        lengths = np.sqrt(weights.multiply(weights) @ np.ones(shape[1]))  # summed in the order of the columns
        weights.data /= np.repeat(lengths, np.diff(starts))
        return weights

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {word: column for column, word in enumerate(self.vocabulary)}

    def save(self, folder: Path) -> None:
        """Write the encoder to a folder, completely or not at all."""
        with staged_dir(folder) as staged:
            state = {"idf": self.idf, "projection": self.projection}
            with usual_mode(staged / STATE_FILE):
                save_file(state, staged / STATE_FILE)
            description = {
                "encoder": NAME,
                "space_id": self.space_id,
                "num_train_texts": self.num_train_texts,
                "state_sha256": _sha256_of(staged / STATE_FILE),
                "vocabulary": self.vocabulary,
            }
            write_json(staged / DESCRIPTION_FILE, description)


def fit_lsa(texts: Sequence[str]) -> LsaEncoder:
    """Fit the encoder on texts of train articles. Raises LvmError if the texts have no words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    min_df = 2 if len(texts) >= RARE_BELOW else 1
    vectorizer = TfidfVectorizer(
        max_features=MAX_WORDS,
        min_df=min_df,
        sublinear_tf=True,
        dtype=np.float64,
        token_pattern=WORD,
    )
    try:
        weights = sparse.csr_matrix(vectorizer.fit_transform(texts))
    except ValueError:  # scikit-learn: "empty vocabulary", or "no terms remain"
        words = "words" if min_df == 1 else "words that two texts share"
        raise LvmError(f"{NAME} found no {words} in the {len(texts)} train texts; load articles with text.") from None
    vocabulary = tuple(str(word) for word in vectorizer.get_feature_names_out())
    return LsaEncoder(
        space_id=f"{NAME}@{_inputs_hash(texts)}",
        vocabulary=vocabulary,
        idf=np.asarray(vectorizer.idf_, np.float64),
        projection=_projection(weights, num_texts=len(texts), num_words=len(vocabulary)),
        num_train_texts=len(texts),
    )


def load_lsa(folder: Path) -> LsaEncoder:
    """Read an encoder written by `LsaEncoder.save`. Raises LvmError if there is none, or its files are damaged."""
    if not folder.is_dir():
        raise LvmError(f"There is no fitted encoder at {folder}; restore the folder, or use another --dataset-source.")
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        state = load_file(folder / STATE_FILE)
        is_whole = description["state_sha256"] == _sha256_of(folder / STATE_FILE)
        encoder = LsaEncoder(
            space_id=description["space_id"],
            vocabulary=tuple(description["vocabulary"]),
            idf=state["idf"],
            projection=state["projection"],
            num_train_texts=description["num_train_texts"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise LvmError(f"The fitted encoder at {folder} is damaged ({error}); restore the folder.") from None
    if not is_whole:
        raise LvmError(f"The fitted encoder at {folder} was changed after it was written; restore the folder.")
    return encoder


def _projection(weights: sparse.csr_matrix, *, num_texts: int, num_words: int) -> NDArray[np.float32]:
    """Return the leading right singular vectors as columns, shape (W, D), zero beyond the rank.

    The sign of each is chosen so that its largest component is positive.
    """
    if num_words <= 2 * VECTOR_DIM or num_texts <= 2 * VECTOR_DIM:
        right = np.linalg.svd(weights.toarray(), full_matrices=False)[2][:VECTOR_DIM].T
    else:
        right = _leading_right_vectors(weights, num_words)
    largest = np.abs(right).argmax(axis=0)
    right = right * np.sign(right[largest, np.arange(right.shape[1])])
    projection = np.zeros((num_words, VECTOR_DIM), np.float32)
    projection[:, : right.shape[1]] = right
    return projection


def _leading_right_vectors(weights: sparse.csr_matrix, num_words: int) -> NDArray[np.float64]:
    """Compute the D leading right singular vectors of (N, W) by subspace iteration, shape (W, D)."""
    basis = np.random.default_rng(SEED).standard_normal((num_words, VECTOR_DIM + OVERSAMPLING))
    for _ in range(NUM_ITERATIONS):
        basis = _orthonormal(weights.T @ (weights @ basis))
    image = weights @ basis
    values, rotation = (found[..., ::-1] for found in linalg.eigh(image.T @ image))  # ascending to descending
    is_real = values[:VECTOR_DIM] > RANK_TOLERANCE * values[0]
    return basis @ rotation[:, :VECTOR_DIM][:, is_real]


def _orthonormal(basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormalise the columns by Cholesky, several times faster than QR."""
    try:
        lower = linalg.cholesky(basis.T @ basis, lower=True)
    except linalg.LinAlgError:  # the rank is below the number of columns
        return np.linalg.qr(basis)[0]
    return linalg.solve_triangular(lower, basis.T, lower=True).T


def _hash_direction(text: str, vector_dim: int) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return unit_length(np.random.default_rng(seed).standard_normal((1, vector_dim)))[0]


def _inputs_hash(texts: Sequence[str]) -> str:
    parameters = [VERSION, VECTOR_DIM, MAX_WORDS, RARE_BELOW, NUM_ITERATIONS, OVERSAMPLING, SEED]
    digest = hashlib.sha256(json.dumps([*parameters, version("scikit-learn")]).encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:12]


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
