"""LSTM and GRU against recorded outputs of the reference implementation."""

from functools import partial

import pytest
from torch import nn

from lvm_pipeline.architectures import gru, lstm
from lvm_pipeline.architectures._recurrence import reference_layers
from lvm_pipeline_tests.architectures.oracles import OPERATOR_TOLERANCE, PRECISIONS, assert_equals, below, oracle

LAYERS = {"lstm": (nn.LSTM, lstm.LstmLayers, lstm.LstmConfig, lstm), "gru": (nn.GRU, gru.GruLayers, gru.GruConfig, gru)}


@pytest.fixture(params=PRECISIONS, ids=str)
def dtype(request):
    return request.param


def with_oracle_weights(name, recorded, dtype):
    """Our mixers with the recorded weights, whose first layer reads a narrower input than the others."""
    kind, mixers_class, config_class, module = LAYERS[name]
    weights = {key: value.to(dtype) for key, value in below(recorded, f"{name}.w").items()}
    width, hidden = weights["weight_ih_l0"].shape[1], weights["weight_hh_l0"].shape[1]
    mixers = mixers_class(config_class(hidden_dim=hidden, num_layers=2))
    mixers.layers = kind(width, hidden, 2, batch_first=True).to(dtype)
    mixers.layers.load_state_dict(weights, strict=True)
    return mixers, partial(reference_layers, cell=module.reference_cell)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_layers_agree_with_the_oracle(name, dtype):
    recorded, tolerance = oracle("lstm_gru"), OPERATOR_TOLERANCE[dtype]
    mixers, reference = with_oracle_weights(name, recorded, dtype)
    inputs = recorded["in.x"].to(dtype)
    assert_equals(mixers(inputs), recorded[f"{name}.out.y"], tolerance)
    assert_equals(reference(mixers.layers, inputs), recorded[f"{name}.out.y"], tolerance)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_states_agree_with_the_oracle(name, dtype):
    recorded, tolerance = oracle("lstm_gru"), OPERATOR_TOLERANCE[dtype]
    mixers, _ = with_oracle_weights(name, recorded, dtype)
    inputs = recorded["in.x"].to(dtype)
    _, state = mixers.prefill(inputs[:, :4], None)
    outputs, state = mixers.prefill(inputs[:, 4:], state)
    assert_equals(outputs, recorded[f"{name}.out.y"][:, 4:], tolerance)
    hidden, *cell = state if name == "lstm" else (state,)
    assert_equals(hidden, recorded[f"{name}.out.h"], tolerance)
    for found in cell:
        assert_equals(found, recorded["lstm.out.c"], tolerance)
