"""What this machine is and how fast it multiplies matrices, for the benchmarks that set their figures against it."""

import ctypes
import gc
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))  # some benchmarks make their data as the tests do

MATRIX = {"cpu": 2048, "cuda": 8192}
NUM_PRODUCTS = 20  # a processor's clock takes some of them to rise


def matmul_rate(dtype: torch.dtype, device: str = "cpu", *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the floating point operations per second of a square product, the best of some."""
    width = MATRIX[torch.device(device).type]
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    product, seconds = torch.empty_like(left), []
    for _ in range(NUM_PRODUCTS):
        wait_for(device)
        started = clock()
        torch.mm(left, right, out=product)
        wait_for(device)
        seconds.append(clock() - started)
    return 2 * width**3 / min(seconds)


def wait_for(device: str) -> None:
    """Wait until the device has done what it was given; a CPU always has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def in_words(device: str, *, num_threads: int) -> str:
    """Describe the device that figures were measured on."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {num_threads} threads"


def start_peak(device: str) -> float:
    """Forget the peak of memory so far and return the megabytes that are in use now."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give back what was freed, or it would hide what comes next
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _megabytes("VmRSS:")


def peak_megabytes(device: str) -> float:
    """Return the peak of memory since `start_peak`, of the device or, on a CPU, of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _megabytes("VmHWM:")


def _megabytes(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(field)[2].split()[0]) / 1024
