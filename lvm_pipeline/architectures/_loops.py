"""Loops that numba compiles to machine code, for training on a CPU: LSTM and GRU layers, gains of the head, dropout.

PyTorch runs the dozen operations between two products one after the other, each over memory that is no longer in the
cache; a compiled loop reads each element once. Loops use one thread, so their results do not depend on how many there
are, and compute in float32 (float64 for a model in float64). Arrays are changed in place; bfloat16 comes as uint16.

This module and numba are imported by the first step of a training, since predictions do without them. The machine code
is kept beside the module, or in the user's cache, so that only the first process compiles. numba then looks for changes
in the function's own file alone, so a loop must not use functions of another module.

Shapes: H = hidden width, P = packed positions (`_packing`), n = contexts that go on at one position; see also `_gains`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

# Sums may be fused with products, as PyTorch's operations do; NaN and infinity keep their meaning.
OPTIONS: Any = {"fastmath": {"contract", "nsz"}, "error_model": "numpy", "nogil": True}
# By LLVM; numba's own inlining of these functions made it lose an assignment to a slice.
INLINED: Any = {**OPTIONS, "forceinline": True}
ZERO, ONE, TWO = (
    np.float32(0),
    np.float32(1),
    np.float32(2),
)  # exact in float64, too; a Python number would make float32 float64
LARGEST_EXPONENT, SMALLEST_EXPONENT = np.float32(88), np.float32(-87)  # beyond, exp leaves float32
LOG2_E = np.float32(math.log2(math.e))
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)  # few bits in the high part
# exp(r) = 1 + r + r^2 p(r) for |r| <= ln(2) / 2; coefficients of the Cephes library's expf, highest power first
EXP_P5, EXP_P4, EXP_P3 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
EXP_P2, EXP_P1, EXP_P0 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays and numbers when it is first called."""
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # neither the module's folder nor the user's cache can be written
        return njit(**OPTIONS)(function)


def wide(value: Any) -> Any:
    """In a compiled loop: return an element as a number to compute with."""
    raise NotImplementedError


@overload(wide, jit_options=INLINED, strict=False)
def _wide(value: Any) -> Any:
    if value == types.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


def narrow(value: Any, like: Any) -> Any:
    """In a compiled loop: return a number as an element of the type of `like`; bfloat16 is rounded to nearest even."""
    raise NotImplementedError


@overload(narrow, jit_options=INLINED, strict=False)
def _narrow(value: Any, like: Any) -> Any:
    if like != types.uint16:
        return lambda value, like: value

    def to_bfloat16(value: Any, like: Any) -> Any:
        bits = np.float32(value).view(np.uint32)
        is_odd = (bits >> np.uint32(16)) & np.uint32(1)
        return np.uint16((bits + np.uint32(0x7FFF) + is_odd) >> np.uint32(16))  # the NaN of arithmetic stays NaN

    return to_bfloat16


def exp(x: Any) -> Any:
    """In a compiled loop: the exponential function, to a share of 1.3e-7 in float32."""
    raise NotImplementedError


@overload(exp, jit_options=INLINED, strict=False)
def _exp(x: Any) -> Any:
    if x == types.float64:
        return lambda x: math.exp(x)

    def of_float32(x: Any) -> Any:
        x = min(max(x, SMALLEST_EXPONENT), LARGEST_EXPONENT)
        whole = np.rint(x * LOG2_E)
        r = (x - whole * LN2_HIGH) - whole * LN2_LOW
        p = ((((EXP_P5 * r + EXP_P4) * r + EXP_P3) * r + EXP_P2) * r + EXP_P1) * r + EXP_P0
        power = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)  # 2 ** whole
        return (p * r * r + r + ONE) * power

    return of_float32


@njit(**INLINED)
def sigmoid(x: Any) -> Any:
    """In a compiled loop: 1 / (1 + exp(-x))."""
    return ONE / (ONE + exp(-x))


@njit(**INLINED)
def tanh(x: Any) -> Any:
    """In a compiled loop: the hyperbolic tangent, to 2.5e-7 in float32."""
    return TWO * sigmoid(TWO * x) - ONE


@compiled
def _add(total: Any, values: Any) -> None:
    for k in range(len(total)):
        total[k] += wide(values[k])


