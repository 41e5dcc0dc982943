"""Small data and small trials on them, as most tests of this folder need them."""

from lvm_pipeline import lineage
from lvm_pipeline.settings import with_options
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences

OPTIONS = {"architecture": "gru", "preset": "smoke", "epochs": 1, "num_threads": 1, "model": {"hidden_dim": 8}}


def make_data(settings, *, seed=0):
    write_synthetic_concepts(
        settings.concepts_path, article_lengths=[9, 12, 7] * 8, vector_dim=8, kind="rotation", seed=seed
    )
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path)


def train(settings, *, tracker=None, again=False, **options):
    settings = with_options(settings, options)
    return lineage.train_trial(settings, lineage.training_config_of(settings), tracker=tracker, again=again)
