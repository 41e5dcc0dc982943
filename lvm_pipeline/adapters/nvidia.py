"""The NVIDIA GPUs of this machine, whether or not PyTorch can use them."""

import shutil
import subprocess

ANSWER_SECONDS = 20


def gpus() -> list[str]:
    """Return name and driver version of each GPU; empty if there is no driver or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = filter(None, map(str.strip, done.stdout.splitlines()))
    return [" (driver ".join(line.rsplit(", ", 1)) + ")" for line in lines]
