"""Where each weight of the authors' code lives in ours, one function a reference.

Each takes tensors under the authors' names (weights, or their gradients) and returns the same under ours, transposed
where the layouts differ. Loading what comes back with `strict=True` shows that nothing is missing on either side.
"""

import torch


def mamba2_mixer(reference):
    """Theirs -> ours: conv1d.weight (C, 1, width) -> conv.weight (width, C); all other names and layouts are equal."""
    ours = {key.replace("conv1d", "conv"): value for key, value in reference.items()}
    ours["conv.weight"] = ours["conv.weight"].squeeze(1).T
    return ours


def mamba2_stack(reference):
    """layers.i.norm -> layers.i.norm, layers.i.mixer -> layers.i.inner, norm_f -> norm."""
    ours = {"norm.weight": reference["norm_f.weight"]}
    for layer in layer_numbers(reference, "layers"):
        ours[f"layers.{layer}.norm.weight"] = reference[f"layers.{layer}.norm.weight"]
        ours |= under(f"layers.{layer}.inner", mamba2_mixer(part(reference, f"layers.{layer}.mixer")))
    return ours


def gpt2_stack(reference):
    """wpe -> positions; h.i.ln_1, attn -> layers.2i; h.i.ln_2, mlp -> layers.2i+1; Conv1D (in, out) -> (out, in).

    c_attn and qkv both hold queries, keys, values in this order.
    """
    ours = {"positions": reference["wpe.weight"], **under("norm", part(reference, "ln_f"))}
    inner = {"attn.c_attn": "qkv", "attn.c_proj": "out", "mlp.c_fc": "widen", "mlp.c_proj": "narrow"}
    for layer in layer_numbers(reference, "h"):
        for theirs, name in inner.items():
            place = f"layers.{2 * layer + theirs.startswith('mlp')}.inner.{name}"
            ours[f"{place}.weight"] = reference[f"h.{layer}.{theirs}.weight"].T
            ours[f"{place}.bias"] = reference[f"h.{layer}.{theirs}.bias"]
        for number in (0, 1):
            ours |= under(f"layers.{2 * layer + number}.norm", part(reference, f"h.{layer}.ln_{number + 1}"))
    return ours


def hybrid_stack(reference):
    """input_layernorm and mamba or self_attn -> layers.2i; the norm after it and the MLP -> layers.2i+1.

    q_proj, k_proj, v_proj are stacked to qkv; gate_proj and up_proj to widen, as input_linear has them already.
    """
    last_norm = "final_layernorm.weight" if "final_layernorm.weight" in reference else "norm.weight"
    ours = {"norm.weight": reference[last_norm]}
    for layer in layer_numbers(reference, "layers"):
        theirs = part(reference, f"layers.{layer}")
        ours |= under(f"layers.{2 * layer}", _hybrid_mixer(theirs)) | under(
            f"layers.{2 * layer + 1}", _hybrid_mlp(theirs)
        )
    return ours


def _hybrid_mixer(theirs):
    ours = {"norm.weight": theirs["input_layernorm.weight"]}
    if "mamba.in_proj.weight" in theirs:
        return ours | under("inner", mamba2_mixer(part(theirs, "mamba")))
    attention = part(theirs, "self_attn")
    ours["inner.qkv.weight"] = torch.cat([attention[f"{name}_proj.weight"] for name in "qkv"])
    return ours | {"inner.out.weight": attention["o_proj.weight"]}


def _hybrid_mlp(theirs):
    if "shared_mlp.input_linear.weight" in theirs:
        norm, mlp = "post_attention_layernorm", part(theirs, "shared_mlp")
        widen, narrow = mlp["input_linear.weight"], mlp["output_linear.weight"]
    else:
        norm, mlp = "pre_ff_layernorm", part(theirs, "feed_forward")
        widen, narrow = torch.cat([mlp["gate_proj.weight"], mlp["up_proj.weight"]]), mlp["down_proj.weight"]
    return {"norm.weight": theirs[f"{norm}.weight"], "inner.widen.weight": widen, "inner.narrow.weight": narrow}


def retention(reference):
    """q_proj, k_proj, v_proj, g_proj are stacked to qkvg; out_proj -> out."""
    projections = torch.cat([reference[f"{name}_proj.weight"] for name in "qkvg"])
    return {"qkvg.weight": projections, "out.weight": reference["out_proj.weight"]}


