"""Models whose every weight is noise: a zero that some part starts from would let any mixer pass."""

import math
from dataclasses import fields

import torch

from lvm_pipeline.architectures._contract import config_with
from lvm_pipeline.architectures._registry import ARCHITECTURES, architecture_names
from lvm_pipeline.training.batches import Batch
from lvm_pipeline.training.objectives import objective_named, training_loss

VECTOR_DIM = 32
NAMES = architecture_names()


def smoke_config(name, **overrides):
    return config_with(ARCHITECTURES[name].presets["smoke"].config, {"vector_dim": VECTOR_DIM, **overrides})


@torch.no_grad()
def redraw(model, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim >= 2 else 0.5
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def build(name, *, seed=0, **overrides):
    torch.manual_seed(seed)
    return ARCHITECTURES[name].build(smoke_config(name, **overrides))


def noisy_model(name, *, dtype=torch.float64, head="none", **overrides):
    """A smoke-size model in evaluation mode, head off, every weight redrawn."""
    return redraw(build(name, head=head, **overrides)).to(dtype).eval()


def is_recurrent(name):
    with torch.device("meta"):
        return build(name).is_recurrent


def noise(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch_of(contexts, targets, is_target, condition=None):
    rows = torch.arange(1, is_target.numel() + 1).view(is_target.shape)
    return Batch(contexts=contexts, targets=targets, is_target=is_target, rows=rows, condition=condition)


def loss_on(model, contexts, targets, is_target, *, objective="cosine", condition=None):
    return training_loss(model, batch_of(contexts, targets, is_target, condition), objective_named(objective))


def usable_length(model, length):
    return length if model.max_context is None else min(length, model.max_context)


def altered(name, field):
    """Another valid value for a config field: one of the sweep if it has any, else one made from the type."""
    architecture = ARCHITECTURES[name]
    value = getattr(smoke_config(name), field)
    for candidate in architecture.sweep.get(field, ()):
        if candidate != value:
            return candidate
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return value[:-1]
    if isinstance(value, float):
        return value + 0.25
    return {"head": "means", "correction_rank": 8, "condition_dim": 16}.get(field, 2 * value if value else 1)


CONFIG_FIELDS = [(name, f.name) for name in NAMES for f in fields(ARCHITECTURES[name].config_class)]
