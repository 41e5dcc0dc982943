"""Latency of `lvm serve` under load: server time and end to end, at 1, 8 and 32 clients.

    python benchmarks/serving.py [--json] [--preset full] [--concepts 20000] [--seconds 8]

A model with fresh weights is served in a process of its own over a table of random vectors; each request has five
vectors and asks for the five nearest concepts and the decoded text. The clients run in a second process on the same
processors. Every client sends its next request when it has the answer to the last.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from machine import in_words

from lvm_pipeline.adapters.loopback import LOOPBACK, free_port, is_free
from lvm_pipeline.architectures._contract import count_parameters
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.settings import Settings
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.trained_model import class_name, read_trained_model_info, save_trained_model
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences

CLIENTS = (1, 8, 32)
CONTEXT_LENGTH = 5
SERVER_GOAL_MS, END_TO_END_GOAL_MS = 50, 150  # 95th percentile, goals at 8 clients
JUDGED_CLIENTS = 8
NUM_BODIES = 64


def main() -> None:
    """Print server time and end-to-end latency for each number of clients."""
    parser = argparse.ArgumentParser(description="Latency of the model server under load.")
    parser.add_argument("--architecture", default="lstm")
    parser.add_argument("--preset", default="full", help="Size of the model.")
    parser.add_argument("--concepts", type=int, default=20_000, help="Concepts that are searched.")
    parser.add_argument("--width", type=int, default=768, help="Width of the vectors.")
    parser.add_argument("--seconds", type=float, default=8, help="Time of load for each number of clients.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of the model.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), device="cpu", num_threads=options.threads)
        model = make_home(settings, options)
        rows = measured(settings, model, options)
    sys.stdout.write(json.dumps(rows, indent=2) + "\n" if options.json else "\n".join(map(line, rows)) + "\n")


def make_home(settings: Settings, options: argparse.Namespace) -> dict[str, object]:
    """Write concepts and a model with fresh weights; return what the model is."""
    lengths = [25] * (options.concepts // 25)
    write_synthetic_concepts(
        settings.concepts_path, article_lengths=lengths, vector_dim=options.width, kind="noise", seed=options.seed
    )
    small = settings.home / "small.parquet"
    write_synthetic_concepts(small, article_lengths=[9] * 20, vector_dim=options.width, seed=options.seed)
    write_synthetic_sequences(small, settings.home / "small_sequences.parquet")
    data = load_training_data(small, settings.home / "small_sequences.parquet", settings.vectors_dir)
    config = TrainingConfig(preset="smoke", epochs=1, num_threads=1, mode="windows")
    info = read_trained_model_info(train(config, data, output_dir=settings.home / "smoke").path)
    torch.manual_seed(options.seed)
    architecture = load_architecture(options.architecture)
    preset = architecture.preset(options.preset)
    values = {**asdict(preset.config), "vector_dim": options.width}
    model = architecture.build(type(preset.config)(**values))
    trial = {**info.trial, "architecture": options.architecture, "preset": options.preset}
    named = {"architecture": options.architecture, "preset": options.preset, "config": values, "trial": trial}
    described = {**named, "num_params": count_parameters(model), "model_class": class_name(model)}
    record = type(info)(**{**vars(info), **described})
    save_trained_model(settings.trials_dir / record.trial_id / "model", model.state_dict(), record)
    return {"trial_id": record.trial_id, "num_params": record.num_params}


def measured(settings: Settings, model: dict[str, object], options: argparse.Namespace) -> list[dict[str, object]]:
    """Serve the model, put load on it and return one row per number of clients."""
    context = multiprocessing.get_context("spawn")
    port = free_port()
    server = context.Process(target=_serve, args=(settings.home, options.threads, model["trial_id"], port), daemon=True)
    server.start()
    while is_free(port):
        if not server.is_alive():
            sys.exit("The server ended; see its message above.")
        time.sleep(0.1)
    bodies = _bodies(options)
    rows = []
    asyncio.run(load(port, bodies, clients=2, seconds=1))
    for clients in CLIENTS:
        found = asyncio.run(load(port, bodies, clients=clients, seconds=options.seconds))
        rows.append(
            _row(clients, found, seconds=options.seconds)
            | {"model": model, "concepts": options.concepts}
            | {"machine": in_words("cpu", num_threads=options.threads)}
        )
    server.terminate()
    server.join()
    return rows


async def load(port: int, bodies: list[bytes], *, clients: int, seconds: float) -> np.ndarray:
    """Return server and end-to-end milliseconds of each request, (n, 2)."""
    until = time.perf_counter() + seconds
    found = await asyncio.gather(*(_client(port, bodies, first=each, until=until) for each in range(clients)))
    return np.array([pair for each in found for pair in each])


async def _client(port: int, bodies: list[bytes], *, first: int, until: float) -> list[tuple[float, float]]:
    """Send one request after the other on one connection, and return the times of each."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    times = []
    number = first
    while time.perf_counter() < until:
        body = bodies[number % len(bodies)]
        number += 7
        head = f"POST /predict HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Length: {len(body)}\r\n\r\n"
        began = time.perf_counter()
        writer.write(head.encode() + body)
        headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(headers.partition("content-length: ")[2].split("\r\n")[0]))
        ended = time.perf_counter()
        if not headers.startswith("http/1.1 200"):
            sys.exit(f"The server answered {headers.splitlines()[0]}.")
        times.append((float(headers.partition("total;dur=")[2].split("\r\n")[0]), 1000 * (ended - began)))
    writer.close()
    return times


