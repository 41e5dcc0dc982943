"""Requests that wait at the same time share a batch, and each is answered by the model that it began with."""

import asyncio
import threading
import time

import pytest

from lvm_pipeline.serving import batcher as batcher_module
from lvm_pipeline.serving.batcher import Batcher, TooManyWaitingError


class Slow:
    """Answers when it is allowed to."""

    def __init__(self, name):
        self.name, self.may_answer, self.is_asked = name, threading.Event(), threading.Event()

    def answers(self, requests):
        self.is_asked.set()
        assert self.may_answer.wait(30)
        return [f"{self.name} {request}" for request in requests]


def run(coroutine):
    return asyncio.run(coroutine)


def test_requests_under_way_finish_on_the_model_that_they_began_with():
    old, new = Slow("old"), Slow("new")
    batcher = Batcher()
    batcher.start()

    async def both():
        first = asyncio.create_task(batcher.answer(old, 1))
        while not old.is_asked.is_set():
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.answer(model, n)) for n, model in ((2, old), (3, new), (4, new))]
        await asyncio.sleep(0.05)
        old.may_answer.set()
        new.may_answer.set()
        return await asyncio.gather(first, *others)

    assert run(both()) == ["old 1", "old 2", "new 3", "new 4"]
    assert batcher.batch_sizes == {1: 2, 2: 1}
    batcher.stop()


def test_clients_that_take_turns_come_to_share_a_batch_and_a_lone_one_never_waits(monkeypatch):
    monkeypatch.setattr(batcher_module, "GATHER_SECONDS", 2)

    class Working:
        """Works long enough for another client to ask meanwhile."""

        def answers(self, requests):
            time.sleep(0.05)
            return requests

    working = Working()
    batcher = Batcher()
    batcher.start()

    async def ask(times):
        for number in range(times):
            await batcher.answer(working, number)

    async def both():
        began = time.monotonic()
        await ask(3)
        assert time.monotonic() - began < 6  # three waits
        await asyncio.wait_for(asyncio.gather(ask(20), ask(20)), 60)

    run(both())
    batcher.stop()
    assert batcher.batch_sizes[2] >= 15
    assert batcher.batch_sizes[1] >= 3


def test_a_full_queue_refuses():
    slow = Slow("slow")
    batcher = Batcher(max_waiting=1)
    batcher.start()

    async def too_many():
        first = asyncio.create_task(batcher.answer(slow, 1))
        while not slow.is_asked.is_set():
            await asyncio.sleep(0.01)
        second = asyncio.create_task(batcher.answer(slow, 2))
        await asyncio.sleep(0.02)
        with pytest.raises(TooManyWaitingError):
            await batcher.answer(slow, 3)
        slow.may_answer.set()
        return await asyncio.gather(first, second)

    assert run(too_many()) == ["slow 1", "slow 2"]
    batcher.stop()
