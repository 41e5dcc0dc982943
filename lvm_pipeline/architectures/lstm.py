"""LSTM, stacked.

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
from lvm_pipeline.architectures._config import BackboneConfig
from lvm_pipeline.architectures._contract import Architecture, Preset, TrainingDefaults
from lvm_pipeline.architectures._recurrence import RecurrentLayers, lstm_layer, reference_by, stacked

LstmState = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class LstmConfig(BackboneConfig):
    dropout: float = 0.5


class LstmLayers(RecurrentLayers):
    def __init__(self, config: LstmConfig):
        super().__init__(stacked(nn.LSTM, config), lstm_layer)


def reference_cell(
    x: Tensor, state: LstmState, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> LstmState:
    """Read one concept (B, H) by the formulas above."""
    h, c = state
    i, f, g, o = (x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


ARCHITECTURE = Architecture(
    name="lstm",
    summary="Stacked LSTM",
    sources=("https://doi.org/10.1162/neco.1997.9.8.1735", "torch.nn.LSTM"),
    config_class=LstmConfig,
    presets={
        "smoke": Preset(config=LstmConfig(hidden_dim=96), num_params=536_236),
        "small": Preset(config=LstmConfig(hidden_dim=512), num_params=5_335_628),
        "full": Preset(config=LstmConfig(hidden_dim=728), num_params=10_011_812),
    },
    build_model=lambda config: Backbone(config, LstmLayers(config)),
    reference=reference_by(reference_cell),
    sweep={"hidden_dim": (256, 512, 1024, 2048), "num_layers": (1, 2, 3)},
    training_defaults={"articles": TrainingDefaults(batch_size=800, learning_rate=3e-3)},
)
