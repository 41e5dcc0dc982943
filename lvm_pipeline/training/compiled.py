"""Training with torch.compile; off by default.

Compiling takes half a minute to two minutes for each shape of a batch. A short training never earns that back, and
batches of whole articles have many shapes. So only trainings on windows are compiled, and only architectures that
declare `gains_from_compile`: on a CPU their steps became 1.1 to 1.5 times as fast, and 450 to 1,050 steps earned back
the time to compile. Others became slower, the Performer thirty times (`benchmarks/architectures.py --compile`; the
figures are in EXPERIMENTS.md). The model itself, with its weights and names, is not changed.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lvm_pipeline.architectures import _torch_internals
from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._stack import ResidualStack
from lvm_pipeline.errors import LvmError

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # torch's own; by default it writes below /tmp
COMPILE_CACHE = ".compile_cache"


def compile_mixers(model: LatentVectorModel, *, cache_dir: Path) -> None:
    """Compile the mixers of a model at their first training step for each shape; predictions stay as they are.

    The choice of positions and the residual head are not compiled: how many positions there are depends on the data,
    which the compiler cannot follow, and rounding in the head would differ from that of a plain training. Compiled code
    is kept in `cache_dir`, also for later trainings.

    Raises:
        LvmError: At the first training step, if there is no compiler.
    """
    mixers = model.get_submodule("mixers")
    name = "mix" if isinstance(mixers, ResidualStack) else "forward"
    plain = getattr(mixers, name)
    os.environ[CACHE_VARIABLE] = str(cache_dir)
    setattr(mixers, name, _in_training(mixers, torch.compile(plain), plain))


def _in_training(mixers: nn.Module, compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def call(*inputs: Any) -> Any:
        if not mixers.training:
            return plain(*inputs)
        try:
            return compiled(*inputs)
        except _torch_internals.compiler_error() as error:
            reason = str(error).splitlines()[0]
            raise LvmError(
                f"torch.compile failed ({reason}); install a C++ compiler such as g++, or set compile to false."
            ) from None

    return call
