"""LSTM: the proven baseline.

Paper: Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997; forget gate
of Gers et al., 2000. Code: torch.nn.LSTM (cuDNN on a GPU). Left out: bidirectional layers, which
would see the target, and projections.

Shapes: B = batch, T = context in concepts, D = vector width, H = hidden width, L = layers.

    i, f, g, o = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh      (gates in torch's order)
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)
    h_t = sigmoid(o) tanh(c_t)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._contract import Architecture, ModelConfig, Preset, TrainingDefaults
from lvm_pipeline.architectures._recurrence import lstm_layer, run_layers, trains_on_cpu

LstmState = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class LstmConfig(ModelConfig):
    """Stacked LSTM layers of equal width."""

    dropout: float = 0.5


class LstmLayers(nn.Module):
    """L layers on (B, T, H); the state is (h, c), each (L, B, H)."""

    def __init__(self, config: LstmConfig):
        """Drop out between layers, as torch does, where there is more than one."""
        super().__init__()
        between = config.dropout if config.num_layers > 1 else 0.0
        self.layers = nn.LSTM(
            config.hidden_dim, config.hidden_dim, config.num_layers, batch_first=True, dropout=between
        )

    def forward(self, states: Tensor, at: Tensor | None = None) -> Tensor:
        """Mix states (B, T, H); return them, or (n, H) at the positions where `at` (B, T) is True."""
        if trains_on_cpu(states):
            return run_layers(self.layers, states, lstm_layer, at=at)
        mixed = self.layers(states)[0]
        return mixed if at is None else mixed[at]

    def prefill(self, states: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState]:
        """Mix what follows on `state`."""
        return self.layers(states, state)


def reference_layers(layers: nn.LSTM, states: Tensor) -> Tensor:
    """Run the layers one concept at a time by the formulas above, (B, T, H) -> (B, T, H)."""
    for layer in range(layers.num_layers):
        weight_ih, weight_hh, bias_ih, bias_hh = (
            getattr(layers, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h = c = states.new_zeros(states.shape[0], layers.hidden_size)
        outputs = []
        for x in states.unbind(1):
            i, f, g, o = (x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        states = torch.stack(outputs, dim=1)
    return states


def reference(model: Backbone, contexts: Tensor) -> Tensor:
    """Predict with the plain layers."""
    assert isinstance(model.mixers, LstmLayers)
    return model.predict_from(contexts, reference_layers(model.mixers.layers, model.states_of(contexts)))


def build(config: LstmConfig) -> Backbone:
    """Build the model."""
    return Backbone(config, LstmLayers(config))


ARCHITECTURE = Architecture(
    name="lstm",
    summary="Stacked LSTM, the proven baseline",
    sources=("https://doi.org/10.1162/neco.1997.9.8.1735", "torch.nn.LSTM"),
    config_class=LstmConfig,
    presets={
        "smoke": Preset(config=LstmConfig(hidden_dim=96), num_params=297_896),
        "small": Preset(config=LstmConfig(hidden_dim=512), num_params=4_993_288),
        "full": Preset(config=LstmConfig(hidden_dim=744), num_params=10_017_248),
    },
    build_model=build,
    reference=reference,
    sweep={"hidden_dim": (256, 512, 1024, 2048), "num_layers": (1, 2, 3)},
    training_defaults={"articles": TrainingDefaults(batch_size=800, learning_rate=3e-3)},
)
