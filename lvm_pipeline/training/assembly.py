"""Assemble a training: staging, model, added terms, optimiser and tensors on the device."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lvm_pipeline.architectures._contract import Architecture, LatentVectorModel, ModelConfig
from lvm_pipeline.training.batches import condition_on_device, vectors_on_device
from lvm_pipeline.training.compiled import compile_mixers
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.objectives import objective_named
from lvm_pipeline.training.optimiser import make_optimiser
from lvm_pipeline.training.phases import Phase, train_spans
from lvm_pipeline.training.settle import fitted_linear_forecast, fitted_weighted_mean, model_config_for
from lvm_pipeline.training.strategies import condition_of, extended, staged
from lvm_pipeline.training.strategies._contract import Staging
from lvm_pipeline.training.terms import AddedTerms, TermSources, added_terms


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """Everything of a training that does not change while it runs, and the fresh model and optimiser."""

    staging: Staging  # what the strategies made of config and data
    phases: tuple[Phase, ...]  # their phases, cut to what the model reads
    model_config: ModelConfig  # config of the model
    model: LatentVectorModel  # the model on its device, at its start
    terms: AddedTerms  # terms that phases add to the objective
    optimiser: torch.optim.Optimizer  # of the weights of model and terms
    vectors: Tensor  # all vectors on the device, (N, D)
    condition: Tensor | None  # condition of all concepts on the device, (N, C), for models that have one
    weighted_mean: dict[str, float]  # decay and article weight that the residual head starts from


def assemble(
    architecture: Architecture, config: TrainingConfig, data: TrainingData, *, compile_cache_dir: Path
) -> Assembly:
    """Stage a settled training and build its model; torch.compile keeps its results in `compile_cache_dir`.

    Raises:
        LvmError: If a strategy cannot work on the data, the config is not usable with the data, or the objective of any
            phase is none.
    """
    objective_named(config.objective)  # refused before a strategy works on the data
    staging = staged(config, data)
    for phase in staging.phases:
        objective_named(phase.objective)
    model_config = model_config_for(architecture, config.with_options(model={**staging.model, **config.model}), data)
    vectors = vectors_on_device(data.vectors, config.device)
    condition = condition_on_device(
        condition_of(config.trial, data, condition_dim=model_config.condition_dim), config.device
    )
    weighted_mean = fitted_weighted_mean(data, train_spans(config, data))
    model = architecture.build(model_config)
    model.set_weighted_mean(**weighted_mean)
    if model.linear_forecast_options is not None:
        fitted = fitted_linear_forecast(data, model.linear_forecast_options, mode=config.mode)
        model.set_linear_forecast(vars(fitted))
    model = extended(model, config.trial).to(config.device)
    model.fit(torch.from_numpy(data.train_sample()).to(vectors.device))
    if config.compile:
        compile_mixers(model, cache_dir=compile_cache_dir)
    terms = added_terms(staging.terms, TermSources(model=model, vectors=vectors, data=data))
    return Assembly(
        staging=staging,
        phases=tuple(_adapted(phase, architecture, model) for phase in staging.phases),
        model_config=model_config,
        model=model,
        terms=terms,
        optimiser=_optimiser(model, terms, config),
        vectors=vectors,
        condition=condition,
        weighted_mean=weighted_mean,
    )


def _adapted(phase: Phase, architecture: Architecture, model: LatentVectorModel) -> Phase:
    """Cut the spans once if every epoch sees the same ones; a closed form has no epochs."""
    if architecture.is_closed_form:
        phase = replace(phase, epochs=0)
    return phase if phase.draw is not None else replace(phase, spans=phase.spans.no_longer_than(model.max_context))


def _optimiser(model: LatentVectorModel, terms: AddedTerms, config: TrainingConfig) -> torch.optim.Optimizer:
    optimiser = make_optimiser(model, config)
    if parameters := terms.parameters():
        optimiser.add_param_group(
            {"params": parameters, "learning_rate_factor": 1.0, "weight_decay": config.weight_decay}
        )
    return optimiser
