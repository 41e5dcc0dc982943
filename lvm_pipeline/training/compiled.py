"""torch.compile for an architecture's mixers while they train; off unless it is asked for.

Compiling takes half a minute to two minutes for each shape of a batch, which a short training never earns back, and
batches of whole articles have many shapes. So it pays for long trainings on windows, and for the architectures that
declare `gains_from_compile`: on a CPU their steps became 1.1 to 1.5 times as fast, and 450 to 1,050 steps earned the
price back. Others became slower, the Performer thirty times (`benchmarks/architectures.py --compile`; the figures are
in EXPERIMENTS.md). Weights, names and classes stay as they are.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from lvm_pipeline.architectures._backbone import MixersInTwoParts
from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.errors import LvmError

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # torch's own; by default it writes below /tmp


def compile_mixers(model: LatentVectorModel, *, cache_dir: Path) -> None:
    """Let the mixers of a model be compiled at their first training step; predictions stay as they are.

    Args:
        model: On its device.
        cache_dir: Where the compiler keeps what it makes.

    Raises:
        LvmError: At the first step, if there is no compiler.
    """
    mixers = model.get_submodule("mixers")
    name = "mix" if isinstance(mixers, MixersInTwoParts) else "forward"
    plain = getattr(mixers, name)
    os.environ[CACHE_VARIABLE] = str(cache_dir)
    setattr(mixers, name, _in_training(mixers, torch.compile(plain), plain))


def _in_training(
    mixers: nn.Module, compiled: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    def forward(states: Tensor) -> Tensor:
        if not mixers.training:
            return plain(states)
        try:
            return compiled(states)
        except TorchDynamoException as error:
            reason = str(error).splitlines()[0]
            raise LvmError(
                f"torch.compile failed ({reason}); install a C++ compiler such as g++, or unset LVM_COMPILE."
            ) from None

    return forward
