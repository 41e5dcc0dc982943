"""AdamW with parameter groups, and the learning rate schedule."""

import inspect
import math
from collections import defaultdict
from typing import TYPE_CHECKING

import torch

from lvm_pipeline.architectures._contract import LatentVectorModel, declared_settings
from lvm_pipeline.architectures._mixing_head import MixingHead
from lvm_pipeline.architectures._residual_head import ResidualHead

if TYPE_CHECKING:
    from lvm_pipeline.training.config import TrainingConfig

BETAS = (0.9, 0.95)


class AdamW(torch.optim.AdamW):
    """AdamW without the wrappers that import torch's compiler, which takes seconds; optimisers are not compiled."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)


def make_optimiser(model: LatentVectorModel, config: "TrainingConfig") -> torch.optim.AdamW:
    """Make a fused AdamW whose groups follow the settings that the modules declare.

    Vectors and scalars (biases, norms, decays) have no weight decay. Where the model has a residual head, everything
    else learns at `correction_learning_rate_factor` of the learning rate. Each group keeps its factor as
    `learning_rate_factor`.
    """
    assert config.learning_rate is not None
    heads = [module for module in model.modules() if isinstance(module, ResidualHead | MixingHead)]
    in_head = {id(p) for head in heads for p in head.parameters()}
    groups = defaultdict(list)
    for _, parameter, setting in declared_settings(model):
        factor = setting.learning_rate_factor
        if in_head and id(parameter) not in in_head:
            factor *= config.correction_learning_rate_factor
        weight_decay = config.weight_decay if setting.weight_decay and parameter.ndim >= 2 else 0.0
        groups[factor, weight_decay].append(parameter)
    return AdamW(
        [
            {"params": parameters, "learning_rate_factor": factor, "weight_decay": weight_decay}
            for (factor, weight_decay), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=BETAS,
        fused=True,
    )


def set_learning_rate(
    optimiser: torch.optim.Optimizer, config: "TrainingConfig", *, peak: float, done_fraction: float
) -> float:
    """Set and return the learning rate of one step: linear warm-up to the peak of the phase, then a cosine schedule.

    `done_fraction` is the part of the phase that is done after this step, above 0 to 1. Groups keep their factors.
    """
    warmup, final = config.warmup_fraction, config.final_learning_rate_fraction
    if done_fraction < warmup:
        share = done_fraction / warmup
    else:
        through = (done_fraction - warmup) / (1 - warmup)
        share = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * through))
    for group in optimiser.param_groups:
        group["lr"] = peak * share * group["learning_rate_factor"]
    return peak * share
