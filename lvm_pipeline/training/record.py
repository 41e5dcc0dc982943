"""Records of a training: checkpoint identity, parameters and tags of the tracked run, record of the trained model."""

from dataclasses import asdict
from typing import Any

import torch

from lvm_pipeline.architectures._contract import LatentVectorModel, ModelConfig, count_parameters
from lvm_pipeline.training.assembly import Assembly
from lvm_pipeline.training.checkpoint import TrainingState
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.objectives import SumOfTerms
from lvm_pipeline.training.provenance import package_versions, training_code_version
from lvm_pipeline.training.strategies._contract import Staging
from lvm_pipeline.training.trained_model import TrainedModelInfo, class_name
from lvm_pipeline.training.trial import Trial


def checkpoint_identity(
    trial: Trial, model: LatentVectorModel, model_config: ModelConfig, data: TrainingData
) -> dict[str, Any]:
    """Return what a checkpoint must agree on before a training resumes from it; the machine is not among it."""
    return {
        "options": trial.identity(),
        "model": {"class": class_name(model), "config": asdict(model_config)},
        "data": {**data.fingerprints, "space_id": data.concepts.space_id},
        "code": training_code_version(trial.architecture, trial.strategy),
        "packages": package_versions(),
    }


def run_params(config: TrainingConfig, made: Assembly, objective: SumOfTerms) -> dict[str, Any]:
    """Return the parameters of the tracked run: every training option, and what the data decided."""
    return {
        **config.as_json(),
        "model": asdict(made.model_config),
        **made.weighted_mean,
        "objective_scale": objective.scales,
        "phases": [f"{phase.name}: {len(phase.spans)} spans, {phase.epochs} epochs" for phase in made.phases],
    }


def run_tags(config: TrainingConfig, data: TrainingData, staging: Staging) -> dict[str, str]:
    return {
        "trial_id": config.trial_id,
        "architecture": config.architecture,
        "preset": config.preset,
        "strategy": config.strategy,
        **{f"strategy.{name}": note for name, note in staging.notes.items()},
        "mode": config.mode,
        "space_id": data.concepts.space_id,
        "code_version": training_code_version(config.architecture, config.strategy),
        "is_leaking": str(data.sequences.metadata.is_leaking or staging.is_oracle).lower(),
    }


def trained_model_info(
    config: TrainingConfig, state: TrainingState, made: Assembly, data: TrainingData, *, trial: Trial
) -> TrainedModelInfo:
    """Return the record that is kept beside the weights."""
    progress, sequences = state.progress, data.sequences.metadata
    return TrainedModelInfo(
        architecture=config.architecture,
        preset=config.preset,
        model_class=class_name(state.model),
        config=asdict(made.model_config),
        num_params=count_parameters(state.model),
        space_id=data.concepts.space_id,
        trial=trial.identity(),
        training=config.as_json(),
        mode=config.mode,
        seed=config.seed,
        code_version=training_code_version(config.architecture, config.strategy),
        packages=package_versions(),
        fingerprints=data.fingerprints,
        context_length=sequences.context_length,
        split={
            "rule": sequences.split_rule,
            "seed": sequences.split_seed,
            "counts": {name: asdict(counts) for name, counts in sequences.split_counts.items()},
        },
        is_leaking=sequences.is_leaking or made.staging.is_oracle,
        arithmetic=dict(made.weighted_mean),
        selection_metric=config.selection_metric,
        score=progress.best_score,
        start_score=progress.history[0][f"validation_{config.selection_metric}"],
        best_epoch=progress.best_epoch,
        history=progress.history,
        training_seconds=progress.seconds,
        trained_on=_device_in_words(config),
        strategy_notes=dict(made.staging.notes),
        is_oracle=made.staging.is_oracle,
    )


def _device_in_words(config: TrainingConfig) -> str:
    if config.device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(config.device)}, {config.precision}"
    return f"CPU, {config.num_threads} threads, {config.precision}"
