import time

import numpy as np
import torch

from lvm_pipeline.evaluation.latency import latency_ms


class Slow(torch.nn.Module):
    """Waits so long for each prediction, and longer for the first."""

    def __init__(self, seconds, first=0.0):
        super().__init__()
        self.seconds, self.first, self.batches = seconds, first, []

    def forward(self, contexts, condition=None, at=None):
        self.batches.append(tuple(contexts.shape))
        time.sleep(self.seconds + (self.first if len(self.batches) == 1 else 0))
        return contexts[at]


def test_time_of_one_prediction_after_the_warm_up():
    model = Slow(0.002, first=0.2)

    found = latency_ms(model, np.ones((5, 4), np.float32), device="cpu")

    assert 2 <= found.p50 < 20
    assert found.p50 <= found.p95 < 150
    assert set(model.batches) == {(1, 5, 4)}


def test_a_very_slow_model_does_not_hold_up_the_evaluation(monkeypatch):
    monkeypatch.setattr("lvm_pipeline.evaluation.latency.LONGEST_SECONDS", 0.1)
    model = Slow(0.02)

    found = latency_ms(model, np.ones((2, 3), np.float32), device="cpu")

    assert found.p50 >= 20
    assert 5 <= found.num_timed < 50


def test_the_number_of_threads_is_put_back():
    threads = torch.get_num_threads()

    found = latency_ms(Slow(0.0), np.ones((2, 3), np.float32), device="cpu", num_threads=1)

    assert found.num_threads == 1
    assert torch.get_num_threads() == threads
