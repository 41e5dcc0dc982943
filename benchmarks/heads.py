"""What the head costs: latency and memory of a step after many concepts, and training speed, for each kind of head.

    python benchmarks/heads.py [--architecture lstm] [--preset small] [--lengths 5 100 500] [--json]

The state of the head of means has a fixed size; that of the mixing head holds every concept read and its keys.
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch
from steps import num_targets, optimiser_step, random_vectors
from torch import Tensor

from lvm_pipeline.architectures._config import HEADS
from lvm_pipeline.architectures._contract import LatentVectorModel, config_with
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.training.config import TrainingConfig

NUM_TIMED = 20
ARTICLES, ARTICLE_LENGTH = 11, 37  # about 400 targets, as in training


def main() -> None:
    """Measure every head in one run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--architecture", default="lstm")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--lengths", type=int, nargs="+", default=[5, 100, 500])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    architecture = load_architecture(arguments.architecture)
    rows = []
    for head in HEADS:
        torch.manual_seed(0)
        model = architecture.build(config_with(architecture.preset(arguments.preset).config, {"head": head}))
        row: dict[str, Any] = {"head": head}
        for length in arguments.lengths:
            row |= step_cost(model.eval(), length)
        row["targets_per_second"] = round(training_speed(model.train(), arguments.threads))
        rows.append(row)
    if arguments.json:
        print(json.dumps({"architecture": arguments.architecture, "preset": arguments.preset, "heads": rows}))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


@torch.inference_mode()
def step_cost(model: LatentVectorModel, length: int) -> dict[str, Any]:
    """Return milliseconds of one step after `length` concepts, and the size of the state, in kilobytes."""
    _, state = model.prefill(random_vectors(1, length, model.config.vector_dim))
    vector = random_vectors(1, 1, model.config.vector_dim)[:, 0]
    model.step(vector, state)
    times = []
    for _ in range(NUM_TIMED):
        start = time.perf_counter()
        model.step(vector, state)
        times.append(time.perf_counter() - start)
    return {
        f"step_ms_at_{length}": round(1e3 * statistics.median(times), 2),
        f"state_kb_at_{length}": round(num_bytes(state) / 1024),
    }


def num_bytes(state: Any) -> int:
    """Return the bytes of all tensors in a state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    return sum(num_bytes(each) for each in state) if isinstance(state, list | tuple) else 0


def training_speed(model: LatentVectorModel, threads: int) -> float:
    """Return targets per second of optimiser steps on whole articles, in float32."""
    config = TrainingConfig(device="cpu", num_threads=threads, learning_rate=1e-3, precision="float32")
    step = optimiser_step(model, config, ARTICLES, ARTICLE_LENGTH)
    step()
    times = []
    for _ in range(NUM_TIMED):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return num_targets(ARTICLES, ARTICLE_LENGTH) / statistics.median(times)


if __name__ == "__main__":
    main()
