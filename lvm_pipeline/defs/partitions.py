"""Partitions: an architecture, for every file in `architectures/`; a trial, for every one that the plan has run."""

import dagster as dg

from lvm_pipeline.architectures._registry import architecture_names

architecture_partitions = dg.StaticPartitionsDefinition(architecture_names())
trial_partitions = dg.DynamicPartitionsDefinition(name="trial")
ENSEMBLE = "ensemble"  # stands where other trials name an architecture, and is the name of their asset; no partition
GPU_POOL = "gpu"  # trainings that may run at once: `dagster instance concurrency set gpu 2` allows two
RESULTS_POOL = "results"  # leaderboard and champion, which every training's run makes anew, are made one at a time
