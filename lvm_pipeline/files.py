"""Written files appear whole or not at all: write beside, fsync, rename."""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

IN_USE_SECONDS = 3600.0  # a cached file that was used within this time is not deleted


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it takes `path`'s place when the block ends well.

    When the block raises, `path` is as it was and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield staged
        _sync(staged)
        staged.replace(path)
        _sync(path.parent)
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def staged_dir(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; it takes `path`'s place when the block ends well.

    A folder already at `path` is moved aside for the swap and deleted after it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    staged.mkdir()
    try:
        yield staged
        for file in staged.rglob("*"):
            _sync(file)
        replace_dir(staged, path)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def replace_dir(staged: Path, path: Path) -> None:
    """Move the folder `staged` to `path`, taking the place of what is there."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    if path.exists():
        path.replace(aside)
    staged.replace(path)
    _sync(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def promote(staged: Path, path: Path) -> None:
    """Move a finished staged file to its final place on the same disk, durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sync(staged)
    staged.replace(path)
    _sync(path.parent)


def link_or_copy(source: Path, path: Path) -> None:
    """Give a file that is only ever replaced whole a second name; a copy where the disk knows no links."""
    with staged_file(path) as staged:
        try:
            os.link(source, staged)
        except OSError:
            shutil.copyfile(source, staged)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with staged_file(path) as staged:
        staged.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def mark_used(path: Path) -> None:
    """Set the modification time of a cached file to now, for `prune_cache`."""
    with suppress(OSError):
        os.utime(path)


def prune_cache(folder: Path, pattern: str, *, num_kept: int) -> None:
    """Delete the least recently used files, but keep `num_kept` and all that were used within the last hour.

    Other processes may use and prune the same folder at the same time.
    """
    last_used = {}
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            last_used[path] = path.stat().st_mtime
    for path in sorted(last_used, key=last_used.__getitem__, reverse=True)[num_kept:]:
        if last_used[path] < time.time() - IN_USE_SECONDS:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
