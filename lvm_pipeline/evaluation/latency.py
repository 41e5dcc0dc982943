"""Latency of one prediction: batch size 1, after a warm-up.

Shapes: T = context in concepts, D = vector width.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import LatentVectorModel, at_last_position
from lvm_pipeline.architectures._threads import torch_threads
from lvm_pipeline.evaluation.report_parts import Latency

NUM_WARM_UP = 10
NUM_TIMED = 200
LONGEST_SECONDS = 1.0
FEWEST_TIMED = 5


def latency_ms(
    model: LatentVectorModel,
    context: NDArray[np.float32],
    *,
    condition: NDArray[np.float32] | None = None,
    device: str,
    num_threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time predictions of the concept after one context, (T, D), with its condition (T, C) for models that have one.

    Copies to and from `device`, where the model is, are timed too. `num_threads` are PyTorch's on a CPU; None leaves
    them. `clock` returns seconds; `time.process_time`, with one thread, ignores other load on the machine.
    """
    inputs = [
        None if each is None else torch.from_numpy(np.asarray(each, np.float32)[None]) for each in (context, condition)
    ]
    seconds: list[float] = []
    with torch_threads(num_threads):
        _predict(model, inputs, device)  # the first call may compile and allocate
        started = time.perf_counter()
        while len(seconds) < NUM_WARM_UP + NUM_TIMED:
            before = clock()
            _predict(model, inputs, device)
            seconds.append(clock() - before)
            if time.perf_counter() - started > LONGEST_SECONDS and len(seconds) >= 2 * FEWEST_TIMED:
                break
    timed = 1000 * np.array(seconds[min(NUM_WARM_UP, len(seconds) - FEWEST_TIMED) :])
    return Latency(
        p50=float(np.quantile(timed, 0.5)),
        p95=float(np.quantile(timed, 0.95)),
        num_timed=len(timed),
        batch_size=1,
        context_length=len(context),
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        num_threads=num_threads or torch.get_num_threads(),
    )


@torch.inference_mode()
def _predict(model: nn.Module, inputs: list[Tensor | None], device: str) -> Tensor:
    contexts, condition = (None if each is None else each.to(device) for each in inputs)
    assert contexts is not None
    return model(contexts, condition, at_last_position(contexts))[0].float().cpu()