@compiled
def lstm_position(
    inputs: Any, last: Any, bias: Any, gates: Any, cells: Any, tanh_cells: Any, hidden: Any,
    start: int, before: int, n: int,
) -> None:  # fmt: skip
    """Fill a position of gates i, f, g, o (P, 4H), cells, their tanh and hidden states (P, H), by `lstm`'s formulas.

    The n rows of this position begin at `start`, those of the previous one at `before` (-1: none). `inputs` (P, 4H) and
    `last` (n, 4H) are the products with inputs and with the last hidden states.
    """
    dim, like = cells.shape[1], hidden[0, 0]
    for row in range(n):
        here = start + row
        gate = gates[here]
        _set_sum(gate, inputs[here], bias)
        if before >= 0:
            _add(gate, last[row])
        i, f, g, o = gate[:dim], gate[dim : 2 * dim], gate[2 * dim : 3 * dim], gate[3 * dim :]
        _apply_sigmoid(gate[: 2 * dim])
        _apply_sigmoid(o)
        for k in range(dim):
            g[k] = tanh(g[k])
        c, tanh_c, h = cells[here], tanh_cells[here], hidden[here]
        for k in range(dim):
            c[k] = i[k] * g[k]
        if before >= 0:
            _add_product(c, f, cells[before + row], ONE)
        for k in range(dim):
            tanh_c[k] = tanh(c[k])
        for k in range(dim):
            h[k] = narrow(o[k] * tanh_c[k], like)


@compiled
def lstm_position_backwards(
    gates: Any, cells: Any, tanh_cells: Any, grad_hidden: Any, grad_last: Any, grad_cell: Any, grad_gates: Any,
    grad_bias: Any, start: int, before: int, n: int,
) -> None:  # fmt: skip
    """Fill a position of the gradients of the gates before their nonlinearity, (P, 4H), and add to that of the bias.

    `grad_hidden` (P, H) comes from what reads the layer; `grad_last` (m, H) from the next position, where m of the n
    contexts go on; `grad_cell` (contexts, H) goes from position to position.
    """
    dim, like = cells.shape[1], grad_gates[0, 0]
    of_h = np.empty_like(tanh_cells[0])
    for row in range(n):
        here = start + row
        gate, to_gate, tanh_c, of_c = gates[here], grad_gates[here], tanh_cells[here], grad_cell[row]
        i, f, g, o = gate[:dim], gate[dim : 2 * dim], gate[2 * dim : 3 * dim], gate[3 * dim :]
        of_h[:] = 0
        _add(of_h, grad_hidden[here])
        if row < len(grad_last):
            _add(of_h, grad_last[row])
        for k in range(dim):
            of_c[k] += of_h[k] * o[k] * (ONE - tanh_c[k] * tanh_c[k])
        to_g, sum_g = to_gate[2 * dim : 3 * dim], grad_bias[2 * dim : 3 * dim]
        for k in range(dim):
            value = of_c[k] * i[k] * (ONE - g[k] * g[k])
            sum_g[k] += value
            to_g[k] = narrow(value, like)
        _sigmoid_backwards(i, of_c, g, to_gate[:dim], grad_bias[:dim])
        _sigmoid_backwards(o, of_h, tanh_c, to_gate[3 * dim :], grad_bias[3 * dim :])
        if before < 0:
            to_gate[dim : 2 * dim] = 0
            continue
        _sigmoid_backwards(f, of_c, cells[before + row], to_gate[dim : 2 * dim], grad_bias[dim : 2 * dim])
        for k in range(dim):
            of_c[k] *= f[k]


@compiled
def gru_position(
    inputs: Any, last: Any, bias_ih: Any, bias_hh: Any, gates: Any, recurrent: Any, states: Any, hidden: Any,
    start: int, before: int, n: int,
) -> None:  # fmt: skip
    """Fill a position of gates r, z, n (P, 3H), of what r gates, and of the states, wide and as `hidden` (P, H).

    The formulas are those of `gru`, rows those of `lstm_position`. `inputs` (P, 3H) and `last` (n, 3H) are the products
    with inputs and with the last hidden states.
    """
    dim, like = states.shape[1], hidden[0, 0]
    zeros = np.zeros_like(states[0])
    for row in range(n):
        here = start + row
        gate, gated, state, h = gates[here], recurrent[here], states[here], hidden[here]
        last_state = zeros if before < 0 else states[before + row]
        _set_sum(gate, inputs[here], bias_ih)
        _add(gate[: 2 * dim], bias_hh[: 2 * dim])
        gated[:] = bias_hh[2 * dim :]
        if before >= 0:
            _add(gate[: 2 * dim], last[row, : 2 * dim])
            _add(gated, last[row, 2 * dim :])
        _apply_sigmoid(gate[: 2 * dim])
        r, z, new = gate[:dim], gate[dim : 2 * dim], gate[2 * dim :]
        for k in range(dim):
            new[k] = tanh(new[k] + r[k] * gated[k])
        for k in range(dim):
            state[k] = new[k] + z[k] * (last_state[k] - new[k])
        for k in range(dim):
            h[k] = narrow(state[k], like)


