"""The shared head without an architecture; every architecture has to beat it.

Equations and shapes: `_mixing_head`.
"""

from dataclasses import dataclass

from torch import Tensor

from lvm_pipeline.architectures._config import option
from lvm_pipeline.architectures._contract import Architecture, LatentVectorModel, ModelConfig, Preset
from lvm_pipeline.architectures._mixing_head import HeadState, MixingHead, reference_mixing
from lvm_pipeline.architectures._units import unit


@dataclass(frozen=True, kw_only=True)
class MixingConfig(ModelConfig):
    scales: tuple[float, ...] = option((0.0, 0.3, 0.5, 0.85, 0.93), "Decays of the context means that are weighed in.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_decays("scales")


class Mixing(LatentVectorModel):
    is_recurrent = True

    def __init__(self, config: MixingConfig):
        super().__init__(config)
        self.head = MixingHead(config.vector_dim, None, config.scales)

    def forward(self, contexts: Tensor, condition: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        return self.finish(self.head(contexts, None, at))

    def prefill(
        self, contexts: Tensor, state: HeadState | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor, HeadState]:
        predictions, state = self.head.prefill(contexts, None, state)
        return self.finish(predictions), state

    def finish(self, predictions: Tensor) -> Tensor:
        return unit(predictions) if self.config.unit_length else predictions

    def fit(self, train_vectors: Tensor) -> None:
        self.head.fit(train_vectors)

    def set_weighted_mean(self, *, decay: float, article_weight: float) -> None:
        self.head.set_weighted_mean(decay=decay, article_weight=article_weight)


def reference(model: Mixing, contexts: Tensor) -> Tensor:
    """Predict by the formulas, one position after the other."""
    return model.finish(reference_mixing(model.head, contexts))


ARCHITECTURE = Architecture(
    name="mixing",
    summary="The shared head alone: attention over the context with gains for each direction",
    sources=("lvm_pipeline/architectures/_mixing_head.py",),
    config_class=MixingConfig,
    presets={name: Preset(config=MixingConfig(), num_params=214_348) for name in ("smoke", "small", "full")},
    build_model=Mixing,
    reference=reference,
    is_baseline=True,
)
