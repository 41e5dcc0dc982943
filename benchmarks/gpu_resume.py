"""A training by `training.loop.train` on random articles, for `gpu.py`: killed with SIGKILL half-way, or not.

python benchmarks/gpu_resume.py FOLDER cuda --preset full
python benchmarks/gpu_resume.py FOLDER cuda --preset full --kill-at 0.5
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import machine  # noqa: F401 - lets the tests' data be imported

from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData, load_training_data
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.progress import ProgressReport
from lvm_pipeline.training.trained_model import WEIGHTS_FILE, load_tensors
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences


def main() -> None:
    """Train, or resume what is in the folder, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("device")
    parser.add_argument("--preset", default="full")
    parser.add_argument("--articles", type=int, default=300)
    parser.add_argument("--kill-at", type=float, default=2.0, help="Fraction of the training; above 1: never.")
    options = parser.parse_args()

    def die(report: ProgressReport) -> None:
        if report.done_fraction >= options.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    trained = train(
        TrainingConfig(preset=options.preset, device=options.device, epochs=4, checkpoint_seconds=0),
        made_data(options.folder.parent / "data", articles=options.articles),
        output_dir=options.folder,
        progress=die,
    )
    weights = load_tensors(trained.path / WEIGHTS_FILE)
    found = {
        "score": trained.info.score,
        "seconds": trained.info.training_seconds,
        "targets_per_second": trained.info.history[-1]["targets_per_second"],
        "trained_on": trained.info.trained_on,
        "weights_norm": sum(float(tensor.double().square().sum()) for tensor in weights.values()) ** 0.5,
    }
    sys.stdout.write(json.dumps(found) + "\n")


def made_data(folder: Path, *, articles: int) -> TrainingData:
    """Make the tables once, and open them."""
    concepts, sequences = folder / "concepts.parquet", folder / "sequences.parquet"
    if not sequences.exists():
        write_synthetic_concepts(concepts, article_lengths=[37] * articles, vector_dim=768)
        write_synthetic_sequences(concepts, sequences)
    return load_training_data(concepts, sequences, folder / "vectors")


if __name__ == "__main__":
    main()
