"""GRU, stacked: the fast baseline.

Paper: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014 (arXiv 1406.1078).
Code: torch.nn.GRU (cuDNN on a GPU), whose reset gate acts after the recurrent product. Left out:
bidirectional layers, which would see the target.

Shapes: B = batch, T = context in concepts, D = vector width, H = hidden width, L = layers.

    r = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)      z likewise
    n = tanh(W_in x_t + b_in + r * (W_hn h_{t-1} + b_hn))
    h_t = (1 - z) n + z h_{t-1}
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._contract import Architecture, ModelConfig, Preset
from lvm_pipeline.architectures._recurrence import gru_layer, run_layers, trains_on_cpu


@dataclass(frozen=True, kw_only=True)
class GruConfig(ModelConfig):
    """Stacked GRU layers of equal width."""

    num_layers: int = 3
    dropout: float = 0.5


class GruLayers(nn.Module):
    """L layers on (B, T, H); the state is h, (L, B, H)."""

    def __init__(self, config: GruConfig):
        """Drop out between layers, as torch does, where there is more than one."""
        super().__init__()
        between = config.dropout if config.num_layers > 1 else 0.0
        self.layers = nn.GRU(config.hidden_dim, config.hidden_dim, config.num_layers, batch_first=True, dropout=between)

    def forward(self, states: Tensor, at: Tensor | None = None) -> Tensor:
        """Mix states (B, T, H); return them, or (n, H) at the positions where `at` (B, T) is True."""
        if trains_on_cpu(states):
            return run_layers(self.layers, states, gru_layer, at=at)
        mixed = self.layers(states)[0]
        return mixed if at is None else mixed[at]

    def prefill(self, states: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mix what follows on `state`."""
        return self.layers(states, state)


def reference_layers(layers: nn.GRU, states: Tensor) -> Tensor:
    """Run the layers one concept at a time by the formulas above, (B, T, H) -> (B, T, H)."""
    for layer in range(layers.num_layers):
        weight_ih, weight_hh, bias_ih, bias_hh = (
            getattr(layers, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h = states.new_zeros(states.shape[0], layers.hidden_size)
        outputs = []
        for x in states.unbind(1):
            input_r, input_z, input_n = (x @ weight_ih.T + bias_ih).chunk(3, dim=-1)
            hidden_r, hidden_z, hidden_n = (h @ weight_hh.T + bias_hh).chunk(3, dim=-1)
            z = torch.sigmoid(input_z + hidden_z)
            n = torch.tanh(input_n + torch.sigmoid(input_r + hidden_r) * hidden_n)
            h = (1 - z) * n + z * h
            outputs.append(h)
        states = torch.stack(outputs, dim=1)
    return states


def reference(model: Backbone, contexts: Tensor) -> Tensor:
    """Predict with the plain layers."""
    assert isinstance(model.mixers, GruLayers)
    return model.predict_from(contexts, reference_layers(model.mixers.layers, model.states_of(contexts)))


def build(config: GruConfig) -> Backbone:
    """Build the model."""
    return Backbone(config, GruLayers(config))


ARCHITECTURE = Architecture(
    name="gru",
    summary="Stacked GRU, the fast baseline",
    sources=("https://arxiv.org/abs/1406.1078", "torch.nn.GRU"),
    config_class=GruConfig,
    presets={
        "smoke": Preset(config=GruConfig(hidden_dim=96), num_params=316_520),
        "small": Preset(config=GruConfig(hidden_dim=512), num_params=5_518_600),
        "full": Preset(config=GruConfig(hidden_dim=768), num_params=11_816_456),
    },
    build_model=build,
    reference=reference,
    sweep={"num_layers": (1, 2, 3)},
)
