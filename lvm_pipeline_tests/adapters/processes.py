"""Find the processes that belong to a test, by the folder that they name."""

import time

import psutil


def processes_of(folder):
    """Processes that name a folder on their command line or in their environment, but not the caller's own."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if process.pid != psutil.Process().pid and any(str(folder) in word for word in words):
            found.append(process)
    return found


def wait_until(condition, *, seconds):
    """Wait for a condition; False when it does not come in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
