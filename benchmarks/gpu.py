"""Train, score and time the `full` preset of every architecture on one GPU, in a few minutes; start it by `gpu.sh`.

    benchmarks/gpu.sh                      # writes gpu.json and gpu.md; OUT=FOLDER writes them elsewhere
    benchmarks/gpu.sh --device cpu --preset smoke --concepts 400 --seconds 0.1 --minutes 3

Each architecture has a process of its own, which is killed when its time is up, so that one that hangs or crashes costs
only its own rows. Every result is written at once, so an interrupted run keeps what it has measured.

Rates are medians of whole optimiser steps as `lvm train` makes them, at the default and at a large batch. Ten epochs
over 42,113 concepts are run where the time allows, and extrapolated from the faster rate otherwise. Model FLOPs
utilisation counts six operations a parameter and position, against the rate that the maker states for dense bfloat16.
"""

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import machine
import torch
from gpu_work import Row, Work, rows_of

from lvm_pipeline.architectures._registry import architecture_names, load_architecture

STATED_RATES = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}  # dense bfloat16
GOAL_MINUTES = 10.0
GOAL_UTILISATION = 0.4
RESUME_SECONDS = 90.0  # kept back for the training that is killed and resumed
END_SECONDS = 5.0


def main() -> None:
    """Measure and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", action="append", choices=architecture_names(), help="Repeat; default: all.")
    parser.add_argument("--preset", default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=7.5, help="For everything.")
    parser.add_argument("--concepts", type=int, default=42_113)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--large-batch", type=int, default=8192, help="Targets in a step.")
    parser.add_argument("--seconds", type=float, default=2.0, help="For each rate, about.")
    parser.add_argument("--out", type=Path, default=Path(), help="Folder of gpu.json and gpu.md.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    run = Run(arguments)
    run.measure()
    sys.stdout.write(as_markdown(run.found) + "\n")


class Run:
    """Everything that is measured, and where it is written."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.deadline = time.monotonic() + 60 * arguments.minutes
        self.found: dict[str, Any] = {"finished": False, "options": {**vars(arguments), "out": str(arguments.out)}}

    def measure(self) -> None:
        """Measure the machine, then the architectures from the smallest to the largest, then the resumed training."""
        names = self.arguments.architecture or architecture_names()
        preset = self.arguments.preset
        names = sorted(names, key=lambda name: load_architecture(name).preset(preset).num_params)
        self.found["machine"] = in_child(machine_of, self.arguments.device, seconds=60)[-1]
        self.found["architectures"] = {}
        for number, name in enumerate(names):
            left = self.deadline - RESUME_SECONDS - time.monotonic()
            self.architecture(name, seconds=max(left, 0) / (len(names) - number))
        self.found["resume"] = self.resume()
        self.found["finished"] = True
        self.write()

    def architecture(self, name: str, *, seconds: float) -> None:
        """Measure one architecture in a process of its own."""
        preset, found = load_architecture(name).preset(self.arguments.preset), self.found["machine"]
        work = Work(
            architecture=name,
            preset=self.arguments.preset,
            device=self.arguments.device,
            precision=found.get("precision", "float32"),
            concepts=self.arguments.concepts,
            epochs=self.arguments.epochs,
            large_batch=self.arguments.large_batch,
            seconds=self.arguments.seconds,
            matmul_rate=found.get("matmul_rate", float("nan")),
            peak_rate=found.get("stated_rate"),
        )
        started = time.monotonic()
        rows = in_child(rows_of_work, work, started + seconds, seconds=seconds + END_SECONDS)
        taken = time.monotonic() - started
        self.found["architectures"][name] = {"num_params": preset.num_params, "seconds": taken, "rows": rows}
        print(f"{name}: {taken:.0f} s", file=sys.stderr, flush=True)
        self.write()

    def resume(self) -> Row:
        """Train once without a break, and once killed half-way and started again."""
        with tempfile.TemporaryDirectory(prefix="lvm-gpu-") as folder:
            whole, ended = self.training(Path(folder) / "whole")
            if whole is None:
                return {"why_not": ended}
            killed, ended = self.training(Path(folder) / "killed", "--kill-at", "0.5")
            if killed is not None or ended != f"exit code {-signal.SIGKILL}":
                return {"why_not": f"the training that should be killed ended with {ended}"}
            resumed, ended = self.training(Path(folder) / "killed")
        if resumed is None:
            return {"why_not": ended}
        names = ("score", "weights_norm")
        difference = max(abs(resumed[name] - whole[name]) / abs(whole[name]) for name in names)
        return {"uninterrupted": whole, "resumed": resumed, "largest_relative_difference": difference}

    def training(self, folder: Path, *options: str) -> tuple[Row | None, str]:
        """Return what a training printed, None if it ended badly, and how it ended."""
        size = "smoke" if self.arguments.preset == "smoke" else "full"
        articles = str(max(20, min(300, self.arguments.concepts // 37)))
        script = str(Path(__file__).with_name("gpu_resume.py"))
        command = [sys.executable, script, str(folder), self.arguments.device, "--preset", size, "--articles", articles]
        left = max(1.0, self.deadline - time.monotonic())
        try:
            done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            return None, "no time was left"
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1]), "success"
        last = done.stderr.strip().splitlines()[-1:] or [""]
        return None, last[0] if done.returncode > 0 else f"exit code {done.returncode}"

    def write(self) -> None:
        """Write the results so far."""
        for name, text in (("gpu.json", json.dumps(self.found, indent=2)), ("gpu.md", as_markdown(self.found))):
            staged = self.arguments.out / f".{name}.{os.getpid()}"
            staged.write_text(text + "\n", encoding="utf-8")
            staged.replace(self.arguments.out / name)


def in_child(call: Any, *given: Any, seconds: float) -> list[Row]:
    """Run a function that sends rows in a forked process and return them; an unfinished one says why in its last row.

    The parent never touches the GPU, since CUDA does not survive a fork.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=call, args=(sender, *given))
    process.start()
    sender.close()
    rows, end = [], time.monotonic() + seconds
    try:
        while receiver.poll(max(0.0, end - time.monotonic())):
            rows.append(receiver.recv())
    except EOFError:
        process.join(END_SECONDS)
        if process.exitcode != 0:
            rows.append({"part": "rest", "why_not": f"the process ended with exit code {process.exitcode}"})
        return rows
    process.kill()
    process.join()
    return [*rows, {"part": "rest", "why_not": "its time was over"}]


def rows_of_work(sender: Connection, work: Work, deadline: float) -> None:
    """Measure an architecture and send each row as soon as it is measured."""
    torch.set_num_threads(torch.get_num_threads())  # OpenMP's threads do not survive the fork
    try:
        for row in rows_of(work, deadline=deadline):
            sender.send(row)
    except Exception as error:  # noqa: BLE001 - the others are measured all the same
        sender.send({"part": "rest", "why_not": f"{type(error).__name__}: {error}"})


def machine_of(sender: Connection, device: str) -> None:
    """Send what the machine is."""
    torch.set_num_threads(torch.get_num_threads())
    is_gpu = device.startswith("cuda")
    name = machine.in_words(device, num_threads=torch.get_num_threads())
    precision = "bfloat16" if is_gpu else "float32"
    sender.send(
        {
            "device": name,
            "torch": torch.__version__,
            "precision": precision,
            "matmul_rate": machine.matmul_rate(getattr(torch, precision), device),
            "stated_rate": next((rate for word, rate in STATED_RATES.items() if is_gpu and word in name), None),
        }
    )


HEADINGS = (
    "architecture",
    "parameters",
    "articles: targets/s (batch)",
    "MFU",
    "ten epochs",
    "windows: targets/s (batch)",
    "MFU",
    "ten epochs",
    "peak GB",
    "batch 32 GB",
    "prediction p50 / p95 ms",
    "evaluation s",
)


def as_markdown(found: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    about = found.get("machine", {})
    lines = [
        f"{about.get('device', 'no device')}, PyTorch {about.get('torch', '?')}, {about.get('precision', '?')}, "
        f"matrix products at {about.get('matmul_rate', 0) / 1e12:.3g} TFLOP/s.",
        "",
        f"| {' | '.join(HEADINGS)} |".replace("ten epochs", f"{found['options']['epochs']} epochs"),
        "|" + " --- |" * len(HEADINGS),
    ]
    lines += [line_of(name, each) for name, each in found.get("architectures", {}).items()]
    lines += ["", *total_of(found), resume_in_words(found.get("resume"))]
    return "\n".join(lines)


def line_of(name: str, architecture: dict[str, Any]) -> str:
    """Write the line of an architecture."""
    parts = {row["part"]: row for row in architecture["rows"]}
    cells = [name, f"{architecture['num_params']:,}"]
    for mode in ("articles", "windows"):
        cells += training_cells(parts.get(f"training {mode}"))
    peaks = [row["peak_gb"] for part, row in parts.items() if part.startswith("training") and "peak_gb" in row]
    memory, prediction, evaluation = (parts.get(part, {}) for part in ("memory", "prediction", "evaluation"))
    cells.append(f"{max(peaks):.1f}" if peaks else "")
    cells.append(f"{memory['peak_gb']:.1f}" if "peak_gb" in memory else "")
    cells.append(f"{prediction['p50_ms']:.2f} / {prediction['p95_ms']:.2f}" if "p50_ms" in prediction else "")
    seconds = [evaluation[key] for key in ("prediction_seconds", "ranking_seconds") if key in evaluation]
    cells.append(f"{sum(seconds):.2f}" if seconds else "")
    missing = [f"{row['part']}: {row['why_not']}" for row in architecture["rows"] if "why_not" in row]
    return f"| {' | '.join(cells)} |" + (f" {'; '.join(missing)}" if missing else "")


def training_cells(row: Row | None) -> list[str]:
    """Write rate, utilisation and time of a training."""
    if row is None or "targets_per_second" not in row:
        return ["", "", ""]
    utilisation = row["model_flops_utilisation"]
    if utilisation is None:
        utilisation = row["share_of_matmul_rate"]
    sign = "~" if row["is_extrapolated"] else ""
    return [
        f"{row['targets_per_second']:,.0f} ({row['batch']})",
        f"{100 * utilisation:.0f} %",
        f"{sign}{row['epochs_seconds']:.1f} s",
    ]


def total_of(found: dict[str, Any]) -> list[str]:
    """Say how long the best mode of every architecture takes, evaluation included, against the goal."""
    total, missing, at_goal = 0.0, [], []
    for name, architecture in found.get("architectures", {}).items():
        parts = {row["part"]: row for row in architecture["rows"]}
        trainings = [row for part, row in parts.items() if part.startswith("training") and "epochs_seconds" in row]
        if not trainings or "ranking_seconds" not in parts.get("evaluation", {}):
            missing.append(name)
            continue
        evaluation = parts["evaluation"]
        total += min(row["epochs_seconds"] for row in trainings)
        total += evaluation["prediction_seconds"] + evaluation["ranking_seconds"]
        if max(row["model_flops_utilisation"] or 0 for row in trainings) >= GOAL_UTILISATION:
            at_goal.append(name)
    lines = [
        f"All architectures in their faster mode, evaluation included: {total / 60:.1f} minutes (goal: under "
        f"{GOAL_MINUTES:.0f}){'; missing: ' + ', '.join(missing) if missing else ''}.",
        f"Model FLOPs utilisation of {GOAL_UTILISATION:.0%} or more: {', '.join(at_goal) or 'none'}.",
        "A ~ marks times that are extrapolated from the rate. MFU is a share of the rate of matrix products where the "
        "maker's rate is not known.",
    ]
    return lines


def resume_in_words(resume: Row | None) -> str:
    """Say whether a killed training ended like an uninterrupted one."""
    if resume is None:
        return "Killed and resumed: not reached."
    if "why_not" in resume:
        return f"Killed and resumed: not measured ({resume['why_not']})."
    rate = resume["uninterrupted"]["targets_per_second"]
    return (
        f"Killed half-way and resumed: largest relative difference of score and weights "
        f"{resume['largest_relative_difference']:.1e} against an uninterrupted training ({rate:,.0f} targets/s in "
        "`lvm train`'s own loop)."
    )


if __name__ == "__main__":
    main()
