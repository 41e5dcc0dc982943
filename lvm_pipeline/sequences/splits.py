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
from lvm_pipeline.source.split_hash import hash_fraction, split_of

MAX_SEEDS = 1000  # tried when a split of a small corpus is empty
SWALLOWED = 0.5  # share of the validation articles that near-duplicate groups must leave in validation
MIN_HASHED = 8  # with fewer validation articles, a loss of half of them may be chance
ROUNDING = 1e-9  # of a sum of fractions


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

    If that leaves less than half of the validation articles in validation, groups are assigned by size instead. Then
    articles that hash to train may be in validation or test; `sequences_do_not_leak` counts them.

    `groups` (A,) holds the index of the first article of each article's group; what the fractions leave is test.
    """
    hashed, splits = _hashed_splits(
        article_ids, groups, seed=seed, train_fraction=train_fraction, validation_fraction=validation_fraction
    )
    num_hashed = hashed.count("validation")
    if num_hashed < MIN_HASHED or splits.count("validation") >= SWALLOWED * num_hashed:
        return splits
    order = np.argsort([hash_fraction(article_id, seed=seed) for article_id in article_ids])
    fractions = {"train": train_fraction, "validation": validation_fraction}
    return _split_by_size(groups, order, fractions={**fractions, "test": 1 - sum(fractions.values())})


def _hashed_splits(
    article_ids: Sequence[str], groups: NDArray[np.integer], *, seed: int, **fractions: float
) -> tuple[list[str], list[str]]:
    """Return the split that each article hashes to, and the split of its group."""
    hashed: list[str] = [split_of(article_id, seed=seed, **fractions) for article_id in article_ids]
    train_groups = {group for group, split in zip(groups.tolist(), hashed, strict=True) if split == "train"}
    return hashed, ["train" if group in train_groups else hashed[group] for group in groups.tolist()]


def _split_by_size(
    groups: NDArray[np.integer], order: NDArray[np.integer], *, fractions: dict[str, float]
) -> list[str]:
    """Assign the largest groups to train until it is full, then each of the others to the split that is least full.

    Args:
        groups: Group of each article, shape (A,).
        order: The articles in the order of their hashes, which decides between groups of equal size, shape (A,).
        fractions: Share of each split.
    """
    sizes = np.bincount(groups, minlength=len(groups))
    leaders = [article for article in order.tolist() if groups[article] == article]
    num_assigned = dict.fromkeys((split for split, fraction in fractions.items() if fraction > ROUNDING), 0)
    split_of_group = {}
    for group in sorted(leaders, key=lambda leader: -sizes[leader]):
        filled = {split: num / fractions[split] for split, num in num_assigned.items()}
        is_train_full = num_assigned["train"] + sizes[group] > fractions["train"] * len(groups)
        emptiest = min((split for split in filled if split != "train"), key=lambda split: filled[split])
        split = emptiest if is_train_full and num_assigned["train"] else "train"
        split_of_group[group] = split
        num_assigned[split] += int(sizes[group])
    return [split_of_group[group] for group in groups.tolist()]


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
    """Return the first seed with which every split has sequences; None if none of `MAX_SEEDS` does.

    Only articles that share a group with sequences are hashed, until a seed fits them; then all articles are split.
    """
    fractions = {"train_fraction": train_fraction, "validation_fraction": validation_fraction}
    wanted = {"train", "validation"} | ({"test"} if train_fraction + validation_fraction < 1 else set())
    if len(np.unique(groups[has_sequences])) < len(wanted):
        return None
    chosen = np.flatnonzero(np.isin(groups, groups[has_sequences]))
    chosen_ids = [article_ids[index] for index in chosen.tolist()]
    _, firsts, codes = np.unique(groups[chosen], return_index=True, return_inverse=True)
    for seed in range(MAX_SEEDS):
        if not wanted <= set(_hashed_splits(chosen_ids, firsts[codes], seed=seed, **fractions)[1]):
            continue
        of_all = np.array(split_by_hash(article_ids, groups, seed=seed, **fractions))
        if wanted <= set(of_all[has_sequences].tolist()):
            return seed
    return None
