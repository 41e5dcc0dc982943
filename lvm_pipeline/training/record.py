"""Records of a training: checkpoint identity, parameters and tags of the tracked run, record of the trained model."""

from collections.abc import Mapping
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
from lvm_pipeline.training.strategies import content_read, strategy_fingerprints
from lvm_pipeline.training.strategies._contract import Staging
from lvm_pipeline.training.trained_model import TrainedModelInfo, class_name
from lvm_pipeline.training.trial import Trial
from lvm_pipeline.words import counted


def checkpoint_identity(
    trial: Trial, model: LatentVectorModel, model_config: ModelConfig, data: TrainingData
) -> dict[str, Any]:
    """Return what a checkpoint must agree on before a training resumes from it; the machine is not among it."""
    read = strategy_fingerprints(trial, data)
    return {
        "options": trial.identity(),
        "model": {"class": class_name(model), "config": asdict(model_config)},
        "data": {**data.fingerprints, **_content(trial, data), "space_id": data.concepts.space_id},
        "code": training_code_version(trial.architecture, trial.strategy),
        "packages": package_versions(),
        **({"read": read} if read else {}),
    }


def _content(trial: Trial, data: TrainingData) -> dict[str, str]:
    content = content_read(trial, data.concepts)
    return {} if content is None else {"content": content}


def run_params(config: TrainingConfig, made: Assembly, objective: SumOfTerms, *, trial: Trial) -> dict[str, Any]:
    """Return the parameters of the tracked run, those that differ from their defaults first, and the data's."""
    every = {**config.as_json(), "model": asdict(made.model_config)}
    differing = [name for name in trial.identity() if name in every]
    return {
        **{name: every[name] for name in differing},
        **every,
        **made.weighted_mean,
        "objective_scale": objective.scales,
        "phases": [
            f"{phase.name}: {counted(len(phase.spans), 'span')}, {counted(phase.epochs, 'epoch')}"
            for phase in made.phases
        ],
    }


def run_tags(config: TrainingConfig, data: TrainingData, staging: Staging, *, trial: Trial) -> dict[str, str]:
    return {
        "trial_id": trial.trial_id,
        "architecture": config.architecture,
        "preset": config.preset,
        "strategy": config.strategy,
        "seed": str(config.seed),
        "options": options_in_words(trial.identity()),
        **{f"strategy.{name}": note for name, note in staging.notes.items()},
        "mode": config.mode,
        "space_id": data.concepts.space_id,
        "code_version": training_code_version(config.architecture, config.strategy),
        "is_leaking": str(data.sequences.metadata.is_leaking or staging.is_oracle).lower(),
    }


def options_in_words(identity: Mapping[str, Any]) -> str:
    """Return the options that differ from their defaults, such as `epochs=3, model.hidden_dim=64`."""
    flat = {
        name if inner is None else f"{name}.{inner}": each
        for name, value in identity.items()
        for inner, each in (value.items() if isinstance(value, Mapping) else [(None, value)])
    }
    return ", ".join(f"{name}={value}" for name, value in flat.items())


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
        content_fingerprint=content_read(trial, data.concepts),
        strategy_fingerprints=strategy_fingerprints(trial, data),
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
    return f"CPU, {counted(config.num_threads, 'thread')}, {config.precision}"