def retnet_stack(reference):
    """retention_layer_norm, retention -> layers.2i; final_layer_norm, ffn -> layers.2i+1.

    fc1 and gate are stacked to widen in this order: silu is applied to what fc1 says. The buffers retnet_rel_pos.*
    have no place: angles and decays are computed.
    """
    ours = {"norm.weight": reference["layer_norm.weight"]}
    for layer in layer_numbers(reference, "layers"):
        theirs = part(reference, f"layers.{layer}")
        ours[f"layers.{2 * layer}.norm.weight"] = theirs["retention_layer_norm.weight"]
        ours |= under(f"layers.{2 * layer}.inner", retention(part(theirs, "retention")))
        mlp = f"layers.{2 * layer + 1}"
        ours[f"{mlp}.norm.weight"] = theirs["final_layer_norm.weight"]
        ours[f"{mlp}.inner.widen.weight"] = torch.cat([theirs["ffn.fc1.weight"], theirs["ffn.gate.weight"]])
        ours[f"{mlp}.inner.narrow.weight"] = theirs["ffn.fc2.weight"]
    return ours


def s4d_mixer(reference):
    """kernel.* and D -> state_space.*; the 1x1 convolution output_linear.0 (2H, H, 1) -> out (2H, H)."""
    ours = under("state_space", {"D": reference["D"], **part(reference, "kernel")})
    ours["out.weight"] = reference["output_linear.0.weight"].squeeze(-1)
    return ours | {"out.bias": reference["output_linear.0.bias"]}


RWKV7_LOW_RANK = {"w": "low_decay", "a": "low_rate", "v": "value_mix", "g": "low_gate"}
RWKV7_VECTORS = {"w0": "decay", "a0": "rate", "v0": "value_mix.bias", "k_k": "removal_scale", "k_a": "rate_share"}


def rwkv7_mixers(reference):
    """blocks.i.att -> time_mix, ffn -> channel_mix, ln1, ln2 -> their norms; ln0 -> first_norm, ln_out -> norm.

    x_r .. x_g are stacked to mix in the order r, w, k, v, a, g; (1, 1, H) -> (H,).
    """
    ours = under("first_norm", part(reference, "blocks.0.ln0")) | under("norm", part(reference, "ln_out"))
    for layer in layer_numbers(reference, "blocks"):
        theirs, block = part(reference, f"blocks.{layer}"), f"blocks.{layer}"
        ours |= under(f"{block}.time_norm", part(theirs, "ln1")) | under(f"{block}.channel_norm", part(theirs, "ln2"))
        ours |= under(f"{block}.time_mix", _rwkv7_time_mix(part(theirs, "att")))
        ours[f"{block}.channel_mix.mix"] = theirs["ffn.x_k"].flatten()
        for name in ("key", "value"):
            ours[f"{block}.channel_mix.{name}.weight"] = theirs[f"ffn.{name}.weight"]
    return ours


def _rwkv7_time_mix(theirs):
    ours = {"mix": torch.stack([theirs[f"x_{name}"].flatten() for name in "rwkvag"]), "bonus": theirs["r_k"]}
    ours |= {name: theirs[key].flatten() for key, name in RWKV7_VECTORS.items() if key in theirs}
    for letter, name in RWKV7_LOW_RANK.items():
        if f"{letter}1" in theirs:
            ours |= {f"{name}.down": theirs[f"{letter}1"], f"{name}.up": theirs[f"{letter}2"]}
    for key, name in (("receptance", "receptance"), ("key", "key"), ("value", "value"), ("output", "out")):
        ours[f"{name}.weight"] = theirs[f"{key}.weight"]
    return ours | under("norm", part(theirs, "ln_x"))


def rwkv4_mixers(reference):
    """blocks.i.ln1, attention -> layers.2i; ln2, feed_forward -> layers.2i+1; pre_ln -> first_norm, ln_out -> norm.

    time_mix_key, time_mix_value, time_mix_receptance -> mix_k, mix_v, mix_r, (1, 1, H) -> (H,).
    """
    names = {"time_decay": "decay", "time_first": "bonus", "output.weight": "out.weight"}
    names |= {f"time_mix_{word}": f"mix_{word[0]}" for word in ("key", "value", "receptance")}
    ours = under("first_norm", part(reference, "blocks.0.pre_ln")) | under("norm", part(reference, "ln_out"))
    for layer in layer_numbers(reference, "blocks"):
        for number, theirs in enumerate(("attention", "feed_forward")):
            place = f"layers.{2 * layer + number}"
            ours |= under(f"{place}.norm", part(reference, f"blocks.{layer}.ln{number + 1}"))
            for key, value in part(reference, f"blocks.{layer}.{theirs}").items():
                ours[f"{place}.inner.{names.get(key, key)}"] = value.flatten() if value.ndim == 3 else value
    return ours


