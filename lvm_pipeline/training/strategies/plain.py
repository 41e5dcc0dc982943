"""The plain strategy: one phase over everything."""

from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.phases import Phase, phase_of, train_spans
from lvm_pipeline.training.strategies._contract import NoOptions, Strategy


def phases(config: TrainingConfig, data: TrainingData, options: NoOptions) -> list[Phase]:
    """Return one phase over the whole train split."""
    return [phase_of(config, train_spans(config, data))]


STRATEGY = Strategy(name="plain", summary="One phase over the whole train split", phases=phases)
