"""Answer the requests that wait at the same time as one batch.

One thread runs the model. While it works, requests queue; then it takes all that wait, up to a limit. Clients that were
just answered send their next request a moment later: as long as fewer requests wait than were answered or waiting
before, the thread waits a few milliseconds for them, so that all clients share one batch instead of taking turns. A
lone client never waits for others.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, Protocol, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")
RequestIn = TypeVar("RequestIn", contravariant=True)
AnswerOut = TypeVar("AnswerOut", covariant=True)

MAX_BATCH = 32
MAX_WAITING = 512
GATHER_SECONDS = 0.004


class Model(Protocol[RequestIn, AnswerOut]):
    """What answers requests together."""

    def answers(self, requests: Sequence[RequestIn]) -> Sequence[AnswerOut]: ...


class TooManyWaitingError(Exception):
    """More requests wait than the server takes."""


class _Job(NamedTuple):
    model: "Model"
    request: object
    answer: "Future"


class Batcher(Generic[Request, Answer]):
    """A thread that answers; `batch_sizes` counts the batches of each size."""

    def __init__(self, *, max_batch: int = MAX_BATCH, max_waiting: int = MAX_WAITING):
        self.max_batch = max_batch
        self.batch_sizes: dict[int, int] = {}
        self._jobs: queue.Queue[_Job | None] = queue.Queue(max_waiting)
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    @property
    def num_waiting(self) -> int:
        return self._jobs.qsize()

    async def answer(self, model: Model[Request, Answer], request: Request) -> Answer:
        """Return the model's answer. Raises TooManyWaitingError if the queue is full."""
        job = _Job(model=model, request=request, answer=Future())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise TooManyWaitingError from None
        return await asyncio.wrap_future(job.answer)

    def _run(self) -> None:
        expected, is_over = 1, False
        while not is_over:
            jobs = self._gathered(expected)
            is_over = jobs[-1] is None
            self._answer([job for job in jobs if job is not None])
            expected = len(jobs) + self._jobs.qsize()

    def _gathered(self, expected: int) -> list[_Job | None]:
        """Return the next jobs: all that wait, and those that come soon if fewer wait than were there before."""
        jobs = [self._jobs.get()]
        until = time.monotonic() + GATHER_SECONDS
        while jobs[-1] is not None and len(jobs) < self.max_batch:
            left = until - time.monotonic() if len(jobs) < expected else 0
            try:
                jobs.append(self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait())
            except queue.Empty:
                break
        return jobs

    def _answer(self, jobs: Sequence[_Job]) -> None:
        """Answer jobs, one batch for each model; an error becomes the answer of the jobs of its batch."""
        running = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
        for model in {id(job.model): job.model for job in running}.values():
            own = [job for job in running if job.model is model]
            self.batch_sizes[len(own)] = self.batch_sizes.get(len(own), 0) + 1
            try:
                for job, answer in zip(own, model.answers([job.request for job in own]), strict=True):
                    job.answer.set_result(answer)
            except Exception as error:  # noqa: BLE001 - the thread serves the next requests whatever happens
                for job in own:
                    if not job.answer.done():
                        job.answer.set_exception(error)
