"""What `gpu.py` measures of one architecture: training on both kinds of data, evaluation, memory, latency.

Needs only PyTorch and NumPy, so that it runs where nothing else is installed. The steps are those of `lvm train`:
batches gathered from resident vectors, autocast, gradient clipping, fused AdamW.

Shapes: N = concepts, B = spans in a batch, T = context in concepts, D = vector width, S = targets.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import machine
import numpy as np
import torch
import torch.nn.functional as F
from steps import CONTEXT_LENGTH, optimiser_step, random_vectors
from torch import Tensor

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.evaluation.latency import latency_ms
from lvm_pipeline.training.batches import gather, group_spans
from lvm_pipeline.training.objectives import objective_named, training_loss
from lvm_pipeline.training.optimiser import make_optimiser
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.spans import Spans

DEFAULT_BATCH = {"articles": 400, "windows": 256}  # targets in a step of `lvm train`
MIDDLE_SIZES = (80e6, 170e6)  # parameters of the models that the limit of memory is stated for
MEMORY_BATCH = 32
WARM_UP_STEPS = 3
NUM_BLOCKS = 5  # the median block counts
VALIDATION_FRACTION = 0.1
RANKED_IN_A_BLOCK = 2048

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is measured."""

    architecture: str
    preset: str
    device: str
    precision: str
    concepts: int
    epochs: int
    large_batch: int
    seconds: float  # for each rate, about
    matmul_rate: float
    peak_rate: float | None  # operations per second that the maker states, if known


@dataclass(frozen=True, kw_only=True)
class Articles:
    """Random articles on the device, and what is learned from them and scored."""

    vectors: Tensor  # (N, D)
    spans: dict[str, Spans]  # train spans by mode
    validation: dict[str, Spans]


def rows_of(work: Work, *, deadline: float) -> Iterator[Row]:
    """Yield the figures of one architecture, the most important first; nothing new starts after the deadline."""
    torch.manual_seed(0)
    if work.device.startswith("cuda"):
        torch.cuda.set_device(work.device)
    for measure in Measurement(work, deadline=deadline).parts():
        if time.monotonic() > deadline:
            yield {"part": "rest", "why_not": "no time was left"}
            return
        try:
            yield measure()
        except Exception as error:  # noqa: BLE001 - time on a GPU is scarce: what fails must not take the rest with it
            reason = (str(error).splitlines() or [""])[0]
            yield {"part": getattr(measure, "__name__", "part"), "why_not": f"{type(error).__name__}: {reason}"}
        release(work.device)


