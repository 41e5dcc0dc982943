"""Which split an article belongs to: by a seeded hash of its id, or by a list of validation articles."""

import hashlib
from pathlib import Path
from typing import Literal

from lvm_pipeline.errors import LvmError

Split = Literal["train", "validation", "test"]


def split_of(article_id: str, *, seed: int, train_fraction: float, validation_fraction: float) -> Split:
    """Assign an article to a split by hashing its id to a number in [0, 1).

    The split depends only on the id and the seed, so a fitted encoder and sequences built later agree on it, and adding
    articles never moves an existing one; only near-duplicates may (`sequences.splits.split_by_hash`).

    Raises:
        LvmError: If the fractions add up to more than 1.
        ValueError: If `train_fraction` is not positive, or `validation_fraction` is negative.
    """
    if train_fraction + validation_fraction > 1:
        raise LvmError(
            f"The train and validation fractions {train_fraction} and {validation_fraction} add up to more than 1; "
            "lower LVM_TRAIN_FRACTION or LVM_VALIDATION_FRACTION."
        )
    if train_fraction <= 0 or validation_fraction < 0:
        raise ValueError(f"fractions must be above 0 and at least 0, got {train_fraction} and {validation_fraction}")
    fraction = hash_fraction(article_id, seed=seed)
    if fraction < train_fraction:
        return "train"
    return "validation" if fraction < train_fraction + validation_fraction else "test"


def hash_fraction(article_id: str, *, seed: int) -> float:
    """Hash an article id to a number in [0, 1), the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{article_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def read_article_list(path: Path) -> list[str]:
    """Read the file of validation articles: one article id per line.

    Surrounding spaces, blank lines, lines that start with `#` and a byte order mark are ignored.

    Raises:
        LvmError: If the file cannot be read as UTF-8 text, or lists no article.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise LvmError(
            f"The list of validation articles {path} cannot be read ({error}); correct the path (--validation-articles "
            "or LVM_VALIDATION_ARTICLES) or save the file as UTF-8 text."
        ) from None
    article_ids = [line for line in lines if line and not line.startswith("#")]
    if not article_ids:
        raise LvmError(f"The list of validation articles {path} is empty; write one article id per line.")
    return article_ids
