"""How long one prediction takes: batch of one, after a warm-up.

Shapes: T = context in concepts, D = vector width.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lvm_pipeline.architectures._contract import LatentVectorModel

NUM_WARM_UP = 10
NUM_TIMED = 200
LONGEST_SECONDS = 3.0
FEWEST_TIMED = 5


def latency_ms(
    model: LatentVectorModel,
    context: NDArray[np.float32],
    *,
    device: str,
    num_threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Time predictions of the concept after one context.

    Args:
        model: The model, on `device`.
        context: Shape (T, D).
        device: Where the model is; the time includes the way of the context there and of the prediction back.
        num_threads: PyTorch threads on a CPU; None leaves them as they are.
        clock: Tells seconds; `time.process_time`, with one thread, is blind to other work on the machine.

    Returns:
        `p50` and `p95` in milliseconds, with how they were measured.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads or threads)
    given = torch.from_numpy(np.asarray(context, np.float32)[None])
    seconds: list[float] = []
    try:
        _predict(model, given, device)  # the first call may compile and allocate
        started = time.perf_counter()
        while len(seconds) < NUM_WARM_UP + NUM_TIMED:
            before = clock()
            _predict(model, given, device)
            seconds.append(clock() - before)
            if time.perf_counter() - started > LONGEST_SECONDS and len(seconds) >= 2 * FEWEST_TIMED:
                break
    finally:
        torch.set_num_threads(threads)
    timed = 1000 * np.array(seconds[min(NUM_WARM_UP, len(seconds) - FEWEST_TIMED) :])
    return {
        "p50": float(np.quantile(timed, 0.5)),
        "p95": float(np.quantile(timed, 0.95)),
        "num_timed": len(timed),
        "batch_size": 1,
        "context_length": len(context),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "num_threads": num_threads or threads,
    }


@torch.inference_mode()
def _predict(model: LatentVectorModel, given: torch.Tensor, device: str) -> torch.Tensor:
    return model(given.to(device))[0, -1].float().cpu()
