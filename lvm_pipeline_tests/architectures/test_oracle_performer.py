"""Performer against performer-pytorch.

Its causal attention subtracts a maximum of keys over the whole context. What ours must equal at a position is what
theirs gives for the context up to it, recorded as `prefix_causal`; with the maximum of the whole put in place of the
running one, ours equals theirs everywhere, leak included, which holds the gradients and the layers to theirs.
"""

import pytest
import torch

from lvm_pipeline.architectures import _decayed_attention, _favor
from lvm_pipeline.architectures._favor import (
    favor_attention,
    favor_features,
    orthogonal_projection,
    reference_favor_attention,
)
from lvm_pipeline.architectures.performer import PerformerConfig, PerformerMixers
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.models import VECTOR_DIM, build, noise, noisy_model
from lvm_pipeline_tests.architectures.oracles import (
    OPERATOR_TOLERANCE,
    PRECISIONS,
    STACK_TOLERANCE,
    assert_equals,
    below,
    inputs,
    oracle,
)

WHOLE_AND_IN_CHUNKS = pytest.mark.parametrize("chunk", [64, 16])


@pytest.fixture(scope="module")
def recorded():
    return oracle("performer")


@pytest.fixture
def _largest_of_all(monkeypatch):
    """The authors' maximum, over the whole context."""

    def largest(projected_keys, _):
        return projected_keys.amax(dim=(1, 3), keepdim=True)[..., 0].expand(projected_keys.shape[:-1])

    monkeypatch.setattr(_favor, "largest_so_far", largest)


def given(recorded, dtype):
    """Leaves q, k, v (B, K, T, N), the same in our layout, and the projection."""
    leaves = inputs(recorded, dtype)
    ours = [leaves[name].transpose(1, 2) for name in "qkv"]
    return leaves, ours, recorded["in.projection"].to(dtype)


def attend(queries, keys, values, projection, *, kernel="softmax", splits=None):
    state, found = None, []
    for part in splits or [slice(None)]:
        maximum = None if state is None else state.maximum
        features = favor_features(queries[:, part], keys[:, part], projection, kernel=kernel, maximum=maximum)
        output, state = favor_attention(features, values[:, part], state=state, returns_state=splits is not None)
        found.append(output)
    return torch.cat(found, dim=1).transpose(1, 2)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("splits", [None, [slice(0, 1), slice(1, 20), slice(20, None)]])
@WHOLE_AND_IN_CHUNKS
def test_causal_attention_is_theirs_on_the_context_up_to_each_position(recorded, dtype, splits, chunk, monkeypatch):
    monkeypatch.setattr(_decayed_attention, "CHUNK", chunk)
    _, ours, projection = given(recorded, dtype)
    found = attend(*ours, projection, splits=splits)
    assert_equals(found, recorded["out.prefix_causal"], OPERATOR_TOLERANCE[dtype])


@pytest.mark.usefixtures("_largest_of_all")
@pytest.mark.parametrize("dtype", PRECISIONS)
@WHOLE_AND_IN_CHUNKS
def test_with_their_maximum_it_equals_the_oracle_and_so_do_the_gradients(recorded, dtype, chunk, monkeypatch):
    monkeypatch.setattr(_decayed_attention, "CHUNK", chunk)
    leaves, ours, projection = given(recorded, dtype)
    tolerance = OPERATOR_TOLERANCE[dtype]

    features = favor_features(*ours[:2], projection, kernel="softmax")
    assert_equals(features.queries.transpose(1, 2), recorded["out.q_prime"], tolerance)
    assert_equals((features.keys + features.floor).transpose(1, 2), recorded["out.k_prime"], tolerance)
    found = attend(*ours, projection)
    assert_equals(found, recorded["out.causal"], tolerance)

    (found * leaves["gout"]).sum().backward()
    for name in "qkv":
        assert_equals(leaves[name].grad, recorded[f"grad.{name}"], tolerance)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("splits", [None, [slice(0, 20), slice(20, None)]])
def test_generalised_attention_equals_the_oracle(recorded, dtype, splits):
    _, ours, projection = given(recorded, dtype)
    tolerance = OPERATOR_TOLERANCE[dtype]
    features = favor_features(*ours[:2], projection, kernel="relu")
    assert_equals(features.queries.transpose(1, 2), recorded["out.relu.q_prime"], tolerance)
    assert_equals(features.keys.transpose(1, 2), recorded["out.relu.k_prime"], tolerance)
    found = attend(*ours, projection, kernel="relu", splits=splits)
    assert_equals(found, recorded["out.relu.causal"], tolerance)


