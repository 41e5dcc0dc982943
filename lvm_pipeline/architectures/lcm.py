"""Meta LCM: Base-LCM, a causal decoder that regresses the next concept in a normalised space.

Paper: LCM team, Large Concept Models, 2024 (arXiv 2412.08821), section 2.3.1. Code:
github.com/facebookresearch/large_concept_model fd7db80, `lcm/models/base_lcm`. Left out: the end-of-text
vector and dropout of attention weights, which the authors set to zero.

Shapes: B = batch, T = context in concepts, D = vector width, H = hidden width.

    z = normalise(x)                            median and quartiles of the train rows (`_normaliser`)
    u = decoder(W_in z + b_in)                  32 layers (`_lcm_decoder`)
    prediction = denormalise(W_out u + b_out)

With the head its weighted mean is normalised too and added to W_out u + b_out before the whole is
denormalised: the mean plus scale (W_out u + b_out), exactly the mean at the start. Without it
the model is the authors'. They minimise the squared error in the normalised space; here the training's
objective is minimised, as for all architectures that predict in one pass, so that their scores compare.
No weights were ever released: every model is trained from nothing.

`published` has the authors' vector width and no head: its count is that of their code, 1,649,185,792
(their docstring says 1,647,635,456).
"""

from dataclasses import dataclass

from lvm_pipeline.architectures._attention import CausalSelfAttention, reference_attention
from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._contract import Architecture, Preset
from lvm_pipeline.architectures._lcm_decoder import DecoderConfig, decoder
from lvm_pipeline.architectures._normaliser import RobustNormaliser
from lvm_pipeline.architectures._stack import reference_of


@dataclass(frozen=True, kw_only=True)
class LcmConfig(DecoderConfig):
    """The authors' 1.6B."""

    num_layers: int = 32


ARCHITECTURE = Architecture(
    name="lcm",
    summary="Meta's Large Concept Model, Base-LCM",
    sources=(
        "https://arxiv.org/abs/2412.08821",
        "https://github.com/facebookresearch/large_concept_model (fd7db80, base_lcm)",
    ),
    config_class=LcmConfig,
    presets={
        "smoke": Preset(config=LcmConfig(hidden_dim=64, num_layers=2, num_heads=4), num_params=462_924),
        "small": Preset(config=LcmConfig(dropout=0.5, hidden_dim=256, num_layers=6, num_heads=4), num_params=5_806_156),
        "full": Preset(config=LcmConfig(), num_params=1_648_875_596),
        "published": Preset(config=LcmConfig(vector_dim=1024, head="none"), num_params=1_649_185_792),
    },
    build_model=lambda config: Backbone(
        config, decoder(config, config.num_layers), normaliser=RobustNormaliser(config.vector_dim)
    ),
    reference=reference_of({CausalSelfAttention: reference_attention}),
    sweep={"num_layers": (8, 16, 24, 32)},
)
