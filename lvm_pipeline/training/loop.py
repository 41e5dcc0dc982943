"""The one training loop.

Every batch is an index gather from the resident vectors. After each epoch the configured validation
metric decides whether these weights are the best so far; the untrained model, which is exactly the
fitted arithmetic, is the first candidate. Killed and started again, a training goes on from its last
checkpoint and ends with the same weights, bit for bit on a CPU.
"""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lvm_pipeline.architectures._contract import Architecture, ModelConfig, config_with, count_parameters
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import raise_on_blocking
from lvm_pipeline.measures.metrics import spread_of
from lvm_pipeline.measures.weighted_means import fit_context_mix
from lvm_pipeline.training.balance import objective_at_start, share_metrics
from lvm_pipeline.training.batches import condition_on_device, gather, group_spans, vectors_on_device
from lvm_pipeline.training.checkpoint import Progress, TrainingState, copied_weights, load_state, save_state
from lvm_pipeline.training.compiled import COMPILE_CACHE, compiled_model
from lvm_pipeline.training.config import TrainingConfig, settled
from lvm_pipeline.training.data import Spans, TrainingData
from lvm_pipeline.training.invariants import preset_has_its_declared_size
from lvm_pipeline.training.objectives import training_loss
from lvm_pipeline.training.optimiser import make_optimiser, set_learning_rate
from lvm_pipeline.training.predictions import predict_spans, selection_metric
from lvm_pipeline.training.provenance import code_version, package_versions
from lvm_pipeline.training.tracking import NullTracker, Tracker
from lvm_pipeline.training.trained_model import TrainedModelInfo, class_name, identity_of, save_trained_model

STEPS_BETWEEN_LOOKS = 20  # how often the device is asked for the losses so far


@dataclass(frozen=True, kw_only=True)
class ProgressReport:
    """Where a training is, for whoever shows it: the epoch under way is `epoch` of `epochs`."""

    epoch: int
    epochs: int
    done_fraction: float
    loss: float
    metric_name: str
    best_score: float

    def in_words(self) -> str:
        """Return epoch and score in a few words."""
        return f"epoch {self.epoch}/{self.epochs}, {self.metric_name} {self.best_score:.4f}"


class OnProgress(Protocol):
    """Called every few steps."""

    def __call__(self, report: ProgressReport, /) -> None:
        """Show it."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A finished training: where the model lies and what it says of itself."""

    path: Path
    info: TrainedModelInfo


def train(
    config: TrainingConfig,
    data: TrainingData,
    *,
    output_dir: Path,
    tracker: Tracker | None = None,
    progress: OnProgress | None = None,
    resume: bool = True,
    cache_dir: Path | None = None,
) -> TrainedModel:
    """Train a model and write it to `output_dir`, whole or not at all.

    Args:
        config: What to train and how.
        data: What to train on.
        output_dir: Folder of the trained model; one already there is replaced at the end and untouched
            until then. Checkpoints lie beside it while the training runs.
        tracker: What to report to.
        progress: Called every few steps.
        resume: Go on from a checkpoint of the very same training, if one is there.
        cache_dir: Where torch.compile keeps what it has compiled, for this and later trainings; default: beside
            `output_dir`.

    Returns:
        The trained model.

    Raises:
        LvmError: If the config cannot be used with the data, or the loss is not finite.
        InvariantError: If the preset is not of the size that its architecture declares.
        KeyboardInterrupt: If it was interrupted; the tracked run is closed as KILLED.
    """
    architecture = load_architecture(config.architecture)
    raise_on_blocking([preset_has_its_declared_size(architecture, config.preset)])
    config = settled(config, architecture=architecture, is_leaking=data.sequences.metadata.is_leaking)
    model_config = model_config_for(architecture, config, data)
    tracker = tracker or NullTracker()
    with _repeatable(config):
        training = _Training(
            architecture, config, model_config, data, output_dir=output_dir, tracker=tracker, cache_dir=cache_dir
        )
        training.start(resume=resume)
        status = "FAILED"
        try:
            training.run(progress)
            trained = training.finish()
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracker.finish(status)
    return trained


