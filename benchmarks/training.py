"""Time the training of an LSTM 2x512 against the plain PyTorch loop of the request's quick start, in one run.

The peer is that loop: windows of five concepts as tensors, a DataLoader with batch 32, `nn.LSTM` with two layers of 512
and a linear output layer, squared error, Adam. Ours is the training loop of this project with the preset `small`: a
target at every position of whole articles (row `lstm articles`), or the same windows (row `lstm windows`). Both read
the same vectors and take turns; the fastest round of each counts. Only optimiser steps are timed, ours with everything
that belongs to them (gathering, clipping, schedule, logging of losses), the peer's with its loader.

    python benchmarks/training.py --json
    python benchmarks/training.py --data concepts.parquet      # vectors and article lengths of a file

Figures are targets per second. `share_of_matmul_rate` is the share of the rate at which this machine multiplies
matrices, measured in the same run in the precision that ours used.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from machine import matmul_rate
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lvm_pipeline.concepts.schema import ConceptsMetadata
from lvm_pipeline.concepts.store import Articles
from lvm_pipeline.sequences.schema import Sequences, SequencesMetadata
from lvm_pipeline.sequences.windows import window_starts
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.trial import Mode

ARTICLES_GOAL = 10.0  # on a CPU that multiplies bfloat16; in float32 the peer is as close to the limit
SHARE_GOAL = 0.5  # of the matrix rate
WINDOWS_GOAL = 1.0
VECTOR_DIM = 768
CONTEXT_LENGTH = 5
MEAN_LENGTH, LENGTH_SPREAD = 36.9, 0.8  # of the request's articles; the spread is that of a log-normal
MAX_CONCEPTS = 8000
WINDOW_CONCEPTS = 1500  # windows cost five times as much; fewer give the same rate
VALIDATION_ARTICLES = 2
PEER_BATCH_SIZE = 32
PEER_STEPS = 30


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Parquet with article_id and vector, in order.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="Rounds of each; the fastest counts.")
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    article_ids, vectors = made_concepts() if arguments.data is None else given_concepts(arguments.data)
    rows = compare(article_ids, vectors, threads=arguments.threads, repeats=arguments.repeats)
    print(json.dumps(rows, indent=2) if arguments.json else as_table(rows))


def compare(
    article_ids: NDArray[np.int64], vectors: NDArray[np.float32], *, threads: int, repeats: int
) -> list[dict[str, Any]]:
    """Run ours and the peer in turn and return the rows of the table."""
    data = training_data(article_ids, vectors)
    few = int(np.searchsorted(article_ids, article_ids[min(WINDOW_CONCEPTS, len(article_ids) - 1)]))
    window_data = training_data(article_ids[:few], vectors[:few]) if few else data
    peers, articles, windows, infos = [], [], [], {}
    for _ in range(repeats):
        peers.append(peer_rate(data))
        rate, infos["articles"] = our_rate(data, mode="articles", threads=threads)
        articles.append(rate)
        rate, infos["windows"] = our_rate(window_data, mode="windows", threads=threads)
        windows.append(rate)
    precision = infos["articles"].training["precision"]
    matmul, goal = matmul_rate(getattr(torch, precision)), ARTICLES_GOAL if precision == "bfloat16" else None
    of_articles = {"positions": 1, "info": infos["articles"], "matmul": matmul}
    of_windows = {"positions": CONTEXT_LENGTH, "info": infos["windows"], "matmul": matmul}
    ours = row("lstm articles", max(articles), max(peers), goal=goal, **of_articles)
    return [
        ours,
        share_row("lstm articles, share of the matrix rate", ours["share_of_matmul_rate"], ours["trained_on"]),
        row("lstm windows", max(windows), max(peers), goal=WINDOWS_GOAL, **of_windows),
    ]


def share_row(name: str, share: float, trained_on: str) -> dict[str, Any]:
    """Judge the share of the matrix rate, which says the same on any machine."""
    ratio = share / SHARE_GOAL
    return {
        **{"name": name, "ours": share, "peer": SHARE_GOAL, "ratio": ratio, "goal": 1.0, "met": ratio >= 1.0},
        **{"unit": "of the matrix rate", "trained_on": trained_on, "share_of_matmul_rate": share},
    }


def row(
    name: str, ours: float, peer: float, *, goal: float | None, positions: int, info: Any, matmul: float
) -> dict[str, Any]:
    """One line of the table; a ratio above 1 says that ours is better."""
    flops = flops_of_a_target(info, positions)
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "goal": goal,
        "met": None if goal is None else ours / peer >= goal,
        "unit": "targets per second",
        "trained_on": info.trained_on,
        "gflops_per_second": ours * flops / 1e9,
        "matmul_gflops_per_second": matmul / 1e9,
        "share_of_matmul_rate": ours * flops / matmul,
    }


def flops_of_a_target(info: Any, positions: int) -> int:
    """Return the operations of the products with weights and with the head's directions, (D, D); attention is left out.

    A weight takes two at a position, forward, and twice that, backward. The directions are no parameters: every concept
    is rotated into them, and a prediction out of them and back again for its gradient.
    """
    of_weights = 6 * info.num_params * positions
    has_directions = info.config.get("head") == "mixing"
    return of_weights + (2 * info.config["vector_dim"] ** 2 * (positions + 2) if has_directions else 0)


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    met = {True: "yes", False: "NO", None: ""}
    lines = [f"{'name':40} {'ours':>9} {'peer':>9} {'ratio':>7} {'goal':>6}  met  share of matmul rate"]
    lines += [
        f"{r['name']:40} {r['ours']:9.4g} {r['peer']:9.4g} {r['ratio']:7.2f} {r['goal'] or '-':>6}  "
        f"{met[r['met']]:3}  {r['share_of_matmul_rate']:.2f} ({r['trained_on']})"
        for r in rows
    ]
    return "\n".join(lines)


def our_rate(data: TrainingData, *, mode: Mode, threads: int) -> tuple[float, Any]:
    """Train two epochs and return the rate of the faster one, in targets per second."""
    config = TrainingConfig(
        architecture="lstm", preset="small", mode=mode, epochs=2, patience=2, num_threads=threads, device="cpu"
    )
    with tempfile.TemporaryDirectory(prefix="lvm-benchmark-") as folder:
        info = train(config, data, output_dir=Path(folder) / "model").info
    return max(epoch["targets_per_second"] for epoch in info.history[1:]), info


class QuickStartLstm(nn.Module):
    """The request's baseline: contexts (B, T, D) to the next vector (B, D)."""

    def __init__(self) -> None:
        """Two layers of 512."""
        super().__init__()
        self.lstm = nn.LSTM(VECTOR_DIM, 512, 2, batch_first=True)
        self.out = nn.Linear(512, VECTOR_DIM)

    def forward(self, contexts: torch.Tensor) -> torch.Tensor:
        """Predict from the last position."""
        return self.out(self.lstm(contexts)[0][:, -1])


