"""Partitions: one per architecture in `architectures/`, and one per trial that the plan has run; and pools."""

import dagster as dg

from lvm_pipeline.architectures._registry import architecture_names

architecture_partitions = dg.StaticPartitionsDefinition(architecture_names())
trial_partitions = dg.DynamicPartitionsDefinition(name="trial")
ENSEMBLE = "ensemble"  # the "architecture" of ensembles, and the name of their asset; not a partition
DATA_POOL = "data"  # concepts and sequences: an older extraction must not replace a newer one
GPU_POOL = "gpu"  # trainings that may run at once: `dagster instance concurrency set gpu 2` allows two
RESULTS_POOL = "results"  # leaderboard and champion, which every training updates: one at a time
