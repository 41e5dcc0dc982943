"""Run a command that is terminated when its parent process ends, also if the parent is killed.

    python -m lvm_pipeline.adapters.launcher PARENT_PID COMMAND [ARGUMENT ...]

A killed parent cannot stop its children, so the kernel does (Linux only: PR_SET_PDEATHSIG, kept across exec). It is set
in a program of its own, because code between fork and exec in a process with threads may hang. The signal is sent when
the *thread* that started the child ends, so start long-lived children from the main thread.

Signal handlers are reset as well: shells start background commands with SIGINT ignored, which children inherit.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def launched(command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` as a child of this process and ends with it."""
    return [sys.executable, "-m", "lvm_pipeline.adapters.launcher", str(os.getpid()), *command]


def main(arguments: Sequence[str]) -> None:
    """Tie this process to its parent, reset signals, and exec the command."""
    parent_pid, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != int(parent_pid):
            sys.exit(f"the process {parent_pid} ended before its child {command[0]} started")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
