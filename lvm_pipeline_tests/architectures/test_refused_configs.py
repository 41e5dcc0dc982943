"""A config that cannot work is refused when it is made, with the field and the value seen."""

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.architectures.models import smoke_config

REFUSED = [
    ("mamba2", {"head_dim": 24}, "head_dim must be a divisor of expand \\* hidden_dim = 128, got 24"),
    ("mamba2", {"num_groups": 3}, "num_groups must be a divisor of the number of heads, 8, got 3"),
    ("mamba2", {"conv_width": 0}, "conv_width must be at least 1, got 0"),
    ("distilgpt2", {"num_heads": 5}, "num_heads must be a divisor of hidden_dim = 96, got 5"),
    ("distilgpt2", {"num_positions": 0}, "num_positions must be at least 1, got 0"),
    ("hybrid", {"num_heads": 5}, "num_heads must be a divisor of hidden_dim = 64, got 5"),
    ("hybrid", {"num_key_value_heads": 3}, "num_key_value_heads must be a divisor of num_heads = 4, got 3"),
    ("hybrid", {"mamba_per_attention": 6}, "mamba_per_attention must be below num_layers = 6, got 6"),
    ("hybrid", {"rotary_fraction": 0.3}, "rotary_fraction must be a share.* got 0.3"),
    ("retnet", {"num_heads": 5}, "num_heads must be a divisor of hidden_dim = 96, got 5"),
    ("retnet", {"value_dim": 100}, "num_heads must be a divisor of value_dim = 100, got 3"),
    ("retnet", {"num_heads": 32}, "such that hidden_dim / num_heads is even, not 3, got 32"),
    ("s4", {"state_dim": 7}, "state_dim must be an even number, at least 2, got 7"),
    ("hyena", {"order": 1}, "order must be at least 2, got 1"),
    ("hyena", {"num_positions": 0}, "num_positions must be at least 1, got 0"),
    ("hyena", {"num_bands": 0}, "num_bands must be at least 1, got 0"),
    ("performer", {"num_heads": 5}, "num_heads must be a divisor of hidden_dim = 64, got 5"),
    ("performer", {"num_heads": 64}, "such that hidden_dim / num_heads is even, not 1, got 64"),
    ("performer", {"kernel": "cosine"}, "kernel must be softmax or relu, got 'cosine'"),
    ("performer", {"num_features": 0}, "num_features must be at least 1, got 0"),
    ("performer", {"redraw_steps": -1}, "redraw_steps must be 0 .never. or more, got -1"),
    ("linformer", {"num_heads": 5}, "num_heads must be a divisor of hidden_dim = 64, got 5"),
    ("linformer", {"num_sums": 6}, "num_sums must be at most num_positions = 5, got 6"),
    ("linformer", {"num_sums": 0}, "num_sums must be at least 1, got 0"),
    ("lcm", {"num_heads": 5}, "num_heads must be a divisor of hidden_dim = 64, got 5"),
    ("lcm", {"num_heads": 64}, "such that hidden_dim / num_heads is even, not 1, got 64"),
    ("lcm_two_tower", {"schedule": "linear"}, "schedule must be one of cosine, sigmoid, got 'linear'"),
    ("lcm_two_tower", {"num_denoiser_layers": 0}, "num_denoiser_layers must be at least 1, got 0"),
    ("lcm_two_tower", {"sampling_steps": 101}, "sampling_steps must be from 1 to num_train_steps = 100, got 101"),
    ("lcm_two_tower", {"guidance_dropout": 1.0}, "guidance_dropout must be at least 0 and below 1, got 1.0"),
    ("lcm_two_tower", {"guidance_rescale": 1.5}, "guidance_rescale must be from 0 to 1, got 1.5"),
    ("lcm_two_tower", {"initial_noise_scale": -0.1}, "initial_noise_scale must be 0 or more, got -0.1"),
    ("rwkv", {"head_dim": 24}, "head_dim must be a divisor of hidden_dim = 64, got 24"),
    ("lstm", {"scales": ("a",)}, "scales must be a list of numbers, got .'a'"),
    ("lstm", {"scales": 0.5}, "scales must be a list of numbers, got 0.5"),
    ("linear", {"scales": ()}, "scales must be at least one decay"),
    ("linear", {"scales": (0.5, -0.5)}, "scales must be decays from 0 to 1, got .0.5, -0.5"),
    ("mixing", {"scales": (1.5,)}, "scales must be decays from 0 to 1, got .1.5"),
    ("rwkv", {"gate_rank": 0}, "gate_rank must be at least 1, got 0"),
]


@pytest.mark.parametrize(("name", "overrides", "message"), REFUSED)
def test_config_that_cannot_work_is_refused(name, overrides, message):
    with pytest.raises(LvmError, match=message):
        smoke_config(name, **overrides)
