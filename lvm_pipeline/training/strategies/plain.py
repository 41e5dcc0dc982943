"""The plain strategy: one phase over everything, which is what every training starts from."""

from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.strategies._contract import NoOptions, Staging, Strategy


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: NoOptions) -> Staging:
    return staging


STRATEGY = Strategy(name="plain", summary="One phase over the whole train split", affects="nothing", stage=stage)
