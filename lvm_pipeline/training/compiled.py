"""Training with torch.compile; off by default.

Compiling takes half a minute to two minutes for each shape of a batch. A short training never earns that back, and
batches of whole articles have many shapes. So only trainings on windows are compiled, and only architectures that
declare `gains_from_compile`: on a CPU their steps became 1.1 to 1.5 times as fast, and 450 to 1,050 steps earned back
the time to compile. Others became slower, the Performer thirty times (`benchmarks/architectures.py --compile`; the
figures are in EXPERIMENTS.md). The model itself, with its weights and names, is not changed.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lvm_pipeline.architectures import _torch_internals
from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.errors import LvmError

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # torch's own; by default it writes below /tmp
COMPILE_CACHE = ".compile_cache"


class CompiledModel(nn.Module):
    """A model that torch.compile compiles at its first call for each shape; for training steps only."""

    def __init__(self, model: LatentVectorModel):
        """Share the weights of the model."""
        super().__init__()
        self.compiled = torch.compile(model)

    def forward(self, *inputs: Any) -> Any:
        """Call the compiled model.

        Raises:
            LvmError: If there is no compiler.
        """
        try:
            return self.compiled(*inputs)
        except _torch_internals.compiler_error() as error:
            reason = str(error).splitlines()[0]
            raise LvmError(
                f"torch.compile failed ({reason}); install a C++ compiler such as g++, or unset LVM_COMPILE."
            ) from None


def compiled_model(model: LatentVectorModel, *, cache_dir: Path) -> CompiledModel:
    """Wrap a model so that its training steps are compiled.

    Args:
        model: On its device. It can still be called as it is, for instance for validation.
        cache_dir: Where the compiler keeps its results, also for later trainings.

    Returns:
        The wrapper; it shares the weights of the model.
    """
    os.environ[CACHE_VARIABLE] = str(cache_dir)
    return CompiledModel(model)
