"""Mamba-2: a selective state space model.

Paper: Dao and Gu, Transformers are SSMs, 2024 (arXiv 2405.21060). Code: github.com/state-spaces/mamba
e9594ce, `mamba_ssm/modules/mamba2.py` and `mamba_ssm/models/mixer_seq_simple.py`. Left out: token
embedding and head, and Mamba-3's changes. The mixer and its equations are in `_mamba2_mixer`, the state
space duality (the paper's section 6: a T x T matrix within chunks, a recurrence between them) in
`_decayed_attention`.

Shapes: B = batch, T = context in concepts, H = hidden width, L = layers.

    u_{l+1} = u_l + mixer_l(RMSNorm_l(u_l))  for l < L,  then a last RMSNorm; no MLP; the sum u stays in float32

`full` and `full_370m` have the published widths and more layers, to reach the sizes that the published
models have with their token embeddings; `published` and `published_370m` are the authors' own.
"""

from dataclasses import dataclass

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._contract import Architecture, Preset
from lvm_pipeline.architectures._mamba2_mixer import Mamba2Mixer, MixerConfig, reference_mixer
from lvm_pipeline.architectures._norms import RMSNorm
from lvm_pipeline.architectures._stack import RecurrentStack, reference_of


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(MixerConfig):
    hidden_dim: int = 768
    num_layers: int = 34


def mixers(config: Mamba2Config) -> RecurrentStack:
    layers = ([Mamba2Mixer(config, num_residuals=config.num_layers)] for _ in range(config.num_layers))
    return RecurrentStack(layers, RMSNorm, config)


ARCHITECTURE = Architecture(
    name="mamba2",
    summary="Mamba-2, a selective state space model",
    sources=("https://arxiv.org/abs/2405.21060", "https://github.com/state-spaces/mamba (e9594ce)"),
    config_class=Mamba2Config,
    presets={
        "smoke": Preset(
            config=Mamba2Config(hidden_dim=64, num_layers=2, state_dim=32, head_dim=16), num_params=390_652
        ),
        "small": Preset(
            config=Mamba2Config(dropout=0.5, hidden_dim=256, num_layers=8, state_dim=64, head_dim=32),
            num_params=4_147_148,
        ),
        "full": Preset(config=Mamba2Config(), num_params=129_613_788),
        "full_370m": Preset(config=Mamba2Config(hidden_dim=1024, num_layers=56), num_params=371_711_308),
        "published": Preset(config=Mamba2Config(num_layers=24), num_params=91_960_588),
        "published_370m": Preset(config=Mamba2Config(hidden_dim=1024, num_layers=48), num_params=318_902_860),
    },
    build_model=lambda config: Backbone(config, mixers(config)),
    reference=reference_of({Mamba2Mixer: reference_mixer}),
    sweep={"hidden_dim": (768, 1024), "num_layers": (24, 34, 48, 56)},
    gains_from_compile=True,
)
