"""Exchange files for the tests: as the format began, and as it is written."""

import uuid

import numpy as np

from lvm_pipeline.concepts.store import read_columns, read_vectors
from lvm_pipeline_tests.synthetic import article_vectors

LENGTHS = [9, 3, 12, 7, 8, 10, 6, 9, 11, 8]
NUM_CONCEPTS = sum(LENGTHS)
NUM_SEQUENCES = sum(max(0, n - 5) for n in LENGTHS)
COLUMNS = ["row", "cpe_id", "article_id", "article_index", "position", "concept_text", "domain", "task", "modifier"]


def objects(values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def original_concepts(concepts_path):
    """The arrays as the format began: objects wherever it is not numbers."""
    columns = read_columns(concepts_path, COLUMNS).to_pydict()
    codes = zip(columns["domain"], columns["task"], columns["modifier"], strict=True)
    return {
        "cpe_ids": objects([uuid.UUID(cpe_id) for cpe_id in columns["cpe_id"]]),
        "concept_texts": objects(columns["concept_text"]),
        "vectors": read_vectors(concepts_path),
        "tmd_codes": objects([".".join(map(str, code)) for code in codes]),
        "batch_ids": objects(columns["article_id"]),
        "seq_in_article": np.array(columns["position"]),
        "metadata": np.array({"total": NUM_CONCEPTS, "source": "user_input"}, dtype=object),
    }


def original_sequences(num_concepts=40, context_length=5, vector_dim=16, seed=0):
    """Sequences over one unbroken table, with nothing that names articles."""
    vectors = article_vectors(num_concepts, vector_dim, kind="noise", rng=np.random.default_rng(seed))
    starts = np.arange(num_concepts - context_length)
    return vectors, {
        "context_sequences": vectors[starts[:, None] + np.arange(context_length)],
        "target_vectors": vectors[starts + context_length],
        "target_texts": objects([f"text {start}" for start in starts]),
        "target_tmds": objects(["1.2.3" for _ in starts]),
        "sequence_positions": starts,
    }


def write_npz(path, arrays):
    np.savez(path, **arrays)
    return path


def with_entry(name, row, value):
    def harm(arrays):
        array = arrays[name].copy() if isinstance(value, float | int) else arrays[name].astype(object)
        array[row] = value
        return {name: array}

    return harm
