"""Size, speed and memory of every architecture, beside transformers' modules at the same work, in one run.

    python benchmarks/architectures.py --json
    python benchmarks/architectures.py --architecture mamba2 --preset small
    python benchmarks/architectures.py --device cuda --preset full

Every architecture and preset gives these rows, measured in a process of its own:

    <name> <preset> windows        targets per second in training: 256 windows of five, one target each
    <name> <preset> compiled       the same by torch.compile, with --compile; the peer is the row above
    <name> <preset> articles       the same with whole articles of 37, a target at every position (causal ones only)
    <name> <preset> prediction     milliseconds for one prediction after five concepts, batch 1: half are faster
    <name> <preset> step           the same, where a state is carried: one more concept after five
    <name> <preset> memory         on a GPU, 82 to 169 million parameters: gigabytes of a step on 32 windows

Training is a whole optimiser step as in `lvm train` (autocast where it is faster, clipping, fused AdamW), on random
unit vectors; the fastest step counts. Peers (`peers.py`) are transformers' mixers in our own backbone, of equal widths
and layers: the same step on the request's 32 windows (`windows of 32, <peer>`), and the same prediction. Transformers'
Mamba-2 pads five concepts to its chunk size; it is measured with the default, 256, and with the size that fits, 8. The
goal refers to the default; the other has its own row.

`peer` is what transformers' modules reach or, for predictions and memory, the limit that the request states; a ratio
above 1 says that ours is better. Rows without either have none. Operations are two a parameter and position forward
and twice that backward; `share_of_matmul_rate` is what is reached of the rate of a square product in the same run.

Without --preset a CPU trains the preset `small` and times predictions at `full` of up to 169 million parameters; of
larger ones (LCM) it only counts. A GPU also trains `full`. Peers are measured where a preset is trained.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import torch
from peers import DEFAULT_CHUNK, PEERS, Peer, TheirMixers, fitting_chunk
from steps import CONTEXT_LENGTH, Step, num_targets, optimiser_step, random_vectors
from torch import nn

from lvm_pipeline.architectures._contract import Architecture, LatentVectorModel, config_with
from lvm_pipeline.architectures._products import packed_weights
from lvm_pipeline.architectures._registry import architecture_names, load_architecture
from lvm_pipeline.evaluation.latency import latency_ms
from lvm_pipeline.training.compiled import compile_mixers
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.settle import settled

ARTICLE_LENGTH = 37
NUM_WINDOWS, NUM_ARTICLES = 256, 11  # about what `lvm train` takes in one step
REQUEST_BATCH = 32
LIMIT_MS = {"cpu": 150.0, "cuda": 50.0}
LIMIT_GB = 8.0
MIDDLE_SIZES = (80e6, 170e6)  # parameters of the models that the limits on a CPU and of memory are stated for
LARGEST_ON_A_CPU = 400e6
FEWEST_STEPS = 3
NUM_TURNS = 3
NOT_COMPILED = ("lstm", "gru")
DEFAULT_PRESETS = ("small", "full")

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a child measures: the names, and how."""

    architecture: str
    preset: str
    device: str
    num_threads: int
    seconds: float
    trains: bool
    compiles: bool
    has_processor_time: bool
    matmul_rate: float


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", action="append", choices=architecture_names(), help="Repeat; default: all.")
    parser.add_argument("--preset", action="append", help="Repeat; given presets are also trained.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="For each figure, about.")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="CPU time of one thread and not wall time; for busy machines.",
    )
    parser.add_argument("--compile", action="store_true", help="Train with torch.compile too: minutes more.")
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    arguments = parser.parse_args()
    if arguments.processor_time:
        arguments.threads = 1
    rows = list(measure(arguments))
    print(json.dumps(rows, indent=2) if arguments.json else as_table(rows))


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of every architecture and preset, each measured in a fresh process with nothing else in memory."""
    names = arguments.architecture or architecture_names()
    processes = multiprocessing.get_context("spawn" if arguments.device.startswith("cuda") else "fork")
    with processes.Pool(1, maxtasksperchild=1) as pool:
        matmul_rate = pool.apply(
            rate_of_products, (arguments.device, arguments.threads, clock_of(arguments.processor_time))
        )
        for name in names:
            for preset in load_architecture(name).presets:
                if preset not in (arguments.preset or DEFAULT_PRESETS):
                    continue
                started = time.monotonic()
                is_on_gpu = arguments.device.startswith("cuda")
                work = Work(
                    architecture=name,
                    preset=preset,
                    device=arguments.device,
                    num_threads=arguments.threads,
                    seconds=arguments.seconds,
                    trains=bool(arguments.preset) or preset != "full" or is_on_gpu,
                    compiles=arguments.compile,
                    has_processor_time=arguments.processor_time,
                    matmul_rate=matmul_rate,
                )
                yield from pool.apply(rows_of, (work,))
                print(f"{name} {preset}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def clock_of(has_processor_time: bool) -> Clock:
    """Return a function that measures seconds."""
    return time.process_time if has_processor_time else time.perf_counter


def rate_of_products(device: str, num_threads: int, clock: Clock) -> float:
    """Return the rate of matrix products in the precision that trainings use there."""
    torch.set_num_threads(num_threads)
    config = settled(TrainingConfig(device=device), architecture=load_architecture("lstm"), is_leaking=False)
    return machine.matmul_rate(getattr(torch, config.precision), device, clock=clock)


def rows_of(work: Work) -> list[dict[str, Any]]:
    """Measure one architecture and preset."""
    torch.set_num_threads(work.num_threads)
    torch.manual_seed(0)
    return Measurement(work).rows()


class Measurement:
    """The rows of one architecture and preset."""

    def __init__(self, work: Work):
        """Choose device, precision and threads as a training would."""
        self.work = work
        self.clock = clock_of(work.has_processor_time)
        self.architecture: Architecture = load_architecture(work.architecture)
        self.num_params = self.architecture.preset(work.preset).num_params
        self.config = self.architecture.preset(work.preset).config
        training = TrainingConfig(architecture=work.architecture, preset=work.preset, device=work.device)
        self.training = settled(training, architecture=self.architecture, is_leaking=False)
        self.device_type = torch.device(work.device).type
        self.is_of_middle_size = MIDDLE_SIZES[0] < self.num_params < MIDDLE_SIZES[1]

    def rows(self) -> list[dict[str, Any]]:
        """Measure everything, or only count where the model is too large for this machine."""
        if self.device_type == "cpu" and self.num_params > LARGEST_ON_A_CPU:
            flops = self.flops_per_target(CONTEXT_LENGTH)
            return [self.row("windows", None, unit="not trained here", gflops_per_target=flops / 1e9)]
        rows = []
        if self.work.trains:
            rows.append(self.training_row("windows", NUM_WINDOWS, CONTEXT_LENGTH))
            if self.work.compiles and self.architecture.name not in NOT_COMPILED:
                rows.append(self.compiled_row(rows[-1]["ours"]))
            if self.architecture.causal:
                rows.append(self.training_row("articles", NUM_ARTICLES, ARTICLE_LENGTH))
            if self.device_type == "cuda" and self.is_of_middle_size:
                rows.append(self.memory_row())
        rows += self.prediction_rows()
        peer = PEERS.get(self.architecture.name)
        return rows + self.peer_rows(peer) if peer is not None and self.work.trains else rows

    def row(
        self,
        what: str,
        ours: float | None,
        *,
        unit: str,
        peer: float | None = None,
        goal: float | None = None,
        less_is_better: bool = False,
        **more: Any,
    ) -> dict[str, Any]:
        """One line of the table; a ratio above 1 says that ours is better."""
        ratio = None
        if ours is not None and peer is not None:
            ratio = peer / ours if less_is_better else ours / peer
        return {
            "name": f"{self.architecture.name} {self.work.preset} {what}",
            "ours": ours,
            "peer": peer,
            "ratio": ratio,
            "goal": goal,
            "met": None if goal is None or ratio is None else ratio >= goal,
            "unit": unit,
            "num_params": self.num_params,
            "device": machine.in_words(self.work.device, num_threads=self.work.num_threads),
            "clock": "processor time" if self.work.has_processor_time else "wall clock",
            **more,
        }

    def training_row(self, mode: str, batch: int, length: int) -> dict[str, Any]:
        """Train for a moment."""
        before = machine.start_peak(self.work.device)
        rate = self.training_rate(self.architecture.build(self.config), batch, length)
        flops = self.flops_per_target(length)
        return self.row(
            mode,
            rate,
            unit="targets per second",
            batch_size=batch,
            context_length=length,
            precision=self.training.precision,
            peak_memory_mb=machine.peak_megabytes(self.work.device) - before,
            gflops_per_target=flops / 1e9,
            matmul_gflops_per_second=self.work.matmul_rate / 1e9,
            share_of_matmul_rate=rate * flops / self.work.matmul_rate,
        )

    def compiled_row(self, plain_rate: float) -> dict[str, Any]:
        """Train on windows with torch.compile; report the cost of the first step, and when it pays off."""
        model = self.architecture.build(self.config).to(self.work.device).train()
        with tempfile.TemporaryDirectory(prefix="lvm-benchmark-") as folder:
            compile_mixers(model, cache_dir=Path(folder))
            step = optimiser_step(model, self.training, NUM_WINDOWS, CONTEXT_LENGTH)
            started = time.perf_counter()
            step()
            seconds_to_compile = time.perf_counter() - started
            rate = NUM_WINDOWS / self.fastest(step, self.work.seconds)
        saved = NUM_WINDOWS / plain_rate - NUM_WINDOWS / rate
        return self.row(
            "compiled",
            rate,
            peer=plain_rate,
            unit="targets per second",
            seconds_to_compile=seconds_to_compile,
            pays_after_steps=seconds_to_compile / saved if saved > 0 else None,
        )

    def memory_row(self) -> dict[str, Any]:
        """Compare the memory of a training step, weights and optimiser included, with the limit."""
        machine.start_peak(self.work.device)
        self.training_rate(self.architecture.build(self.config), REQUEST_BATCH, CONTEXT_LENGTH, seconds=0)
        peak = machine.peak_megabytes(self.work.device) / 1024
        return self.row(
            "memory", peak, peer=LIMIT_GB, goal=1.0, less_is_better=True, unit="GB", batch_size=REQUEST_BATCH
        )

    def training_rate(
        self, model: LatentVectorModel, batch: int, length: int, *, seconds: float | None = None
    ) -> float:
        """Return targets per second of the fastest optimiser step."""
        step = optimiser_step(model.to(self.work.device).train(), self.training, batch, length)
        return num_targets(batch, length) / self.fastest(step, self.work.seconds if seconds is None else seconds)

    def fastest(self, run: Callable[[], None], seconds: float) -> float:
        """Return the seconds of the fastest of some runs after the first."""
        run()
        times: list[float] = []
        while len(times) < FEWEST_STEPS or sum(times) < seconds:
            machine.wait_for(self.work.device)
            started = self.clock()
            run()
            machine.wait_for(self.work.device)
            times.append(self.clock() - started)
            if len(times) == 1 and times[0] > seconds:
                break
        return min(times)

    def prediction_rows(self) -> list[dict[str, Any]]:
        """Time predictions, from the context and from the state after it."""
        model = self.architecture.build(self.config).to(self.work.device).eval()
        has_limit = self.is_of_middle_size or (self.device_type == "cuda" and self.num_params < MIDDLE_SIZES[1])
        limit = LIMIT_MS[self.device_type] if has_limit and self.work.preset == "full" else None
        with packed_weights(model):
            rows = [self._prediction_row("prediction", model, limit)]
            if model.is_recurrent:
                rows.append(self._prediction_row("step", Step(model, self.work.device).eval(), limit))
        return rows

    def _prediction_row(self, what: str, model: nn.Module, limit: float | None) -> dict[str, Any]:
        found = self.latency(model)
        goal = None if limit is None else 1.0
        more = {"p95": found["p95"], "num_timed": found["num_timed"]}
        return self.row(what, found["p50"], peer=limit, goal=goal, less_is_better=True, unit="milliseconds", **more)

    def prediction_ms(self, model: LatentVectorModel) -> float:
        """Time predictions of a fresh model, ours as in `lvm predict` and theirs unchanged."""
        is_ours = type(model.mixers) is not TheirMixers  # pyright: ignore[reportAttributeAccessIssue]
        with packed_weights(model) if is_ours else nullcontext():
            return self.latency(model.to(self.work.device).eval())["p50"]

    def latency(self, model: nn.Module) -> dict[str, Any]:
        """Time single predictions after a context."""
        context = random_vectors(1, CONTEXT_LENGTH, self.config.vector_dim)[0].numpy()
        options = {"device": self.work.device, "num_threads": self.work.num_threads, "clock": self.clock}
        return vars(latency_ms(model, context, **options))  # pyright: ignore[reportArgumentType]

    def peer_rows(self, peer: Peer) -> list[dict[str, Any]]:
        """Give transformers' modules the same work: an optimiser step on the request's batch, and a prediction."""
        if peer.name == "BambaModel":  # which turns half of each head by position
            self.config = config_with(self.config, {"rotary_fraction": 0.5})
        fitting = fitting_chunk(CONTEXT_LENGTH)
        chunks = {f", chunk {fitting}": fitting, f", chunk {DEFAULT_CHUNK}": DEFAULT_CHUNK}
        rows = []
        for words, chunk in chunks.items() if peer.has_chunks else [("", fitting)]:
            name = f"{peer.name}{words}"
            rows.append(self.peer_training_row(peer, name, chunk))
            ours, theirs = self.in_turns(peer, chunk, self.prediction_ms, better=min)
            rows.append(
                self.row(
                    f"prediction, {name}",
                    ours,
                    peer=theirs,
                    goal=1.0,
                    less_is_better=True,
                    unit="milliseconds",
                )
            )
        return rows

    def peer_training_row(self, peer: Peer, name: str, chunk: int) -> dict[str, Any]:
        """Train both."""
        ours, theirs = self.in_turns(
            peer, chunk, lambda model: self.training_rate(model, REQUEST_BATCH, CONTEXT_LENGTH), better=max
        )
        return self.row(
            f"windows of {REQUEST_BATCH}, {name}",
            ours,
            peer=theirs,
            goal=peer.goal,
            unit="targets per second",
            batch_size=REQUEST_BATCH,
            precision=self.training.precision,
        )

    def in_turns(
        self,
        peer: Peer,
        chunk: int,
        measured: Callable[[LatentVectorModel], float],
        *,
        better: Callable[[list[float]], float],
    ) -> tuple[float, float]:
        """Measure ours and theirs, freshly built, in turn; the better turn of each counts."""
        figures: tuple[list[float], list[float]] = ([], [])
        for _ in range(NUM_TURNS):
            for found, model in zip(
                figures, (self.architecture.build(self.config), peer.model(self.config, chunk=chunk)), strict=True
            ):
                found.append(measured(model))
        return better(figures[0]), better(figures[1])

    def flops_per_target(self, length: int) -> float:
        """Return two operations a parameter and position forward, twice that backward, shared among the targets."""
        return 6 * self.num_params * length / num_targets(1, length)


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [f"{'name':58} {'parameters':>13} {'ours':>10} {'peer':>10} {'ratio':>6} {'goal':>4}  met  unit"]
    for row in rows:
        ours, peer, ratio, goal = (
            "" if row[name] is None else f"{row[name]:.{digits}f}"
            for name, digits in (("ours", 1), ("peer", 1), ("ratio", 2), ("goal", 0))
        )
        met = {True: "yes", False: "NO", None: ""}[row["met"]]
        share = f", {row['share_of_matmul_rate']:.2f} of the matmul rate" if "share_of_matmul_rate" in row else ""
        lines.append(
            f"{row['name']:58} {row['num_params']:13,} {ours:>10} {peer:>10} {ratio:>6} {goal:>4}  {met:3}  "
            f"{row['unit']}{share}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
