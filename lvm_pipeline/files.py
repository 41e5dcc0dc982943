"""Atomic writes: a file or folder is replaced only when the new one is complete."""

import ctypes
import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from lvm_pipeline.errors import LvmError

Kind = TypeVar("Kind", dict[str, Any], list[Any])

IN_USE_SECONDS = 3600.0  # a cached file that was used within this time is not deleted
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # error numbers of a disk, quota or file size that is used up

_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2  # of Linux's renameat2 and macOS's renamex_np


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; it replaces `path` when the block succeeds.

    If the block raises, `path` is unchanged and the temporary file is gone.
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
def usual_mode(path: Path) -> Iterator[None]:
    """Give a file that the block writes the permissions of other new files; safetensors writes for the owner alone."""
    path.touch()
    mode = path.stat().st_mode
    yield
    path.chmod(mode)


@contextmanager
def staged_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to `path`; it replaces `path` when the block succeeds."""
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
    """Move the folder `staged` to `path`. A folder already there is readable until the moment of the swap.

    Where the file system cannot swap two names in one step, the earlier folder is set aside first; `restore_dir` puts
    it back after a crash in between.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        staged.replace(path)
    elif _swapped(staged, path):
        shutil.rmtree(staged, ignore_errors=True)
    else:
        aside = _aside(path)
        shutil.rmtree(aside, ignore_errors=True)
        path.replace(aside)
        staged.replace(path)
        shutil.rmtree(aside, ignore_errors=True)
    _sync(path.parent)


def restore_dir(path: Path) -> None:
    """Put back the folder that an interrupted `replace_dir` had set aside, if `path` is missing."""
    if not path.exists() and _aside(path).is_dir():
        _aside(path).replace(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def _swapped(left: Path, right: Path) -> bool:
    """Swap two names in one step; return False where the system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(left), os.fsencode(right)
    if hasattr(library, "renameat2"):
        return library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
    if hasattr(library, "renamex_np"):
        return library.renamex_np(*names, _RENAME_SWAP) == 0
    return False


def link_dir(path: Path, target: Path) -> None:
    """Make `path` a relative symbolic link to the folder `target`, in place of an earlier link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    staged.symlink_to(os.path.relpath(target, path.parent), target_is_directory=True)
    try:
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def promote(staged: Path, path: Path) -> None:
    """Move a finished file to its final path on the same disk, durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sync(staged)
    staged.replace(path)
    _sync(path.parent)


def link_or_copy(source: Path, path: Path) -> None:
    """Give a file a second name (a copy where the disk has no hard links); only for files that are replaced whole."""
    with staged_file(path) as staged:
        try:
            os.link(source, staged)
        except OSError:
            shutil.copyfile(source, staged)


def write_text(path: Path, text: str) -> None:
    with staged_file(path) as staged:
        staged.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file; empty if there is no file.

    Raises:
        LvmError: If the file holds something else; the message ends with the remedy.
    """
    return _read_json(path, dict, "object", remedy=remedy)


def read_json_list(path: Path, *, remedy: str) -> list[Any]:
    """Return the array in a JSON file; empty if there is no file.

    Raises:
        LvmError: If the file holds something else; the message ends with the remedy.
    """
    return _read_json(path, list, "array", remedy=remedy)


def _read_json(path: Path, kind: type[Kind], name: str, *, remedy: str) -> Kind:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return kind()
    except (ValueError, OSError) as error:
        raise LvmError(f"{path} cannot be read ({error}); {remedy}") from None
    if not isinstance(value, kind):
        raise LvmError(f"{path} cannot be read (it holds no JSON {name}); {remedy}")
    return value


@contextmanager
def only_one(lock: Path, problem: str) -> Iterator[None]:
    """Hold a lock file while the block runs. Raises LvmError with the problem if another process holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:  # of this lock alone; the block may wait for others
        raise LvmError(problem) from None
    try:
        yield
    finally:
        held.release()


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
