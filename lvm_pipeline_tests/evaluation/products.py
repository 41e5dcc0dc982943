"""Small products to evaluate: articles that turn by one fixed rotation, and models trained on them for a moment."""

from dataclasses import dataclass
from pathlib import Path

from lvm_pipeline.evaluation.evaluate import evaluate_model
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData, load_training_data
from lvm_pipeline.training.loop import train
from lvm_pipeline_tests.synthetic import write_synthetic_concepts

LENGTHS = [30, 9, 14, 22, 11, 18, 26, 12, 16, 21, 13, 8] * 4


@dataclass(frozen=True)
class Products:
    """A folder with a concept table and a sequence table."""

    folder: Path

    @property
    def concepts_path(self) -> Path:
        return self.folder / "concepts.parquet"

    @property
    def sequences_path(self) -> Path:
        return self.folder / "sequences.parquet"

    @property
    def vectors_dir(self) -> Path:
        return self.folder / "vectors"

    @property
    def paths(self) -> dict[str, Path]:
        return {
            "concepts_path": self.concepts_path,
            "sequences_path": self.sequences_path,
            "vectors_dir": self.vectors_dir,
        }

    def data(self) -> TrainingData:
        return load_training_data(self.concepts_path, self.sequences_path, self.vectors_dir)

    def train(self, name, **options) -> Path:
        """Train a tiny model and return its folder; one epoch by default."""
        config = {"preset": "smoke", "epochs": 1, "num_threads": 1, "mode": "windows", **options}
        config["model"] = {"hidden_dim": 16, "num_layers": 1, **config.get("model", {})}
        return train(TrainingConfig(**config), self.data(), output_dir=self.folder / "models" / name).path

    def evaluate(self, model_dir, **options):
        return evaluate_model(model_dir, **self.paths, **{"device": "cpu", "num_threads": 1, **options})


def make_products(folder, *, kind="rotation", lengths=LENGTHS, seed=0, vector_dim=16, **options) -> Products:
    """Write both tables."""
    products = Products(folder)
    write_synthetic_concepts(
        products.concepts_path, article_lengths=lengths, vector_dim=vector_dim, kind=kind, seed=seed
    )
    sequence_options = SequenceOptions(**{"train_fraction": 0.6, "validation_fraction": 0.2, **options})
    build_sequences(products.concepts_path, products.sequences_path, options=sequence_options)
    return products