def hyena_operator(reference):
    """in_proj -> input_projection, short_filter (C, 1, width) -> conv (width, C), out_proj -> out.

    filter_fn.bias -> skip;
    filter_fn.implicit_filter.0, 2, 4 -> filter.layers.0, 1, 2 and 6 -> amplitudes; the sines share one freq (1, W).
    pos_emb.z -> positions and pos_emb.t -> times without their outer ones; modulation.deltas -> decay, its magnitude.
    """
    ours = under("input_projection", part(reference, "in_proj")) | under("out", part(reference, "out_proj"))
    ours["conv.weight"] = reference["short_filter.weight"].squeeze(1).T
    ours["conv.bias"] = reference["short_filter.bias"]
    ours["skip"] = reference["filter_fn.bias"].unflatten(0, (-1, len(reference["out_proj.bias"])))
    return ours | under("filter", _hyena_filter(part(reference, "filter_fn")))


def _hyena_filter(theirs):
    ours = {"positions": theirs["pos_emb.z"][0], "frequency": theirs["implicit_filter.1.freq"][0]}
    ours["amplitudes"] = theirs["implicit_filter.6.weight"]
    for layer in range(3):
        ours |= under(f"layers.{layer}", part(theirs, f"implicit_filter.{2 * layer}"))
    if "pos_emb.t" in theirs:  # the gradients have none of these
        ours["times"] = theirs["pos_emb.t"].flatten()
        ours["decay"] = theirs["modulation.deltas"].flatten().abs()
    return ours


def performer_layers(reference):
    """net.layers.i.0 -> 2i, net.layers.i.1 -> 2i+1: norm -> norm, fn -> inner, fn.fn.w1, w2 -> widen, narrow.

    to_q, to_k, to_v are stacked to qkv, to_out -> out, fast_attention.projection_matrix -> projection. For the layers
    alone: the authors' Performer has no norm after the last one.
    """
    ours = {}
    for layer in layer_numbers(reference, "net.layers"):
        attention, mlp = (part(reference, f"net.layers.{layer}.{number}") for number in (0, 1))
        for number, theirs in enumerate((attention, mlp)):
            ours |= under(f"{2 * layer + number}.norm", part(theirs, "norm"))
        place = f"{2 * layer}.inner"
        for kind in ("weight", "bias"):
            ours[f"{place}.qkv.{kind}"] = torch.cat([attention[f"fn.to_{name}.{kind}"] for name in "qkv"])
        ours |= under(f"{place}.out", part(attention, "fn.to_out"))
        ours[f"{place}.projection"] = attention["fn.fast_attention.projection_matrix"]
        ours |= under(f"{2 * layer + 1}.inner.widen", part(mlp, "fn.fn.w1"))
        ours |= under(f"{2 * layer + 1}.inner.narrow", part(mlp, "fn.fn.w2"))
    return ours


LINFORMER_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out": "out"}
LINFORMER_SUMS = {"proj_k": "key_sums", "proj_v": "value_sums"}


def linformer_attention(reference):
    """to_q, to_k, to_v, to_out -> query, key, value, out; proj_k, proj_v (S, k) -> key_sums, value_sums."""
    ours = {name: reference[theirs] for theirs, name in LINFORMER_SUMS.items() if theirs in reference}
    for theirs, name in LINFORMER_NAMES.items():
        ours |= under(name, part(reference, theirs))
    return ours


def linformer_layers(reference):
    """net.layers.i.0 -> 2i, net.layers.i.1 -> 2i+1: norm -> norm, fn -> inner, w1, w2 -> widen, narrow.

    For the layers alone: the authors have no norm after the last one.
    """
    ours = {}
    for layer in layer_numbers(reference, "net.layers"):
        attention, mlp = (part(reference, f"net.layers.{layer}.{number}") for number in (0, 1))
        for number, theirs in enumerate((attention, mlp)):
            ours |= under(f"{2 * layer + number}.norm", part(theirs, "norm"))
        ours |= under(f"{2 * layer}.inner", linformer_attention(part(attention, "fn")))
        ours |= under(f"{2 * layer + 1}.inner.widen", part(mlp, "fn.w1"))
        ours |= under(f"{2 * layer + 1}.inner.narrow", part(mlp, "fn.w2"))
    return ours