def release(device: str) -> None:
    """Free unused memory of the device."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


class Measurement:
    """The parts of one architecture."""

    def __init__(self, work: Work, *, deadline: float):
        self.work, self.deadline = work, deadline
        self.architecture = load_architecture(work.architecture)
        preset = self.architecture.preset(work.preset)
        self.config, self.num_params = preset.config, preset.num_params
        self.articles = made_articles(work.concepts, self.config.vector_dim, device=work.device)
        self.modes = ("articles", "windows") if self.architecture.causal else ("windows",)

    def parts(self) -> list[Callable[[], Row]]:
        """Return what is measured, in order."""
        parts: list[Callable[[], Row]] = []
        if MIDDLE_SIZES[0] < self.num_params < MIDDLE_SIZES[1]:
            parts.append(self.memory)
        parts += [self.training_of(mode) for mode in self.modes]
        return [*parts, self.evaluation, self.prediction]

    def build(self) -> LatentVectorModel:
        """Return a fresh model on the device."""
        with torch.device(self.work.device):
            model = self.architecture.build(self.config).to(self.work.device)
        model.fit(self.articles.vectors[:2000])
        return model

    def memory(self) -> Row:
        """Measure the peak of a step on the request's batch, weights and optimiser included."""
        machine.start_peak(self.work.device)
        config = SimpleNamespace(**vars(self.options(2e-3)), device=self.work.device, objective="cosine")
        config.precision = self.work.precision
        step = optimiser_step(self.build().train(), config, MEMORY_BATCH, CONTEXT_LENGTH)  # pyright: ignore[reportArgumentType]
        step()
        step()
        machine.wait_for(self.work.device)
        return {
            "part": "memory",
            "batch": MEMORY_BATCH,
            "peak_gb": machine.peak_megabytes(self.work.device) / 1024,
            "limit_gb": 8.0,
        }

    def options(self, learning_rate: float) -> SimpleNamespace:
        """Return the options that a step reads, at their defaults."""
        return SimpleNamespace(
            learning_rate=learning_rate, weight_decay=0.01, correction_learning_rate_factor=1.0, clip_norm=1.0
        )

    def training_of(self, mode: str) -> Callable[[], Row]:
        """Return what measures a training."""

        def training() -> Row:
            found = self.training(mode)
            return {"part": f"training {mode}", **found}

        training.__name__ = f"training {mode}"
        return training

    def training(self, mode: str) -> Row:
        """Measure the rate at the default and at a large batch; train for all epochs at the faster if time is left."""
        machine.start_peak(self.work.device)
        trainer = Trainer(self.build(), self.articles, mode, self.options(1e-3), precision=self.work.precision)
        declared = self.architecture.training_defaults.get(mode)
        default = declared.batch_size if declared else DEFAULT_BATCH[mode]
        rates: dict[int, float] = {}
        problem = None
        for batch in (default, self.work.large_batch):
            try:
                rates[batch] = trainer.rate(batch, seconds=self.work.seconds)
            except torch.OutOfMemoryError:
                problem = f"a batch of {batch} targets does not fit"
                release(self.work.device)
        if not rates:
            return {"why_not": problem}
        best = max(rates, key=rates.__getitem__)
        extrapolated = self.work.epochs * trainer.num_targets / rates[best]
        measured = trainer.epochs(best, self.work.epochs) if self.fits(extrapolated) else None
        operations = rates[best] * self.operations_per_target(trainer)
        return {
            "batch": best,
            "targets_per_second": rates[best],
            "rates_by_batch": {str(batch): rate for batch, rate in rates.items()},
            "host_syncs_per_step": trainer.host_syncs(best),
            "model_flops_utilisation": operations / self.work.peak_rate if self.work.peak_rate else None,
            "share_of_matmul_rate": operations / self.work.matmul_rate,
            "epochs": self.work.epochs,
            "epochs_seconds": measured or extrapolated,
            "is_extrapolated": measured is None,
            "peak_gb": machine.peak_megabytes(self.work.device) / 1024,
            "problem": problem,
        }

    def fits(self, seconds: float) -> bool:
        """Return whether there is time for the whole training, and as much for the rest."""
        return 2 * seconds < self.deadline - time.monotonic()

    def operations_per_target(self, trainer: "Trainer") -> float:
        """Return 2 operations a parameter and position forward, twice that backward, shared among the targets."""
        return 6 * self.num_params * int(trainer.spans.lengths.sum()) / trainer.num_targets

    def evaluation(self) -> Row:
        """Predict the validation split and rank every target among all of its concepts, on the device."""
        model, spans = self.build().eval(), self.articles.validation[self.modes[0]]
        predict_spans(model, self.articles.vectors, spans.take(np.arange(min(4, len(spans)))))
        machine.wait_for(self.work.device)
        started = time.perf_counter()
        predictions = torch.from_numpy(predict_spans(model, self.articles.vectors, spans)).to(self.work.device)
        machine.wait_for(self.work.device)
        predicted = time.perf_counter()
        scores = ranked(predictions, self.articles.vectors, torch.from_numpy(spans.target_rows()))
        return {
            "part": "evaluation",
            "targets": len(predictions),
            "prediction_seconds": predicted - started,
            "ranking_seconds": time.perf_counter() - predicted,
            **scores,
        }

    def prediction(self) -> Row:
        """Time single predictions after five concepts."""
        model = self.build().eval()
        context = random_vectors(1, CONTEXT_LENGTH, self.config.vector_dim)[0].numpy()
        found = latency_ms(model, context, device=self.work.device)
        return {"part": "prediction", "p50_ms": found.p50, "p95_ms": found.p95, "limit_ms": 50.0}


