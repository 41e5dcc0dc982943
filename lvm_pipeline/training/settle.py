"""Resolve options that are `auto` or None."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lvm_pipeline.architectures import _torch_internals
from lvm_pipeline.architectures._contract import Architecture, ModelConfig, TrainingDefaults, config_with
from lvm_pipeline.errors import LvmError
from lvm_pipeline.measures.linear_forecast import LinearForecast, fit_linear_forecast
from lvm_pipeline.measures.weighted_means import fit_context_mix
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import Spans, TrainingData
from lvm_pipeline.training.trial import PLAIN

DEFAULTS = {
    "articles": TrainingDefaults(batch_size=400, learning_rate=2e-3),
    "windows": TrainingDefaults(batch_size=256, learning_rate=2e-3),
}


def settled(config: TrainingConfig, *, architecture: Architecture, is_leaking: bool) -> TrainingConfig:
    """Settle every `auto` and None for an architecture, data and this machine.

    Raises:
        LvmError: If the mode cannot be used with this architecture or data, or the device is not here.
    """
    why_not_articles = _why_not_articles(architecture, is_leaking=is_leaking)
    mode = config.mode if config.mode != "auto" else ("windows" if why_not_articles else "articles")
    if mode == "articles" and why_not_articles:
        raise LvmError(f"{why_not_articles}; train with mode windows.")
    if architecture.is_closed_form and (config.strategy != PLAIN or config.ema_decay):
        raise LvmError(f"{architecture.name} is solved in closed form; train it without a strategy and without EMA.")
    device = find_device(config.device)
    precision = config.precision
    if precision == "auto":
        # slower than float32 on a CPU that only emulates it
        is_fast = device.startswith("cuda") or _torch_internals.has_avx512_bfloat16()
        precision = "bfloat16" if is_fast else "float32"
    defaults = {**DEFAULTS, **architecture.training_defaults}[mode]
    return config.with_options(
        mode=mode,
        device=device,
        precision=precision,
        compile=config.compile and architecture.gains_from_compile and mode == "windows",
        batch_size=config.batch_size or defaults.batch_size,
        learning_rate=config.learning_rate or defaults.learning_rate,
    )


def model_config_for(architecture: Architecture, config: TrainingConfig, data: TrainingData) -> ModelConfig:
    """Return the preset's config with the vector width and length of the data and the config's overrides."""
    from_data = {"vector_dim": data.concepts.vector_dim, "unit_length": data.is_of_unit_length}
    return config_with(architecture.preset(config.preset).config, {**from_data, **config.model})


def fitted_weighted_mean(data: TrainingData, spans: Spans) -> dict[str, float]:
    """Return decay and article weight of the weighted mean of the context with the highest mean cosine on train."""
    first_rows, target_rows = np.repeat(spans.first_rows, spans.num_targets), spans.target_rows()
    key = hashlib.sha256(first_rows.tobytes() + target_rows.tobytes()).hexdigest()
    if key not in data.fits:
        mix = fit_context_mix(data.vectors, first_rows, target_rows)
        data.fits[key] = {"decay": mix.decay, "article_weight": mix.article_weight}
    return data.fits[key]


def fitted_linear_forecast(data: TrainingData, options: Mapping[str, Any], *, mode: str) -> LinearForecast:
    """Return the linear forecast, fitted on the targets of the train split's sequences in a training's mode."""
    spans = data.scored_spans("train", mode=mode)
    target_rows = spans.target_rows()
    return fit_linear_forecast(
        data.vectors,
        train_rows=data.train_rows(),
        first_rows=np.repeat(spans.first_rows, spans.num_targets),
        target_rows=target_rows,
        articles=data.articles_of(target_rows),
        **options,
    )


def _why_not_articles(architecture: Architecture, *, is_leaking: bool) -> str | None:
    if not architecture.causal:
        return f"{architecture.name} sees later inputs of its own context and cannot train on whole articles"
    if is_leaking:
        return "These sequences do not keep to whole articles (compatibility mode)"
    return None


def find_device(name: str) -> str:
    """Settle `auto` and check that the device is here.

    Raises:
        LvmError: If there is no such device, or it cannot be used.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LvmError(f"There is no device {name!r}; choose auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise LvmError(f"Models run on cpu or cuda, not on {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LvmError(f"The device {name} is not here ({torch.cuda.device_count()} GPUs found); choose auto or cpu.")
    return name
