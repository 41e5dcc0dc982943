"""Assign whole articles to train, validation and test.

Three rules: the seeded hash is the default; a list of validation articles makes scores comparable with published
ones; taking the last fifth of the sequences is the compatibility mode, which leaks.

Shapes: A = articles, S = sequences.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import listed
from lvm_pipeline.source.split_hash import split_of

MAX_SEEDS = 1000  # tried when a split of a small corpus is empty


def split_by_hash(
    article_ids: Sequence[str],
    groups: NDArray[np.integer],
    *,
    seed: int,
    train_fraction: float,
    validation_fraction: float,
) -> list[str]:
    """Hash each article to a split, keeping the articles of a near-duplicate group together.

    A group is train if any member hashes to train; otherwise it gets the split of its first member. So no article moves
    out of train, and an encoder fitted on the articles that hash to train has seen no validation or test article.
    `groups` (A,) holds the index of the first article of each article's group; what the fractions leave is test.
    """
    hashed = [
        split_of(article_id, seed=seed, train_fraction=train_fraction, validation_fraction=validation_fraction)
        for article_id in article_ids
    ]
    train_groups = {group for group, split in zip(groups.tolist(), hashed, strict=True) if split == "train"}
    return ["train" if group in train_groups else hashed[group] for group in groups.tolist()]


def split_by_list(article_ids: Sequence[str], validation_ids: Sequence[str]) -> list[str]:
    """Assign the listed articles to validation and all others to train; test is empty.

    Raises:
        LvmError: If a listed article is not in the table.
    """
    known = set(article_ids)
    unknown = [article_id for article_id in dict.fromkeys(validation_ids) if article_id not in known]
    if unknown:
        raise LvmError(
            f"{len(unknown)} of the listed validation articles are not in the concept table "
            f"({listed(unknown)}); remove them from the list, or extract the concepts that hold them."
        )
    chosen = set(validation_ids)
    return ["validation" if article_id in chosen else "train" for article_id in article_ids]


def split_last_fifth(num_sequences: int) -> NDArray[np.str_]:
    """Assign the last 20 % of the sequences to validation, whatever articles they belong to; shape (S,).

    Rounded so that 42,108 sequences give 33,687 train and 8,421 validation.
    """
    splits = np.full(num_sequences, "train", dtype="U10")
    splits[num_sequences - num_sequences // 5 :] = "validation"
    return splits


def suggest_seed(
    article_ids: Sequence[str],
    groups: NDArray[np.integer],
    has_sequences: NDArray[np.bool_],
    *,
    train_fraction: float,
    validation_fraction: float,
) -> int | None:
    """Return the first seed with which every split has sequences; None if none of `MAX_SEEDS` does."""
    wanted = {"train", "validation"} | ({"test"} if train_fraction + validation_fraction < 1 else set())
    for seed in range(MAX_SEEDS):
        splits = split_by_hash(
            article_ids, groups, seed=seed, train_fraction=train_fraction, validation_fraction=validation_fraction
        )
        if wanted <= set(np.array(splits)[has_sequences].tolist()):
            return seed
    return None
