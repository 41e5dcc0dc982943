"""Which split an article belongs to: a seeded hash of its id, the same on every machine and for every table."""

import hashlib
from typing import Literal

Split = Literal["train", "validation", "test"]


def split_of(article_id: str, *, seed: int, train_fraction: float, validation_fraction: float) -> Split:
    """Assign an article to a split by where the hash of its id falls in [0, 1).

    An article's split depends on nothing but its id, so a fitted encoder and the sequences of a
    later day agree on it, and new articles move no old one.

    Raises:
        ValueError: If the fractions are not positive or leave nothing for each other.
    """
    if train_fraction <= 0 or validation_fraction < 0 or train_fraction + validation_fraction > 1:
        raise ValueError(f"fractions must lie in (0, 1] together, got {train_fraction} and {validation_fraction}")
    place = hash_place(article_id, seed=seed)
    if place < train_fraction:
        return "train"
    return "validation" if place < train_fraction + validation_fraction else "test"


def hash_place(article_id: str, *, seed: int) -> float:
    """Return the article's place in [0, 1)."""
    digest = hashlib.sha256(f"{seed}:{article_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
