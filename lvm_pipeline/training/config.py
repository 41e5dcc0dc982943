"""What a training is told: one frozen config, and how its open fields are settled for given data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import torch

from lvm_pipeline.architectures._contract import Architecture, TrainingDefaults
from lvm_pipeline.errors import LvmError

Mode = Literal["auto", "articles", "windows"]
Precision = Literal["auto", "float32", "bfloat16"]

DEFAULTS = {
    "articles": TrainingDefaults(batch_size=400, learning_rate=2e-3),
    "windows": TrainingDefaults(batch_size=256, learning_rate=2e-3),
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One training, completely.

    Attributes:
        architecture: Name of the architecture.
        preset: Named size to start from.
        model: Fields of the preset's config to replace; width and length of the vectors follow the data.
        mode: `windows` (T concepts, one target), `articles` (whole articles, a target at every position), or
            `auto`: articles where the architecture is causal and the sequences keep to articles, else windows.
        epochs: Passes over the train split, at most.
        batch_size: Targets in one optimiser step, about; None takes the architecture's or the mode's default.
        learning_rate: Peak, reached after the warm-up; None takes the architecture's or the mode's default.
        correction_learning_rate_factor: Times the learning rate for everything but the residual head.
        weight_decay: Of AdamW, for all that a module does not exempt.
        warmup_fraction: Share of the training in which the learning rate rises to its peak.
        final_learning_rate_fraction: Share of the peak at which the cosine schedule ends.
        clip_norm: Longest gradient.
        objective: What is minimised: a sum such as `cosine` or `cosine + 0.1 mse`.
        selection_metric: Validation metric that chooses the checkpoint and stops early.
        patience: Epochs without a better value before training stops.
        seed: Of weights, order and dropout.
        precision: Of the mixers' products in training; `auto` is bfloat16 on a GPU and on a CPU that multiplies it
            in hardware, else float32. Validation is in float32.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        num_threads: PyTorch threads on a CPU; results repeat bit for bit for equal numbers.
        compile: Whether to train with torch.compile where it pays, on windows and with the architectures that gain
            from it; see `training.compiled`.
        checkpoint_seconds: Time between checkpoints from which a killed training resumes.
    """

    architecture: str = "lstm"
    preset: str = "small"
    model: Mapping[str, Any] = field(default_factory=dict)
    mode: Mode = "auto"
    epochs: int = 8
    batch_size: int | None = None
    learning_rate: float | None = None
    correction_learning_rate_factor: float = 1.0
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    final_learning_rate_fraction: float = 0.05
    clip_norm: float = 1.0
    objective: str = "cosine"
    selection_metric: str = "cosine"
    patience: int = 4
    seed: int = 0
    precision: Precision = "auto"
    device: str = "auto"
    num_threads: int = 2
    compile: bool = False
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Refuse values that cannot work, with the value seen."""
        self._require(self.mode in ("auto", "articles", "windows"), "mode", "auto, articles or windows")
        self._require(self.precision in ("auto", "float32", "bfloat16"), "precision", "auto, float32 or bfloat16")
        for name in ("epochs", "patience", "num_threads"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        self._require(self.batch_size is None or self.batch_size >= 1, "batch_size", "at least 1, or nothing")
        self._require(
            self.learning_rate is None or 0 < self.learning_rate < float("inf"), "learning_rate", "above 0, or nothing"
        )
        for name in ("correction_learning_rate_factor", "clip_norm"):
            self._require(0 < getattr(self, name) < float("inf"), name, "above 0")
        for name in ("weight_decay", "checkpoint_seconds"):
            self._require(0 <= getattr(self, name) < float("inf"), name, "0 or more")
        self._require(0 <= self.warmup_fraction < 1, "warmup_fraction", "at least 0 and below 1")
        self._require(0 <= self.final_learning_rate_fraction <= 1, "final_learning_rate_fraction", "from 0 to 1")

    def _require(self, condition: bool, name: str, allowed: str) -> None:
        if not condition:
            raise LvmError(f"TrainingConfig: {name} must be {allowed}, got {getattr(self, name)!r}.")

    def as_json(self) -> dict[str, Any]:
        """Return the config as plain JSON values."""
        return {**asdict(self), "model": dict(self.model)}


def training_config(values: Mapping[str, Any]) -> TrainingConfig:
    """Make a config from named values.

    Returns:
        The config; fields that are not named keep their defaults.

    Raises:
        LvmError: If a name is no field (the message lists what exists), or a value cannot work.
    """
    known = [f.name for f in fields(TrainingConfig)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise LvmError(f"Training has no setting {', '.join(unknown)}; it has {', '.join(known)}.")
    return TrainingConfig(**values)


def settled(config: TrainingConfig, *, architecture: Architecture, is_leaking: bool) -> TrainingConfig:
    """Settle every `auto` and None for an architecture, data and this machine.

    Returns:
        The same training with nothing left open.

    Raises:
        LvmError: If the mode cannot be used with this architecture or data, or the device is not here.
    """
    why_not_articles = _why_not_articles(architecture, is_leaking=is_leaking)
    mode = config.mode if config.mode != "auto" else ("windows" if why_not_articles else "articles")
    if mode == "articles" and why_not_articles:
        raise LvmError(f"{why_not_articles}; train with mode windows.")
    device = find_device(config.device)
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if device.startswith("cuda") or _cpu_multiplies_bfloat16() else "float32"
    defaults = {**DEFAULTS, **architecture.training_defaults}[mode]
    return replace(
        config,
        mode=mode,
        device=device,
        precision=precision,
        compile=config.compile and architecture.gains_from_compile and mode == "windows",
        batch_size=config.batch_size or defaults.batch_size,
        learning_rate=config.learning_rate or defaults.learning_rate,
    )


def _why_not_articles(architecture: Architecture, *, is_leaking: bool) -> str | None:
    if not architecture.causal:
        return f"{architecture.name} sees later inputs of its own context and cannot train on whole articles"
    if is_leaking:
        return "These sequences do not keep to whole articles (compatibility mode)"
    return None


def _cpu_multiplies_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported())  # slower than float32 where it is emulated


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
