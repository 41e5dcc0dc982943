"""A cache of what evaluations compute: arrays and JSON values, in one NPZ file for each key."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lvm_pipeline.files import mark_used, prune_cache, staged_file

Made = TypeVar("Made")


def kept_or_made(
    cache_dir: Path | None,
    kind: str,
    identity: Sequence[Any],
    *,
    make: Callable[[], Made],
    pack: Callable[[Made], tuple[Mapping[str, Any], Any]],
    unpack: Callable[[Mapping[str, Any], Any], Made | None],
    num_kept: int,
) -> Made:
    """Return what an earlier call with the same identity cached in `cache_dir`, or make it now; None: no cache.

    `pack` converts it to arrays and facts (JSON values), `unpack` converts these back, or returns None if they do not
    fit.
    The least recently used files of a kind are deleted, except `num_kept`.
    """
    if cache_dir is None:
        return make()
    path = kept_path(cache_dir, kind, identity)
    found = read_kept(path, unpack)
    if found is None:
        found = make()
        write_kept(path, *pack(found))
    mark_used(path)
    prune_cache(cache_dir, f"{kind}-*.npz", num_kept=num_kept)
    return found


def kept_path(cache_dir: Path, kind: str, identity: Sequence[Any]) -> Path:
    """Return the file of an identity, which is JSON values."""
    return cache_dir / f"{kind}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]}.npz"


def read_kept(path: Path, unpack: Callable[[Mapping[str, Any], Any], Made | None]) -> Made | None:
    """Return what a file holds; None if there is none, or it is damaged."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return unpack(file, json.loads(str(file["facts"])) if "facts" in file else None)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def write_kept(path: Path, arrays: Mapping[str, Any], facts: Any = None) -> None:
    """Write arrays and facts whole or not at all."""
    with staged_file(path) as staged, staged.open("wb") as file:
        np.savez(file, **({} if facts is None else {"facts": np.array(json.dumps(facts))}), **arrays)