def _bodies(options: argparse.Namespace) -> list[bytes]:
    rng = np.random.default_rng(options.seed)
    contexts = rng.standard_normal((NUM_BODIES, CONTEXT_LENGTH, options.width))
    contexts /= np.linalg.norm(contexts, axis=2, keepdims=True)
    return [json.dumps({"vectors": context.astype(np.float32).tolist()}).encode() for context in contexts]


def _serve(home: Path, num_threads: int, trial_id: str, port: int) -> None:
    from lvm_pipeline.lineage.serving import serve

    settings = Settings(home=home, device="cpu", num_threads=num_threads)
    serve(settings, trial=trial_id, host=LOOPBACK, port=port, on_start=lambda: None)


def _row(clients: int, found: np.ndarray, *, seconds: float) -> dict[str, object]:
    """Return the figures; ratio = goal / p95 of the server time, or of the end-to-end time where that is smaller."""
    server, end_to_end = (
        {name: float(np.percentile(times, share)) for name, share in (("p50", 50), ("p95", 95), ("p99", 99))}
        for times in found.T
    )
    ratios = {"server": SERVER_GOAL_MS / server["p95"], "end_to_end": END_TO_END_GOAL_MS / end_to_end["p95"]}
    is_judged = clients == JUDGED_CLIENTS
    ratio = min(ratios.values())
    return {
        "name": f"{clients} client{'' if clients == 1 else 's'}",
        "ours": server["p95"],
        "peer": SERVER_GOAL_MS,
        "ratio": ratio,
        "ratios": ratios,
        "goal": 1 if is_judged else None,
        "met": ratio >= 1 if is_judged else None,
        "server_ms": server,
        "end_to_end_ms": end_to_end,
        "requests_per_second": len(found) / seconds,
        "requests": len(found),
    }


def line(row: dict[str, object]) -> str:
    """Write a row for people."""
    server, whole = row["server_ms"], row["end_to_end_ms"]
    assert isinstance(server, dict)
    assert isinstance(whole, dict)
    figures = "; ".join(
        f"{name} p50 {times['p50']:.1f}, p95 {times['p95']:.1f}, p99 {times['p99']:.1f} ms"
        for name, times in (("server", server), ("end to end", whole))
    )
    verdict = "" if row["met"] is None else f", goals {'met' if row['met'] else 'missed'} (ratio {row['ratio']:.2f})"
    return f"{row['name']}: {figures}; {row['requests_per_second']:.0f} requests/s{verdict}"


if __name__ == "__main__":
    main()