def peer_rate(data: TrainingData) -> float:
    """Run the plain loop for some steps and return targets per second."""
    torch.manual_seed(0)
    runs = data.window_spans("train")
    rows = torch.from_numpy(runs.first_rows[:, None] + np.arange(CONTEXT_LENGTH + 1))
    vectors = torch.from_numpy(data.vectors)
    windows = TensorDataset(vectors[rows[:, :-1]], vectors[rows[:, -1]])
    loader = iter(DataLoader(windows, batch_size=PEER_BATCH_SIZE, shuffle=True))
    model, objective = QuickStartLstm(), nn.MSELoss()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    started = 0.0
    for step in range(PEER_STEPS + 3):
        if step == 3:  # warmed up
            started = time.perf_counter()
        contexts, targets = next(loader)
        optimiser.zero_grad()
        objective(model(contexts), targets).backward()
        optimiser.step()
    return PEER_STEPS * PEER_BATCH_SIZE / (time.perf_counter() - started)


def made_concepts() -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Make unit vectors in articles as long as the request's: returns the article of each row, and the rows."""
    rng = np.random.default_rng(0)
    mean = np.log(MEAN_LENGTH) - LENGTH_SPREAD**2 / 2
    lengths = np.maximum(
        rng.lognormal(mean, LENGTH_SPREAD, 2 * MAX_CONCEPTS // int(MEAN_LENGTH)).round().astype(int), 2
    )
    article_ids = np.repeat(np.arange(len(lengths)), lengths)[:MAX_CONCEPTS]
    topics = rng.standard_normal((len(lengths), VECTOR_DIM), dtype=np.float32)
    vectors = topics[article_ids] + rng.standard_normal((len(article_ids), VECTOR_DIM), dtype=np.float32)
    return article_ids, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def given_concepts(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Take the first articles of a file."""
    table = pq.read_table(path, columns=["article_id", "vector"])
    article_ids = table["article_id"].combine_chunks().dictionary_encode().indices.to_numpy()[:MAX_CONCEPTS]
    flat = table["vector"].combine_chunks()[:MAX_CONCEPTS].flatten().to_numpy(zero_copy_only=False)
    return article_ids.astype(np.int64), flat.astype(np.float32).reshape(len(article_ids), -1)


def training_data(article_ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> TrainingData:
    """Make what a training reads, in memory; the last articles are validation, and few, since only steps are timed."""
    first_rows = np.flatnonzero(np.diff(article_ids, prepend=-1))
    names = [str(article) for article in range(len(first_rows))]
    lengths = np.diff(first_rows, append=len(article_ids))
    long = np.flatnonzero(lengths > CONTEXT_LENGTH)
    article_splits = np.full(len(names), "train", dtype="<U10")
    article_splits[long[-VALIDATION_ARTICLES:]] = "validation"
    starts = window_starts(article_ids, CONTEXT_LENGTH)
    targets = np.searchsorted(first_rows, starts, side="right") - 1
    metadata = SequencesMetadata(
        fingerprint="benchmark",
        concepts_fingerprint="benchmark",
        context_length=CONTEXT_LENGTH,
        boundaries="respect",
        split_rule="benchmark",
        num_sequences=len(starts),
        split_counts={},
    )
    return TrainingData(
        vectors=vectors,
        articles=Articles(ids=names, first_rows=first_rows, lengths=lengths),
        article_splits=article_splits,
        sequences=Sequences(
            article_ids=np.array(names)[targets],
            first_rows=starts,
            target_rows=starts + CONTEXT_LENGTH,
            splits=article_splits[targets],
            article_splits=dict(zip(names, article_splits.tolist(), strict=True)),
            metadata=metadata,
        ),
        concepts=ConceptsMetadata(
            fingerprint="benchmark",
            space_id="benchmark",
            vector_dim=vectors.shape[1],
            source="benchmark",
            dataset_source="benchmark",
            order_key="benchmark",
            num_concepts=len(vectors),
            num_articles=len(names),
            num_source_rows=len(vectors),
            duplicates_policy="fail",
        ),
    )


if __name__ == "__main__":
    main()
