"""Quality and cost of the linear forecast on a Parquet file of concepts: whole articles and windows of five.

    python benchmarks/linear_forecast.py --data concepts.parquet --validation-articles articles.txt [--json]

The file has the columns article_id, position and vector, sorted; the text file names one validation article a line.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from machine import peak_megabytes, start_peak

from lvm_pipeline.measures.linear_forecast import fit_linear_forecast
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.targets import Targets, find_targets
from lvm_pipeline.measures.uncertainty import paired_gain
from lvm_pipeline.measures.weighted_means import article_mixes, decayed_means, fit_context_mix, fit_decay

CONTEXT_LENGTH = 5


def main() -> None:
    """Print cosine, gain over the weighted mean, seconds and memory for each kind of context."""
    parser = argparse.ArgumentParser(description="Quality and cost of the linear forecast.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation-articles", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {
        mode: measured(targets_of(options.data, options.validation_articles, mode)) for mode in ("articles", "windows")
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if options.json else "\n".join(map(line, found.items())) + "\n")


def targets_of(data_path: Path, validation_path: Path, mode: str) -> Targets:
    """Describe the targets from position 5 on."""
    table = pq.read_table(data_path, columns=["article_id", "vector"])
    ids = np.asarray(table["article_id"])
    vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors = np.asarray(vectors, np.float32).reshape(len(ids), -1)
    first_rows = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
    lengths = np.diff(first_rows, append=len(ids))
    validation = set(validation_path.read_text(encoding="utf-8").split())
    splits = np.array(["validation" if ids[row] in validation else "train" for row in first_rows])
    rows = np.flatnonzero(np.arange(len(ids)) - np.repeat(first_rows, lengths) >= CONTEXT_LENGTH)
    return find_targets(
        vectors,
        article_first_rows=first_rows,
        article_splits=splits,
        target_rows=rows,
        target_splits=np.repeat(splits, lengths)[rows],
        context_length=CONTEXT_LENGTH,
        split="validation",
        context_mode="articles" if mode == "articles" else "windows",
    )


def measured(targets: Targets) -> dict[str, object]:
    """Fit on the train targets and score the validation targets."""
    vectors, train, scored = targets.vectors, targets.train, targets.scored
    start_peak("cpu")
    started = time.perf_counter()
    forecast = fit_linear_forecast(
        vectors,
        train_rows=targets.train_rows,
        first_rows=train.first_rows,
        target_rows=train.target_rows,
        articles=train.articles,
    )
    fitted = time.perf_counter()
    predictions = forecast.predict(vectors, scored.first_rows, scored.target_rows)
    ended = time.perf_counter()
    wanted = vectors[scored.target_rows]
    scores = cosines(predictions, wanted)
    base = cosines(_weighted_means(targets), wanted)
    return {
        "train_targets": len(train),
        "targets": len(scored),
        "cosine": float(scores.mean()),
        "weighted_mean_cosine": float(base.mean()),
        "gain": asdict(paired_gain(scores, base, scored.articles)),
        "penalties": forecast.penalties,
        "fit_seconds": fitted - started,
        "predict_seconds": ended - fitted,
        "peak_gigabytes": peak_megabytes("cpu") / 1024,
    }


def _weighted_means(targets: Targets) -> np.ndarray:
    vectors, train, scored = targets.vectors, targets.train, targets.scored
    if targets.context_mode == "windows":
        decay = fit_decay(vectors, train.first_rows, train.target_rows)
        return decayed_means(vectors, scored.first_rows, scored.target_rows, decay=decay)
    mix = fit_context_mix(vectors, train.first_rows, train.target_rows)
    return article_mixes(vectors, scored.first_rows, scored.target_rows, mix=mix)


def line(result: tuple[str, dict[str, object]]) -> str:
    """Return one kind of context as a line of text."""
    mode, found = result
    return f"{mode}: " + ", ".join(f"{name} {value}" for name, value in found.items())


if __name__ == "__main__":
    main()
