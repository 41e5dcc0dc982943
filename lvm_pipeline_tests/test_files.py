"""Promises of written files: whole or not at all, whatever happens in between."""

import errno
import json
import math
import os
import subprocess
import sys
import threading
import time

import pytest
from filelock import FileLock, Timeout

from lvm_pipeline import files
from lvm_pipeline.errors import LvmError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_half(staging, error):
    with staging as staged:
        (staged / "b" if staged.is_dir() else staged).write_text("half")
        raise error


def test_a_file_takes_its_place_when_the_block_ends_well(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with files.staged_file(path) as staged:
        staged.write_text("whole")
        assert not path.exists()
        assert staged.parent == path.parent  # on the same disk, so that the rename is atomic

    assert path.read_text() == "whole"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("broken"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failed_write_leaves_the_earlier_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("earlier")

    with pytest.raises(type(error)):
        write_half(files.staged_file(path), error)

    assert path.read_text() == "earlier"
    assert names(tmp_path) == ["file.txt"]


def test_a_failed_folder_leaves_the_earlier_folder(tmp_path):
    path = tmp_path / "folder"
    with files.staged_dir(path) as staged:
        (staged / "a").write_text("earlier")

    with pytest.raises(ValueError, match="broken"):
        write_half(files.staged_dir(path), ValueError("broken"))

    assert names(path) == ["a"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_replaces_the_whole_earlier_one(tmp_path):
    path = tmp_path / "folder"
    for name in ("a", "b"):
        with files.staged_dir(path) as staged:
            (staged / "deep").mkdir()
            (staged / "deep" / name).write_text(name)

    assert names(path / "deep") == ["b"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_is_never_absent_while_it_is_replaced(tmp_path):
    path = tmp_path / "folder"
    is_over, absences = threading.Event(), []

    def watch():
        while not is_over.is_set():
            if not (path / "a").exists():
                absences.append(time.monotonic())

    with files.staged_dir(path) as staged:
        (staged / "a").write_text("first")
    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(300):
        with files.staged_dir(path) as staged:
            (staged / "a").write_text(str(number))
    is_over.set()
    watcher.join()

    assert not absences
    assert (path / "a").read_text() == "299"
    assert names(tmp_path) == ["folder"]


def test_a_folder_set_aside_by_an_interrupted_replacement_is_put_back(tmp_path, monkeypatch):
    path, staged = tmp_path / "folder", tmp_path / "staged"
    for folder, text in ((path, "earlier"), (staged, "new")):
        folder.mkdir()
        (folder / "a").write_text(text)
    monkeypatch.setattr(files, "_swapped", lambda left, right: False)
    monkeypatch.setattr(type(staged), "replace", fails_for(staged))
    with pytest.raises(OSError, match="power"):
        files.replace_dir(staged, path)
    monkeypatch.undo()
    assert not path.exists()

    files.restore_dir(path)

    assert (path / "a").read_text() == "earlier"


def fails_for(staged):
    plain = type(staged).replace

    def replace(path, target):
        if path == staged:
            raise OSError("the power went off")
        return plain(path, target)

    return replace


def test_a_link_is_replaced_in_one_step_and_survives_a_move_of_both(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "home" / "trials" / name).mkdir(parents=True)
        files.link_dir(tmp_path / "home" / "models" / "gru", tmp_path / "home" / "trials" / name)
    (tmp_path / "home").rename(tmp_path / "moved")

    assert (tmp_path / "moved" / "models" / "gru").resolve() == tmp_path / "moved" / "trials" / "two"
    assert names(tmp_path / "moved" / "models") == ["gru"]


def test_promotion_moves_a_file(tmp_path):
    staged = tmp_path / "staging" / "file"
    staged.parent.mkdir()
    staged.write_text("new")
    target = tmp_path / "data" / "file"

    files.promote(staged, target)

    assert target.read_text() == "new"
    assert not staged.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_that_other_programs_cannot_read_is_not_written(tmp_path, value):
    path = tmp_path / "file.json"
    files.write_json(path, {"score": 1.0})

    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"score": value})

    assert json.loads(path.read_text()) == {"score": 1.0}


def test_a_reader_never_sees_a_half_written_file_when_the_writer_is_killed(tmp_path):
    path = tmp_path / "file.json"
    code = f"""
import itertools
from pathlib import Path
from lvm_pipeline.files import write_json
for number in itertools.count():
    write_json(Path({str(path)!r}), {{"number": number, "filler": "x" * 100_000}})
"""
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        while not path.exists():
            assert writer.poll() is None
            time.sleep(0.01)
        for _ in range(20):
            assert len(json.loads(path.read_text())["filler"]) == 100_000
            time.sleep(0.005)
        writer.kill()

    assert len(json.loads(path.read_text())["filler"]) == 100_000


def test_written_files_are_synced_to_disk(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), real(descriptor)))

    files.write_text(tmp_path / "file", "text")

    assert synced == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


def make_cache(folder, ages):
    """Make a file for each number of seconds since its last use."""
    for age in ages:
        path = folder / f"{age}.npy"
        path.touch()
        os.utime(path, (time.time() - age, time.time() - age))


def test_a_cache_keeps_what_was_used_last_and_all_that_may_be_in_use(tmp_path):
    make_cache(tmp_path, [10, 20, 30, 3500, 4000, 9000])
    (tmp_path / "other.txt").touch()

    files.prune_cache(tmp_path, "*.npy", num_kept=2)

    assert names(tmp_path) == ["10.npy", "20.npy", "30.npy", "3500.npy", "other.txt"]

    files.mark_used(tmp_path / "3500.npy")
    make_cache(tmp_path, [4000, 5000])
    files.prune_cache(tmp_path, "*.npy", num_kept=5)

    assert names(tmp_path) == ["10.npy", "20.npy", "30.npy", "3500.npy", "4000.npy", "other.txt"]


def test_a_cache_can_be_pruned_while_another_process_deletes_its_files(tmp_path, monkeypatch):
    make_cache(tmp_path, [10, 5000])
    listed = type(tmp_path).glob
    monkeypatch.setattr(type(tmp_path), "glob", lambda path, *args: [*listed(path, *args), path / "gone.npy"])

    files.prune_cache(tmp_path, "*.npy", num_kept=1)

    assert names(tmp_path) == ["10.npy"]
    files.mark_used(tmp_path / "gone.npy")


def test_only_one_holds_a_lock_and_another_lock_inside_says_its_own_sentence(tmp_path):
    with files.only_one(tmp_path / "outer", "outer is held"):
        with pytest.raises(LvmError, match="outer is held"), files.only_one(tmp_path / "outer", "outer is held"):
            pass
        with (
            pytest.raises(Timeout),
            files.only_one(tmp_path / "inner", "inner is held"),
            FileLock(tmp_path / "outer", timeout=0),
        ):
            pass
    with files.only_one(tmp_path / "outer", "outer is held"):
        pass