def lcm_decoder(reference):
    """self_attn_layer_norm, self_attn -> layers.2i; ffn_layer_norm, ffn -> layers.2i+1; layer_norm -> norm."""
    ours = {"norm.weight": reference["layer_norm.weight"]}
    for layer in layer_numbers(reference, "layers"):
        theirs, attention, mlp = part(reference, f"layers.{layer}"), f"layers.{2 * layer}", f"layers.{2 * layer + 1}"
        ours[f"{attention}.norm.weight"] = theirs["self_attn_layer_norm.weight"]
        ours |= under(f"{attention}.inner.qkv", _stacked(theirs, "self_attn", "qkv"))
        ours |= under(f"{attention}.inner.out", part(theirs, "self_attn.output_proj"))
        ours[f"{mlp}.norm.weight"] = theirs["ffn_layer_norm.weight"]
        ours |= under(f"{mlp}.inner", _lcm_mlp(theirs))
    return ours


def base_lcm(reference):
    """Map lcm to mixers, and the rest as listed in `places`."""
    ours = under("mixers", lcm_decoder(part(reference, "lcm")))
    places = {
        "frontend.pre_linear": "input_projection",
        "postnet.fc": "output_projection.0",
        "frontend.sonar_normalizer": "normaliser",
    }
    for theirs, place in places.items():
        ours |= under(place, part(reference, theirs))
    return ours


def two_tower_lcm(reference):
    """Map context_encoder to mixers, and the rest as listed below.

    In the denoiser the norms are norms.0 (self), 1 (cross), 2 (ffn); queries and keys of self-attention, which sees the
    position itself only, are stacked to itself.idle; keys and values of cross-attention to context.key_value.
    """
    ours = under("mixers", lcm_decoder(part(reference, "context_encoder")))
    ours["denoiser.norm.weight"] = reference["denoiser.layer_norm.weight"]
    places = {
        "encoder_frontend.pre_linear": "input_projection",
        "denoiser.initial_proj.fc": "denoiser.input_projection",
        "denoiser.final_proj.fc": "output_projection.0",
        "denoiser.embed_time.fc1": "denoiser.embed_step.widen",
        "denoiser.embed_time.fc2": "denoiser.embed_step.mix",
    }
    for theirs, place in places.items():
        ours |= under(place, part(reference, theirs))
    for layer in layer_numbers(reference, "denoiser.layers"):
        ours |= under(f"denoiser.layers.{layer}", _lcm_denoiser_layer(part(reference, f"denoiser.layers.{layer}")))
    return ours


def _lcm_denoiser_layer(theirs):
    ours = under("modulation", part(theirs, "modulator.fc")) | under("mlp", _lcm_mlp(theirs))
    for number, norm in enumerate(("self_attn", "cross_attention", "ffn")):
        ours[f"norms.{number}.weight"] = theirs[f"{norm}_layer_norm.weight"]
    ours |= under("itself.idle", _stacked(theirs, "self_attn", "qk"))
    ours |= under("context.key_value", _stacked(theirs, "cross_attention", "kv"))
    for theirs_name, place in (
        ("self_attn.v_proj", "itself.value"),
        ("self_attn.output_proj", "itself.out"),
        ("cross_attention.q_proj", "context.query"),
        ("cross_attention.output_proj", "context.out"),
    ):
        ours |= under(place, part(theirs, theirs_name))
    return ours


def _lcm_mlp(theirs):
    """gate_proj and inner_proj are stacked to widen: silu is applied to what gate_proj says."""
    gate, inner = (part(theirs, f"ffn.{name}_proj") for name in ("gate", "inner"))
    widen = {kind: torch.cat([gate[kind], inner[kind]]) for kind in ("weight", "bias")}
    return under("widen", widen) | under("narrow", part(theirs, "ffn.output_proj"))


def _stacked(theirs, attention, letters):
    return {
        kind: torch.cat([theirs[f"{attention}.{letter}_proj.{kind}"] for letter in letters])
        for kind in ("weight", "bias")
    }


def layer_numbers(reference, prefix):
    found = {int(key.removeprefix(f"{prefix}.").split(".")[0]) for key in reference if key.startswith(f"{prefix}.")}
    return sorted(found)


def part(tensors, prefix):
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def under(prefix, tensors):
    return {f"{prefix}.{key}": value for key, value in tensors.items()}