@compiled
def gru_position_backwards(
    gates: Any, recurrent: Any, states: Any, grad_hidden: Any, grad_last: Any, grad_state: Any, grad_inputs: Any,
    grad_recurrent: Any, grad_bias_ih: Any, grad_bias_hh: Any, start: int, before: int, n: int,
) -> None:  # fmt: skip
    """Fill a position of the gradients of both products, (P, 3H), and add to those of the biases.

    `grad_hidden` (P, H) comes from what reads the layer; `grad_last` (m, H) from the product of the next position,
    where m of the n contexts go on; `grad_state` (contexts, H), what z lets pass, goes from position to position.
    """
    dim, like = states.shape[1], grad_inputs[0, 0]
    zeros = np.zeros_like(states[0])
    of_new, change = np.empty_like(zeros), np.empty_like(zeros)
    for row in range(n):
        here = start + row
        gate, of_h, to_recurrent, to_input = gates[here], grad_state[row], grad_recurrent[here], grad_inputs[here]
        r, z, new = gate[:dim], gate[dim : 2 * dim], gate[2 * dim :]
        last_state = zeros if before < 0 else states[before + row]
        _add(of_h, grad_hidden[here])
        if row < len(grad_last):
            _add(of_h, grad_last[row])
        for k in range(dim):
            change[k] = last_state[k] - new[k]
            of_new[k] = of_h[k] * (ONE - z[k]) * (ONE - new[k] * new[k])
        _sigmoid_backwards(r, of_new, recurrent[here], to_recurrent[:dim], grad_bias_hh[:dim])
        _sigmoid_backwards(z, of_h, change, to_recurrent[dim : 2 * dim], grad_bias_hh[dim : 2 * dim])
        to_input[: 2 * dim] = to_recurrent[: 2 * dim]
        _add(grad_bias_ih[2 * dim :], of_new)
        _add_product(grad_bias_hh[2 * dim :], of_new, r, ONE)
        to_new, to_gated = to_input[2 * dim :], to_recurrent[2 * dim :]
        for k in range(dim):
            to_new[k] = narrow(of_new[k], like)
        for k in range(dim):
            to_gated[k] = narrow(of_new[k] * r[k], like)
        for k in range(dim):
            of_h[k] *= z[k]


@compiled
def _set_sum(total: Any, values: Any, others: Any) -> None:
    for k in range(len(total)):
        total[k] = wide(values[k]) + others[k]


@compiled
def _add_product(total: Any, values: Any, factors: Any, scale: Any) -> None:
    for k in range(len(total)):
        total[k] += wide(values[k]) * (scale * factors[k])


@compiled
def _apply_sigmoid(values: Any) -> None:
    for k in range(len(values)):
        values[k] = sigmoid(values[k])


@compiled
def _sigmoid_backwards(gate: Any, gradient: Any, factor: Any, to_gate: Any, total: Any) -> None:
    """Fill the gradient before the sigmoid of a gate (H,) that multiplies `factor`, and add it to `total`."""
    like = to_gate[0]
    for k in range(len(gate)):
        value = gradient[k] * factor[k] * gate[k] * (ONE - gate[k])
        total[k] += value
        to_gate[k] = narrow(value, like)


@compiled
def fill_means(concepts: Any, decays: Any, positions: Any, means: Any) -> None:
    """Fill the decayed means at some positions, (B, J, Q, D), of concepts (B, S, D)."""
    like = means[0, 0, 0, 0]
    sums, weights = np.empty((len(decays), concepts.shape[2]), decays.dtype), np.empty_like(decays)
    for b in range(len(concepts)):
        sums[:], weights[:], q = 0, 0, 0
        for s in range(concepts.shape[1]):
            _read(concepts[b, s], decays, sums, weights)
            if q == len(positions) or positions[q] != s:
                continue
            for j in range(len(decays)):
                total, share, mean = sums[j], ONE / weights[j], means[b, j, q]
                for k in range(len(total)):
                    mean[k] = narrow(total[k] * share, like)
            q += 1