def model_config_for(architecture: Architecture, config: TrainingConfig, data: TrainingData) -> ModelConfig:
    """Return the preset's config with the data's vector width and length and the training's overrides."""
    from_data = {"vector_dim": data.concepts.vector_dim, "unit_length": data.is_of_unit_length()}
    return config_with(architecture.preset(config.preset).config, {**from_data, **config.model})


@contextlib.contextmanager
def _repeatable(config: TrainingConfig) -> Iterator[None]:
    """Fix threads and random state for the training, and put back what was there before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
            torch.manual_seed(config.seed)
            yield
    finally:
        torch.set_num_threads(threads)


class _Training:
    def __init__(
        self,
        architecture: Architecture,
        config: TrainingConfig,
        model_config: ModelConfig,
        data: TrainingData,
        *,
        output_dir: Path,
        tracker: Tracker,
        cache_dir: Path | None,
    ):
        self.config, self.model_config, self.data = config, model_config, data
        self.output_dir, self.tracker, self.cache_dir = output_dir, tracker, cache_dir
        self.checkpoint_dir = output_dir.with_name(f".{output_dir.name}.checkpoint")
        self.metric = selection_metric(config.selection_metric)
        self.vectors = vectors_on_device(data.vectors, config.device)
        self.condition = condition_on_device(data.condition(model_config.condition_dim), config.device)
        self.train_spans, self.arithmetic = _spans_and_arithmetic(config, data)
        self.validation_spans = data.scored_spans("validation", mode=config.mode)
        self.validation_targets = np.asarray(data.vectors[self.validation_spans.target_rows()])
        self.train_mean = data.train_sample().mean(axis=0)
        self.state = self._fresh_state(architecture)
        self.objective = objective_at_start(
            config, self.state.model, self.vectors, self.train_spans, condition=self.condition
        )
        self.run_identity = self._run_identity()
        self.checkpoint_path = self.checkpoint_dir / "checkpoint.safetensors"
        self.last_checkpoint = self.clock = time.monotonic()

    @property
    def _name(self) -> str:
        return f"Training {self.config.architecture} {self.config.preset}"

    def _fresh_state(self, architecture: Architecture) -> TrainingState:
        model = architecture.build(self.model_config)
        model.set_arithmetic(**self.arithmetic)
        model = model.to(self.config.device)
        model.fit(torch.from_numpy(self.data.train_sample()).to(self.vectors.device))
        self.train_spans = self.train_spans.no_longer_than(model.max_context)
        cache_dir = self.cache_dir or self.output_dir.with_name(COMPILE_CACHE)
        self.trained = compiled_model(model, cache_dir=cache_dir) if self.config.compile else model
        optimiser = make_optimiser(model, self.config)
        return TrainingState(model=model, optimiser=optimiser, progress=Progress(), best_weights={})

    def _run_identity(self) -> dict[str, Any]:
        config = self.config.as_json()
        config.pop("checkpoint_seconds")
        model = json.loads(
            identity_of(
                self.config.architecture,
                class_name(self.state.model),
                asdict(self.model_config),
                self.data.concepts.space_id,
            )
        )
        return {
            "training": config,
            "model": model,
            "fingerprints": self.data.fingerprints,
            "code_version": code_version(),
            "packages": package_versions(),
        }

    def start(self, *, resume: bool) -> None:
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        is_resumed = resume and load_state(self.checkpoint_path, self.state, self.run_identity)
        config = self.config
        self.tracker.start(
            f"{config.architecture} {config.preset}",
            params={
                **config.as_json(),
                "model": self.run_identity["model"]["config"],
                **self.arithmetic,
                "objective_scale": {term.name: term.scale for term in self.objective.terms},
            },
            tags={
                "architecture": config.architecture,
                "preset": config.preset,
                "mode": config.mode,
                "space_id": self.data.concepts.space_id,
                "code_version": code_version(),
                "is_leaking": str(self.data.sequences.metadata.is_leaking).lower(),
                "is_resumed": str(is_resumed).lower(),
            },
            fingerprints=self.data.fingerprints,
        )

    def run(self, on_progress: OnProgress | None) -> None:
        self.clock = time.monotonic()
        if not self.state.progress.history:
            self._end_epoch(train_loss=None)
        while not self._is_over():
            self._run_epoch(on_progress)

    def _is_over(self) -> bool:
        progress = self.state.progress
        epochs_done = len(progress.history) - 1
        return epochs_done >= self.config.epochs or epochs_done - progress.best_epoch >= self.config.patience

    def _run_epoch(self, on_progress: OnProgress | None) -> None:
        progress = self.state.progress
        progress.epoch = len(progress.history)
        rng = np.random.default_rng([self.config.seed, progress.epoch])
        assert self.config.batch_size is not None
        groups = group_spans(self.train_spans, self.config.batch_size, rng=rng)
        pending: list[tuple[int, Tensor, Tensor, float]] = []
        for number in range(progress.step_in_epoch, len(groups)):
            done_fraction = (progress.epoch - 1 + (number + 1) / len(groups)) / self.config.epochs
            pending.append(self._step(self.train_spans.take(groups[number]), done_fraction))
            progress.step_in_epoch = number + 1
            is_checkpoint_due = time.monotonic() - self.last_checkpoint >= self.config.checkpoint_seconds
            if len(pending) >= STEPS_BETWEEN_LOOKS or is_checkpoint_due or number + 1 == len(groups):
                loss = self._look_at(pending)
                if on_progress is not None:
                    on_progress(self._report(done_fraction, loss))
            if is_checkpoint_due and number + 1 < len(groups):
                self._save_checkpoint()
        losses = [loss for _, loss in progress.unreported["train_loss"]]
        self._end_epoch(train_loss=sum(losses) / len(losses))

    def _step(self, spans: Spans, done_fraction: float) -> tuple[int, Tensor, Tensor, float]:
        model, optimiser = self.state.model.train(), self.state.optimiser
        learning_rate = set_learning_rate(optimiser, self.config, done_fraction=done_fraction)
        model.start_step(self.state.progress.step + 1)
        batch = gather(self.vectors, spans, self.condition)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.vectors.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            loss = training_loss(self.trained, batch, self.objective)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), self.config.clip_norm)
        optimiser.step()
        self.state.progress.step += 1
        self.state.progress.targets_in_epoch += int(spans.num_targets.sum())
        return self.state.progress.step, loss.detach(), norm.detach(), learning_rate

    def _look_at(self, pending: list[tuple[int, Tensor, Tensor, float]]) -> float:
        """Fetch the losses of the latest steps from the device, refuse one that is not finite, empty the list."""
        loss = math.nan
        for step, loss_tensor, norm, learning_rate in pending:
            loss = float(loss_tensor)
            if not math.isfinite(loss) or not math.isfinite(float(norm)):
                raise LvmError(
                    f"{self._name} failed: the loss at step {step} is {loss} (gradient length {float(norm)}); "
                    f"try a smaller learning rate than {self.config.learning_rate}."
                )
            for name, value in (("train_loss", loss), ("gradient_norm", float(norm)), ("learning_rate", learning_rate)):
                self.state.progress.unreported.setdefault(name, []).append((step, value))
        pending.clear()
        return loss

    def _report(self, done_fraction: float, loss: float) -> ProgressReport:
        return ProgressReport(
            epoch=self.state.progress.epoch,
            epochs=self.config.epochs,
            done_fraction=done_fraction,
            loss=loss,
            metric_name=self.config.selection_metric,
            best_score=self.state.progress.best_score,
        )

    def _end_epoch(self, *, train_loss: float | None) -> None:
        """Validate, keep the weights if they are the best so far, report, and write a checkpoint when one is due."""
        progress = self.state.progress
        train_seconds = self._seconds_so_far() - progress.epoch_started_seconds
        metrics = self._validate()
        if train_loss is not None:
            metrics |= {"train_loss": train_loss, "targets_per_second": progress.targets_in_epoch / train_seconds}
        score = metrics[f"validation_{self.config.selection_metric}"]
        if not progress.history or self.metric.is_better(score, progress.best_score):
            progress.best_epoch, progress.best_score = progress.epoch, score
            self.state.best_weights = copied_weights(self.state.model)
        progress.history.append({"epoch": progress.epoch, "step": progress.step, **metrics})
        for name, value in metrics.items():
            if name != "train_loss":
                progress.note(name, value)
        self.tracker.log_metrics(progress.unreported)
        progress.unreported, progress.step_in_epoch, progress.targets_in_epoch = {}, 0, 0
        progress.epoch_started_seconds = self._seconds_so_far()
        if time.monotonic() - self.last_checkpoint >= self.config.checkpoint_seconds and not self._is_over():
            self._save_checkpoint()

    def _validate(self) -> dict[str, float]:
        predictions = predict_spans(self.state.model, self.vectors, self.validation_spans, condition=self.condition)
        if not np.isfinite(predictions).all():
            raise LvmError(
                f"{self._name} failed: predictions are not finite after step {self.state.progress.step}; "
                f"try a smaller learning rate than {self.config.learning_rate}."
            )
        targets, mean = self.validation_targets, self.train_mean
        names = {"cosine", "mse", self.config.selection_metric}
        scores = {f"validation_{name}": selection_metric(name).measure(predictions, targets, mean) for name in names}
        batch_size, is_unit = self.config.batch_size, self.model_config.unit_length
        shares = share_metrics(self.objective, predictions, targets, batch_size=batch_size, is_unit=is_unit)
        return {**dict(sorted(scores.items())), **asdict(spread_of(predictions, targets, mean)), **shares}

    def _seconds_so_far(self) -> float:
        """Count the time since the last call and return all time spent, earlier processes included."""
        now = time.monotonic()
        self.state.progress.seconds += now - self.clock
        self.clock = now
        return self.state.progress.seconds

    def _save_checkpoint(self) -> None:
        self._seconds_so_far()
        save_state(self.checkpoint_path, self.state, self.run_identity)
        self.last_checkpoint = time.monotonic()

    def finish(self) -> TrainedModel:
        info = self._info()
        save_trained_model(self.output_dir, self.state.best_weights, info)
        shutil.rmtree(self.checkpoint_dir, ignore_errors=True)
        self.tracker.log_model(self.output_dir)
        return TrainedModel(path=self.output_dir, info=info)

    def _info(self) -> TrainedModelInfo:
        progress, sequences = self.state.progress, self.data.sequences.metadata
        return TrainedModelInfo(
            architecture=self.config.architecture,
            preset=self.config.preset,
            model_class=class_name(self.state.model),
            config=self.run_identity["model"]["config"],
            num_params=count_parameters(self.state.model),
            space_id=self.data.concepts.space_id,
            training=self.config.as_json(),
            mode=self.config.mode,
            seed=self.config.seed,
            code_version=code_version(),
            packages=package_versions(),
            fingerprints=self.data.fingerprints,
            context_length=sequences.context_length,
            split={
                "rule": sequences.split_rule,
                "seed": sequences.split_seed,
                "counts": {name: asdict(counts) for name, counts in sequences.split_counts.items()},
            },
            is_leaking=sequences.is_leaking,
            arithmetic=self.arithmetic,
            selection_metric=self.config.selection_metric,
            score=progress.best_score,
            start_score=progress.history[0][f"validation_{self.config.selection_metric}"],
            best_epoch=progress.best_epoch,
            history=progress.history,
            training_seconds=self._seconds_so_far(),
            trained_on=_device_in_words(self.config),
        )


def _spans_and_arithmetic(config: TrainingConfig, data: TrainingData) -> tuple[Spans, dict[str, float]]:
    """Return the train spans and the arithmetic of the highest mean cosine on them."""
    spans = data.article_spans("train") if config.mode == "articles" else data.window_spans("train")
    if not len(spans):
        raise LvmError("The train split holds no article of two concepts or more; load more articles.")
    mix = fit_context_mix(data.vectors, np.repeat(spans.first_rows, spans.num_targets), spans.target_rows())
    return spans, {"decay": mix.decay, "article_weight": mix.article_weight}


def _device_in_words(config: TrainingConfig) -> str:
    if config.device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(config.device)}, {config.precision}"
    return f"CPU, {config.num_threads} threads, {config.precision}"
