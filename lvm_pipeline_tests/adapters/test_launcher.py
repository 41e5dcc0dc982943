"""Promises of the launcher: a child ends with its parent and can be interrupted."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from lvm_pipeline.adapters.launcher import launched
from lvm_pipeline_tests.adapters.processes import wait_until

SLEEPER = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(600)"]
PARENT = f"""
import subprocess, time
from lvm_pipeline.adapters.launcher import launched
child = subprocess.Popen(launched({SLEEPER!r}), stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_the_child_of_a_killed_parent_ends():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()

    assert wait_until(lambda: not child.is_running(), seconds=10)


def test_a_child_whose_parent_is_gone_already_does_not_start():
    arguments = launched(SLEEPER)
    arguments[3] = "1" if os.getppid() != 1 else "2"  # the process id of the parent

    done = subprocess.run(arguments, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert "ended before its child" in done.stderr
    assert "up" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_child_can_be_interrupted_though_its_parent_ignores_the_signal(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        child = subprocess.Popen(launched(SLEEPER), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(number, before)
    with child:
        child.stdout.readline()
        child.send_signal(number)
        assert child.wait(timeout=10) != 0


def test_the_command_gets_its_arguments_and_gives_its_exit_code():
    code = "import sys; print(sys.argv[1:]); sys.exit(7)"
    done = subprocess.run(
        launched([sys.executable, "-c", code, "a b", "--c"]), capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout.strip()) == (7, "['a b', '--c']")