@pytest.mark.parametrize(("kernel", "name"), [("softmax", "prefix_causal"), ("relu", "relu.causal")])
def test_slow_twin_equals_the_oracle(recorded, kernel, name):
    _, ours, projection = given(recorded, torch.float64)
    found = reference_favor_attention(*ours, projection, kernel=kernel).transpose(1, 2)
    assert_equals(found, recorded[f"out.{name}"], OPERATOR_TOLERANCE[torch.float64])


@pytest.mark.usefixtures("_largest_of_all")
def test_layers_with_their_maximum_equal_the_oracle(recorded):
    config = PerformerConfig(hidden_dim=32, num_layers=2, num_heads=2, num_features=24, mlp_dim=128, has_rotation=False)
    layers = PerformerMixers(config).layers
    layers.load_state_dict(weight_maps.performer_layers(below(recorded, "layer.w")), strict=True)
    states = recorded["layer.in.x"]
    for layer in layers:
        states = layer(states)
    assert_equals(states, recorded["layer.out.y"], STACK_TOLERANCE)


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
def test_keys_of_any_size_leave_predictions_finite(kernel):
    queries, keys = (40 * noise(1, 70, 2, 16, seed=seed, dtype=torch.float32) for seed in (1, 2))
    values = noise(1, 70, 2, 16, seed=3, dtype=torch.float32).requires_grad_()
    projection = orthogonal_projection(24, 16)
    found = attend(queries.requires_grad_(), keys.requires_grad_(), values, projection, kernel=kernel)
    found.square().sum().backward()
    for tensor in (found, queries.grad, keys.grad, values.grad):
        assert torch.isfinite(tensor).all()


def test_projections_are_orthogonal_in_blocks():
    projection = orthogonal_projection(40, 16)
    assert projection.shape == (40, 16)
    for block in projection.split(16):
        products = block @ block.T
        torch.testing.assert_close(products, torch.diag(products.diagonal()), rtol=0, atol=1e-4)
    assert 10 < projection.square().sum(1).mean() < 22  # rows as long as noise of 16 dimensions


def test_attention_estimates_the_softmax():
    torch.manual_seed(0)
    queries, keys, values = (0.5 * noise(1, 20, 1, 16, seed=seed) for seed in (1, 2, 3))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(part.transpose(1, 2) for part in (queries, keys, values)), is_causal=True
    )
    errors = []
    for num_features in (16, 4096):
        found = attend(queries, keys, values, orthogonal_projection(num_features, 16).double())
        errors.append(((found - expected).norm() / expected.norm()).item())
    assert errors[1] < 0.05 < errors[0]


def projections_after(model, *steps):
    for step in steps:
        model.start_step(step)
    return [tensor.clone() for key, tensor in model.state_dict().items() if key.endswith("projection")]


def test_features_are_redrawn_by_the_step_and_not_by_calls_of_the_model():
    model, contexts = build("performer", redraw_steps=3), noise(1, 5, VECTOR_DIM, dtype=torch.float32)
    first = projections_after(model)
    for _ in range(10):
        model.train()(contexts)
    assert all(map(torch.equal, projections_after(model, 1, 2), first))
    assert not any(map(torch.equal, projections_after(model, 3), first))


def test_redrawn_features_depend_on_seed_and_step_alone():
    model, other = (build("performer", redraw_steps=3) for _ in range(2))
    state = torch.get_rng_state()
    expected = projections_after(model, 3, 6)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)  # the random state of another process
    for _ in range(5):  # which has also called the model more often
        other.train()(noise(1, 5, VECTOR_DIM, dtype=torch.float32))
    assert all(map(torch.equal, projections_after(other, 6), expected))
    resumed = build("performer", redraw_steps=3, seed=1)
    resumed.load_state_dict(model.state_dict(), strict=True)
    assert all(map(torch.equal, projections_after(resumed, 9), projections_after(model, 9)))
    unlike = build("performer", redraw_steps=3, seed=1)
    assert not any(map(torch.equal, projections_after(unlike, 9), projections_after(model, 9)))


def test_a_model_without_rotation_does_not_know_the_distance():
    contexts = noise(1, 3, VECTOR_DIM)
    swapped = contexts[:, [1, 0, 2]]
    for has_rotation in (True, False):
        model = noisy_model("performer", num_layers=1, has_rotation=has_rotation)
        is_same = torch.allclose(model(contexts)[:, -1], model(swapped)[:, -1], atol=1e-9)
        assert is_same != has_rotation