@compiled
def add_by_gains(
    concepts: Any, decays: Any, positions: Any, at: Any, attended: Any, correction: Any, gains: Any, mean_gains: Any,
    constant: Any, mixed: Any,
) -> None:  # fmt: skip
    """Fill what the head adds up where `at` (B, Q) is True, (n, D)."""
    like, total = mixed[0, 0], np.empty_like(constant)
    sums, weights = np.empty_like(mean_gains), np.empty_like(decays)
    row = 0
    for b in range(len(concepts)):
        sums[:], weights[:], q = 0, 0, 0
        for s in range(concepts.shape[1]):
            _read(concepts[b, s], decays, sums, weights)
            if q == len(positions) or positions[q] != s:
                continue
            if at[b, q]:
                total[:] = constant
                _add(total, correction[b, q])
                for j in range(len(decays)):
                    _add_product(total, sums[j], mean_gains[j], ONE / weights[j])
                for head in range(len(gains)):
                    _add_product(total, attended[b, head, q], gains[head], ONE)
                out = mixed[row]
                for k in range(len(total)):
                    out[k] = narrow(total[k], like)
                row += 1
            q += 1


@compiled
def add_by_gains_backwards(
    concepts: Any, decays: Any, positions: Any, at: Any, attended: Any, gains: Any, grad_mixed: Any,
    grad_attended: Any, grad_correction: Any, grad_gains: Any, grad_mean_gains: Any, grad_constant: Any,
) -> None:  # fmt: skip
    """Fill the gradients of what is attended and of the correction, and add to those of gains and of the constant."""
    grad, sums, weights = np.empty_like(grad_constant), np.empty_like(grad_mean_gains), np.empty_like(decays)
    row = 0
    for b in range(len(concepts)):
        sums[:], weights[:], q = 0, 0, 0
        for s in range(concepts.shape[1]):
            _read(concepts[b, s], decays, sums, weights)
            if q == len(positions) or positions[q] != s:
                continue
            if at[b, q]:
                grad_correction[b, q, :] = grad_mixed[row]
                grad[:] = 0
                _add(grad, grad_mixed[row])
                grad_constant += grad
                for j in range(len(decays)):
                    _add_product(grad_mean_gains[j], sums[j], grad, ONE / weights[j])
                for head in range(len(gains)):
                    _add_product(grad_gains[head], attended[b, head, q], grad, ONE)
                    _set_product(grad_attended[b, head, q], gains[head], grad)
                row += 1
            else:
                grad_correction[b, q, :] = 0
                grad_attended[b, :, q, :] = 0
            q += 1


@compiled
def _read(concept: Any, decays: Any, sums: Any, weights: Any) -> None:
    """Read a concept (D,) into the sums (J, D) and weights (J,) of all means."""
    for j in range(len(decays)):
        decay, total = decays[j], sums[j]
        weights[j] = weights[j] * decay + ONE
        for k in range(len(concept)):
            total[k] = total[k] * decay + wide(concept[k])


@compiled
def _set_product(out: Any, values: Any, factors: Any) -> None:
    like = out[0]
    for k in range(len(out)):
        out[k] = narrow(values[k] * factors[k], like)


@compiled
def drop(values: Any, seed: int, num_dropped: int, scale: Any, kept: Any) -> None:
    """Fill what dropout keeps of values (N,); the random numbers are those of `_dropout.levels`."""
    like, hashes = kept[0], np.empty(256, np.uint64)
    for start in range(0, len(values), 1024):
        for k in range(256):
            hashes[k] = _hash(np.uint64(seed) + np.uint64(start // 4 + k))
        for number in range(4):
            first, shift = start + 256 * number, np.uint64(16 * number)
            part, out = values[first : first + 256], kept[first : first + 256]
            for k in range(len(part)):
                level = np.uint32((hashes[k] >> shift) & np.uint64(0xFFFF))
                out[k] = narrow(wide(part[k]) * scale if level >= num_dropped else ZERO, like)


@njit(**INLINED)
def _hash(number: Any) -> Any:
    number = number * np.uint64(0x9E3779B97F4A7C15)
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))
