"""Vectors with known answers, and the targets to score on them."""

import numpy as np

from lvm_pipeline.measures.targets import Targets, find_targets
from lvm_pipeline_tests.synthetic import article_vectors

SPLITS = ("train", "train", "train", "validation", "test")


def process_vectors(kind, *, lengths, vector_dim=16, seed=0):
    """Vectors of articles of the given lengths; `copies` repeats each article's first vector."""
    rng = np.random.default_rng(seed)
    if kind == "copies":
        firsts = [article_vectors(1, vector_dim, kind="noise", rng=rng) for _ in lengths]
        return np.concatenate([np.repeat(first, n, axis=0) for first, n in zip(firsts, lengths, strict=True)])
    return np.concatenate([article_vectors(n, vector_dim, kind=kind, rng=rng) for n in lengths])


def targets_on(vectors, lengths, *, context_length=5, split="validation", context_mode="windows") -> Targets:
    """Targets of every position from `context_length` on; every fourth of five articles is validation."""
    first_rows = np.cumsum(lengths) - np.asarray(lengths)
    splits = np.array([SPLITS[i % len(SPLITS)] for i in range(len(lengths))])
    positions = np.concatenate([np.arange(n) for n in lengths])
    target_rows = np.flatnonzero(positions >= context_length)
    return find_targets(
        vectors,
        article_first_rows=first_rows,
        article_splits=splits,
        target_rows=target_rows,
        target_splits=np.repeat(splits, lengths)[target_rows],
        context_length=context_length,
        split=split,
        context_mode=context_mode,
    )


def targets_of_process(kind, *, lengths=(20,) * 40, vector_dim=16, seed=0, **options) -> Targets:
    """Vectors of a process and their targets in one go."""
    return targets_on(process_vectors(kind, lengths=lengths, vector_dim=vector_dim, seed=seed), lengths, **options)
