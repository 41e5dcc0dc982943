"""Run a module in several processes on this machine with torchrun; they end with this process.

torchrun watches the processes. When one dies, it ends the others and starts all of them again, a few times, and they
resume from their checkpoint.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from lvm_pipeline.adapters.launcher import launched

MAX_RESTARTS = 3
POLL_SECONDS = 0.2
END_SECONDS = 30.0


def torchrun_command(module: str, arguments: Sequence[str], *, num_processes: int) -> list[str]:
    """Return the command line that runs `python -m module` in `num_processes` processes."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nnodes=1",
        f"--nproc-per-node={num_processes}",
        f"--max-restarts={MAX_RESTARTS}",
        "--monitor-interval=0.5",
        "-m",
        module,
        *arguments,
    ]


def run_with_torchrun(
    module: str,
    arguments: Sequence[str],
    *,
    num_processes: int,
    environment: Mapping[str, str],
    on_wait: Callable[[], None],
) -> int:
    """Run a module with torchrun and return its exit code; `on_wait` is called a few times a second."""
    command = launched(torchrun_command(module, arguments, num_processes=num_processes))
    process = subprocess.Popen(command, env=dict(environment))
    try:
        while process.poll() is None:
            on_wait()
            time.sleep(POLL_SECONDS)
        on_wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    return process.wait()