class Trainer:
    """Optimiser steps on random articles."""

    def __init__(
        self, model: LatentVectorModel, articles: Articles, mode: str, options: SimpleNamespace, *, precision: str
    ):
        self.model, self.vectors = model.train(), articles.vectors
        self.spans = articles.spans[mode].no_longer_than(model.max_context)
        self.optimiser = make_optimiser(model, options)  # pyright: ignore[reportArgumentType]
        self.objective, self.clip_norm = objective_named("cosine"), options.clip_norm
        self.autocast = torch.autocast(self.vectors.device.type, torch.bfloat16, enabled=precision == "bfloat16")
        self.steps = 0

    @property
    def num_targets(self) -> int:
        """Targets of an epoch."""
        return int(self.spans.num_targets.sum())

    def batches(self, batch: int, epoch: int) -> list[Spans]:
        """Return the batches of an epoch, in an order of its own."""
        return [self.spans.take(group) for group in group_spans(self.spans, batch, rng=np.random.default_rng(epoch))]

    def step(self, spans: Spans) -> None:
        """Make one optimiser step, as the training loop does."""
        self.steps += 1
        self.model.start_step(self.steps)
        self.optimiser.zero_grad(set_to_none=True)
        with self.autocast:
            loss = training_loss(self.model, gather(self.vectors, spans), self.objective)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimiser.step()

    def rate(self, batch: int, *, seconds: float) -> float:
        """Return targets per second, the median of some blocks of steps."""
        batches, number = self.batches(batch, 0), 0
        for _ in range(WARM_UP_STEPS):
            self.step(batches[0])
        machine.wait_for(str(self.vectors.device))
        rates = []
        for _ in range(NUM_BLOCKS):
            started, targets = time.perf_counter(), 0
            while True:
                spans = batches[number % len(batches)]
                number += 1
                self.step(spans)
                targets += int(spans.num_targets.sum())
                if time.perf_counter() - started >= seconds / NUM_BLOCKS:
                    break
            machine.wait_for(str(self.vectors.device))
            rates.append(targets / (time.perf_counter() - started))
        return float(np.median(rates))

    def epochs(self, batch: int, epochs: int) -> float:
        """Train for some epochs and return the seconds."""
        machine.wait_for(str(self.vectors.device))
        started = time.perf_counter()
        for epoch in range(epochs):
            for spans in self.batches(batch, epoch):
                self.step(spans)
        machine.wait_for(str(self.vectors.device))
        return time.perf_counter() - started

    def host_syncs(self, batch: int) -> int | None:
        """Return how often a step makes the host wait for the GPU; None on a CPU."""
        if self.vectors.device.type != "cuda":
            return None
        spans = self.batches(batch, 0)[0]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self.step(spans)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(each.message) for each in caught)


def ranked(predictions: Tensor, vectors: Tensor, target_rows: Tensor) -> Row:
    """Return mean cosine and recall at 10 of predictions (S, D) among the distinct targets."""
    pool = F.normalize(vectors[target_rows.to(vectors.device)], dim=-1)
    directions = F.normalize(predictions, dim=-1)
    cosines, found = [], 0
    for start in range(0, len(pool), RANKED_IN_A_BLOCK):
        scores = directions[start : start + RANKED_IN_A_BLOCK] @ pool.T
        own = scores.diagonal(start).clone()
        found += int(((scores > own[:, None]).sum(1) < 10).sum())
        cosines.append(own)
    return {"cosine": float(torch.cat(cosines).mean()), "recall_at_10": found / len(pool)}


def made_articles(concepts: int, width: int, *, device: str) -> Articles:
    """Make articles of 8 to 66 concepts whose vectors drift slowly, the last tenth of them for validation."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 67, max(4, concepts // 37))
    first_rows = np.cumsum(lengths) - lengths
    generator = torch.Generator(device).manual_seed(0)
    steps = torch.randn(int(lengths.sum()), width, generator=generator, device=device)
    topics = torch.randn(len(lengths), width, generator=generator, device=device)
    article = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(device)
    vectors = F.normalize(topics[article] + 0.7 * steps, dim=-1)
    num_train = len(lengths) - max(1, int(VALIDATION_FRACTION * len(lengths)))
    parts = {"train": np.arange(num_train), "validation": np.arange(num_train, len(lengths))}
    made = {
        name: {"articles": whole(first_rows[part], lengths[part]), "windows": windows(first_rows[part], lengths[part])}
        for name, part in parts.items()
    }
    return Articles(vectors=vectors, spans=made["train"], validation=made["validation"])


def whole(first_rows: np.ndarray, lengths: np.ndarray) -> Spans:
    """Return one span for each article, with a target at every position."""
    return Spans(first_rows=first_rows, lengths=lengths - 1, first_targets=np.zeros_like(lengths))


def windows(first_rows: np.ndarray, lengths: np.ndarray) -> Spans:
    """Return every window of five concepts and its target."""
    starts = np.concatenate(
        [first + np.arange(n - CONTEXT_LENGTH) for first, n in zip(first_rows, lengths, strict=True)]
    )
    context = np.full(len(starts), CONTEXT_LENGTH)
    return Spans(first_rows=starts, lengths=context, first_targets=context - 1)
