"""GRU, stacked.

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
from lvm_pipeline.architectures._config import BackboneConfig
from lvm_pipeline.architectures._contract import Architecture, Preset, TrainingDefaults
from lvm_pipeline.architectures._recurrence import RecurrentLayers, gru_layer, reference_by, stacked


@dataclass(frozen=True, kw_only=True)
class GruConfig(BackboneConfig):
    num_layers: int = 3
    dropout: float = 0.5


class GruLayers(RecurrentLayers):
    def __init__(self, config: GruConfig):
        super().__init__(stacked(nn.GRU, config), gru_layer)


def reference_cell(
    x: Tensor, state: tuple[Tensor, Tensor], weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> tuple[Tensor, Tensor]:
    """Read one concept (B, H) by the formulas above; the state is h alone, given twice."""
    h, _ = state
    input_r, input_z, input_n = (x @ weight_ih.T + bias_ih).chunk(3, dim=-1)
    hidden_r, hidden_z, hidden_n = (h @ weight_hh.T + bias_hh).chunk(3, dim=-1)
    z = torch.sigmoid(input_z + hidden_z)
    n = torch.tanh(input_n + torch.sigmoid(input_r + hidden_r) * hidden_n)
    h = (1 - z) * n + z * h
    return h, h


ARCHITECTURE = Architecture(
    name="gru",
    summary="Stacked GRU",
    sources=("https://arxiv.org/abs/1406.1078", "torch.nn.GRU"),
    config_class=GruConfig,
    presets={
        "smoke": Preset(config=GruConfig(hidden_dim=96), num_params=554_860),
        "small": Preset(config=GruConfig(hidden_dim=512), num_params=5_860_940),
        "full": Preset(config=GruConfig(hidden_dim=768), num_params=12_222_796),
    },
    build_model=lambda config: Backbone(config, GruLayers(config)),
    reference=reference_by(reference_cell),
    sweep={"num_layers": (1, 2, 3)},
    training_defaults={"articles": TrainingDefaults(batch_size=600, learning_rate=3e-3)},
)
