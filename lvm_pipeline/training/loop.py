"""The training loop: phases of epochs of steps; after each epoch validate, keep the best weights, log.

Every batch is an index gather from the memory-mapped vectors, which the system reads ahead (`read_ahead`). The
configured validation metric selects the weights; the untrained model, which is exactly the fitted weighted mean, is the
first candidate. A training that was killed resumes from its last checkpoint, inside a phase or between two, and ends
with the same weights, bit for bit on a CPU.
"""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lvm_pipeline.architectures._contract import Architecture, count_parameters
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.architectures._threads import torch_threads
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding, raise_on_blocking
from lvm_pipeline.training.assembly import assemble
from lvm_pipeline.training.averaging import WeightAverage
from lvm_pipeline.training.balance import objective_at_start
from lvm_pipeline.training.batches import gather, group_spans, groups_in_order
from lvm_pipeline.training.checkpoint import (
    Progress,
    TrainingState,
    checkpoint_tensors,
    copied_weights,
    find_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from lvm_pipeline.training.compiled import COMPILE_CACHE
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import Spans, TrainingData
from lvm_pipeline.training.invariants import preset_has_its_declared_size
from lvm_pipeline.training.objectives import SumOfTerms
from lvm_pipeline.training.optimiser import set_learning_rate
from lvm_pipeline.training.phases import Phase
from lvm_pipeline.training.progress import OnProgress, ProgressReport, StoppedError
from lvm_pipeline.training.ranks import Ranks
from lvm_pipeline.training.read_ahead import read_ahead, read_in_any_order
from lvm_pipeline.training.record import checkpoint_identity, run_params, run_tags, trained_model_info
from lvm_pipeline.training.settle import settled
from lvm_pipeline.training.tracking import Tracker, TrainingStatus, close, log_and_close
from lvm_pipeline.training.trained_model import TrainedModelInfo, save_trained_model
from lvm_pipeline.training.trial import Trial
from lvm_pipeline.training.validation import Validation

DRAWS = 1  # third number of the seed of an epoch's draw; the order of its batches is seeded with two
LOG_EVERY_STEPS = 20  # losses stay on the device in between
CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    path: Path  # folder of the model
    info: TrainedModelInfo  # its record
    findings: tuple[Finding, ...] = ()  # what was checked of it
    tracking_problem: str | None = None  # why the tracker does not hold the model; None if it does


Accept = Callable[[TrainedModel], TrainedModel]  # checks a saved model and promotes it


def train(
    config: TrainingConfig,
    data: TrainingData,
    *,
    output_dir: Path,
    checkpoint_dir: Path | None = None,
    compile_cache_dir: Path | None = None,
    tracker: Tracker | None = None,
    progress: OnProgress | None = None,
    again: bool = False,
    accept: Accept | None = None,
    ranks: Ranks | None = None,
) -> TrainedModel:
    """Train a model and save it. A failure of the tracker does not fail the training; it is only reported.

    Args:
        output_dir: Folder of the trained model. An earlier one is replaced at the end.
        checkpoint_dir: Folder of the checkpoint. Default: beside the output folder. Deleted after success.
        compile_cache_dir: Cache of torch.compile, kept between trainings. Default: beside the output folder.
        again: Set a checkpoint that cannot be resumed aside and start from the beginning.
        accept: Called with the saved model, before the tracked run is closed and the checkpoint deleted; what it
            returns is returned.
        ranks: The processes that train together; only the first writes and reports.

    Raises:
        LvmError: If the config cannot be used with the data, a checkpoint cannot be resumed, or the loss is not finite.
        StoppedError: If `progress` stopped it; the tracked run is closed as KILLED.
        InvariantError: If the preset has not its declared size, or `accept` found a blocking failure.
        KeyboardInterrupt: If it was interrupted; the tracked run is closed as KILLED.
    """
    architecture = load_architecture(config.architecture)
    raise_on_blocking([preset_has_its_declared_size(architecture, config.preset)])
    trial = config.trial
    config = settled(config, architecture=architecture, is_leaking=data.sequences.metadata.is_leaking)
    ranks = ranks or Ranks()
    tracker = tracker or Tracker()
    checkpoint_dir = checkpoint_dir or output_dir.with_name(f".{output_dir.name}.checkpoint")
    cache_dir = compile_cache_dir or output_dir.with_name(COMPILE_CACHE)
    with _reproducible(config):
        training = _Training(trial, architecture, config, data, compile_cache_dir=cache_dir, ranks=ranks)
        training.start(tracker, checkpoint_dir / CHECKPOINT_FILE, again=again)
        status: TrainingStatus = "FAILED"
        try:
            with read_in_any_order(training.made.vectors):
                training.run(progress)
            if not ranks.is_first:
                return training.trained(output_dir)
            trained = training.save(output_dir)
            trained = accept(trained) if accept is not None else trained
            status = "FINISHED"
        except (KeyboardInterrupt, StoppedError):
            status = "KILLED"
            raise
        finally:
            if status != "FINISHED":
                close(tracker, status)
    shutil.rmtree(checkpoint_dir, ignore_errors=True)
    return replace(trained, tracking_problem=log_and_close(tracker, trained.path))


@contextlib.contextmanager
def _reproducible(config: TrainingConfig) -> Iterator[None]:
    """Fix threads and random state inside the block, and restore them after it."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch_threads(config.num_threads), torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)
        yield


@dataclass(frozen=True)
class _Step:
    """What one optimiser step leaves on the device until the losses are flushed."""

    number: int
    loss: Tensor
    gradient_norm: Tensor
    learning_rate: float
    terms: dict[str, Tensor]


class _Training:
    def __init__(
        self,
        trial: Trial,
        architecture: Architecture,
        config: TrainingConfig,
        data: TrainingData,
        *,
        compile_cache_dir: Path,
        ranks: Ranks,
    ):
        self.trial, self.config, self.data = trial, config, data
        made = assemble(architecture, config, data, compile_cache_dir=compile_cache_dir)
        self.ranks = ranks = ranks.for_model(count_parameters(made.model), shard_weights=config.shard_weights)
        self.made, self.phases = made, made.phases
        self.state = TrainingState(
            model=made.model,
            optimiser=made.optimiser,
            progress=Progress(),
            best_weights={},
            terms=made.terms.modules,
            average=WeightAverage(made.model, config.ema_decay) if config.ema_decay else None,
        )
        self.validation = Validation(config, data, made, ranks)
        self.objective = self._objective_of(self.phases[0])
        self.last_checkpoint = self.clock = time.monotonic()

    def start(self, tracker: Tracker, checkpoint_path: Path, *, again: bool) -> None:
        """Resume from a checkpoint if there is one, and open the tracked run."""
        self.tracker, self.checkpoint_path = tracker, checkpoint_path
        self.identity = checkpoint_identity(self.trial, self.state.model, self.made.model_config, self.data)
        found = find_checkpoint(checkpoint_path, self.identity, again=again) if self.ranks.is_first else None
        is_resumed = restore_checkpoint(self.ranks.agreed(found), self.state)
        self.loss_of = self.ranks.loss_of(self.state.model, self.state.optimiser, self.state.average)
        self.ranks.seed_apart(self.config.seed, self.state.progress.step)
        scales = self.state.progress.objective_scales
        if is_resumed and scales:
            self.objective = self._objective_of(self._phase, scales[-1])
        self.tracker.start(
            self.trial.trial_id,
            params=run_params(self.config, self.made, self.objective, trial=self.trial),
            tags={
                **run_tags(self.config, self.data, self.made.staging, trial=self.trial),
                "is_resumed": str(is_resumed).lower(),
            },
            fingerprints=self.data.fingerprints,
        )

    def run(self, on_progress: OnProgress | None) -> None:
        self.clock = time.monotonic()
        progress = self.state.progress
        if not progress.history:
            progress.objective_scales.append(self.objective.scales)
            self._end_epoch(train_loss=None)
        while True:
            while not self._is_phase_over():
                self._run_epoch(on_progress)
            if progress.phase + 1 >= len(self.phases):
                return
            self._start_next_phase()

    @property
    def _phase(self) -> Phase:
        return self.phases[self.state.progress.phase]

    def _is_phase_over(self) -> bool:
        progress = self.state.progress
        last_gain = max(progress.best_epoch, progress.first_epoch_of_phase)
        return progress.epochs_in_phase >= self._phase.epochs or progress.last_epoch - last_gain >= self.config.patience

    def _start_next_phase(self) -> None:
        progress = self.state.progress
        progress.phase += 1
        progress.first_epoch_of_phase = progress.last_epoch
        self.objective = self._objective_of(self._phase)
        progress.objective_scales.append(self.objective.scales)

    def _objective_of(self, phase: Phase, scales: dict[str, float] | None = None) -> SumOfTerms:
        """Return the phase's objective, its terms scaled by what they cost at the start of the phase."""
        made, model, ranks = self.made, self.state.model, self.ranks
        with ranks.whole(model):
            return objective_at_start(
                phase, model, made.vectors, condition=made.condition, scales=scales, in_threads=not ranks.are_sharding
            )

    def _run_epoch(self, on_progress: OnProgress | None) -> None:
        phase, progress = self._phase, self.state.progress
        progress.epoch = progress.last_epoch + 1
        batches = self._batches_of_epoch(phase)
        pending: list[_Step] = []
        coming = read_ahead(self.made.vectors, batches[progress.step_in_epoch :])
        for number, spans in enumerate(coming, progress.step_in_epoch):
            done_fraction = (progress.epochs_in_phase + (number + 1) / len(batches)) / phase.epochs
            pending.append(self._training_step(spans, done_fraction))
            progress.step_in_epoch = number + 1
            is_last = number + 1 == len(batches)
            is_checkpoint_due = self._is_checkpoint_due()
            if len(pending) >= LOG_EVERY_STEPS or is_checkpoint_due or is_last:
                loss = self._flush_losses(pending)
                if on_progress is not None:
                    on_progress(self._report(done_fraction, loss))
            if is_checkpoint_due and not is_last:
                self._save_checkpoint()
        losses = [loss for _, loss in progress.unreported["train_loss"]]
        self._end_epoch(train_loss=sum(losses) / len(losses))

    def _batches_of_epoch(self, phase: Phase) -> list[Spans]:
        seeds = [self.config.seed, self.state.progress.epoch]
        spans = phase.for_model(self.state.model.max_context, rng=np.random.default_rng([*seeds, DRAWS]))
        counts = phase.num_counted(spans)
        if phase.is_shuffled:
            groups = group_spans(spans, phase.batch_size, rng=np.random.default_rng(seeds), num_targets=counts)
        else:
            groups = groups_in_order(spans, phase.batch_size, num_targets=counts)
        return [spans.take(group) for group in groups]

    def _training_step(self, spans: Spans, done_fraction: float) -> _Step:
        model, optimiser, progress = self.state.model.train(), self.state.optimiser, self.state.progress
        learning_rate = set_learning_rate(
            optimiser, self.config, peak=self._phase.learning_rate, done_fraction=done_fraction
        )
        model.start_step(progress.step + 1)
        made = self.made
        counts = self._phase.num_counted(spans)
        own, weight = self.ranks.part_of(spans, counts)
        batch = gather(made.vectors, own, made.condition, counted=self._phase.counted)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(made.vectors.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            loss = weight * self.loss_of(batch, made.terms.around(self.objective, self._phase.terms))
        loss.backward()
        self.ranks.average_gradients(made.terms.parameters())
        weights = [*model.parameters(), *made.terms.parameters()]
        norm = self.ranks.clip_gradients(weights, self.config.clip_norm)
        optimiser.step()
        progress.step += 1
        if self.state.average is not None:
            self.state.average.update(model, step=progress.step)
        progress.targets_in_epoch += int(counts.sum())
        return _Step(
            number=progress.step,
            loss=self.ranks.mean(loss.detach()),
            gradient_norm=norm.detach(),
            learning_rate=learning_rate,
            terms={f"train_loss_{name}": value for name, value in made.terms.values.items()},
        )

    def _flush_losses(self, pending: list[_Step]) -> float:
        """Move the losses of the latest steps to the log; return the last. LvmError if one is not finite."""
        loss = math.nan
        for step in pending:
            loss, norm = float(step.loss), float(step.gradient_norm)
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise LvmError(
                    f"Training {self.trial.trial_id} failed: the loss at step {step.number} is {loss} (gradient norm "
                    f"{norm}); try a smaller learning rate than {self._phase.learning_rate}."
                )
            metrics = {"train_loss": loss, "gradient_norm": norm, "learning_rate": step.learning_rate}
            metrics |= {name: float(value) for name, value in step.terms.items()}
            for name, value in metrics.items():
                self.state.progress.unreported.setdefault(name, []).append((step.number, value))
        pending.clear()
        return loss

    def _report(self, done_fraction: float, loss: float) -> ProgressReport:
        progress, epochs = self.state.progress, [phase.epochs for phase in self.phases]
        done = sum(epochs[: progress.phase]) + done_fraction * self._phase.epochs
        return ProgressReport(
            phase=progress.phase + 1,
            num_phases=len(self.phases),
            epoch=progress.epochs_in_phase + 1,
            epochs=self._phase.epochs,
            done_fraction=done / sum(epochs),
            loss=loss,
            metric_name=self.config.selection_metric,
            best_score=progress.best_score,
            epochs_validated=progress.last_epoch,
        )

    def _end_epoch(self, *, train_loss: float | None) -> None:
        """Validate, keep the weights if they are the best so far, log, and write a checkpoint when one is due."""
        progress = self.state.progress
        train_seconds = self._seconds_so_far() - progress.epoch_started_seconds
        metrics, weights = self._validate()
        if train_loss is not None:
            metrics |= {"train_loss": train_loss, "targets_per_second": progress.targets_in_epoch / train_seconds}
        if weights is not None:
            self.state.best_weights, progress.best_epoch = weights, progress.epoch
        phase = progress.phase + 1
        progress.history.append({"epoch": progress.epoch, "step": progress.step, "phase": phase, **metrics})
        for name, value in {**metrics, "phase": phase}.items():
            if name != "train_loss":
                progress.note(name, value)
        self.tracker.log_metrics(progress.unreported)
        progress.unreported, progress.step_in_epoch, progress.targets_in_epoch = {}, 0, 0
        progress.epoch_started_seconds = self._seconds_so_far()
        is_over = self._is_phase_over() and progress.phase + 1 == len(self.phases)
        if self._is_checkpoint_due() and not is_over:
            self._save_checkpoint()

    def _validate(self) -> tuple[dict[str, float], dict[str, Tensor] | None]:
        """Return the validation metrics, and the weights or their average where they are the best so far."""
        model, average, validation = self.state.model, self.state.average, self.validation
        try:
            metrics = validation.metrics(model, self.objective, self._phase)
        except LvmError as error:
            step = self.state.progress.step
            raise LvmError(f"Training {self.trial.trial_id} failed after step {step}: {error}.") from None
        weights = copied_weights(model) if self._is_best(metrics[validation.metric_name]) else None
        if average is not None:
            with average.in_place_of(model):
                score = metrics[f"averaged_{validation.metric_name}"] = validation.score(model)
                weights = copied_weights(model) if self._is_best(score) else weights
        return metrics, weights

    def _is_best(self, score: float) -> bool:
        progress = self.state.progress
        is_first = math.isnan(progress.best_score)
        if is_best := is_first or self.validation.metric.is_better(score, progress.best_score):
            progress.best_score = score
        return is_best

    def _seconds_so_far(self) -> float:
        """Return the time spent in steps and validation, earlier processes included."""
        before, self.clock = self.clock, time.monotonic()
        self.state.progress.seconds += self.clock - before
        return self.state.progress.seconds

    def _is_checkpoint_due(self) -> bool:
        is_due = time.monotonic() - self.last_checkpoint >= self.config.checkpoint_seconds
        return self.ranks.agreed(is_due) if self.ranks.are_sharding else is_due  # all of them have to take part

    def _save_checkpoint(self) -> None:
        self._seconds_so_far()
        state, kept = self.state, self.config.checkpoints_kept
        tensors = checkpoint_tensors(state) if self.ranks.is_first or self.ranks.are_sharding else {}
        if self.ranks.is_first:
            save_checkpoint(self.checkpoint_path, tensors, state.progress, self.identity, num_kept=kept)
        self.last_checkpoint = time.monotonic()

    def trained(self, output_dir: Path) -> TrainedModel:
        self._seconds_so_far()
        info = trained_model_info(self.config, self.state, self.made, self.data, trial=self.trial)
        return TrainedModel(path=output_dir, info=info)

    def save(self, output_dir: Path) -> TrainedModel:
        trained = self.trained(output_dir)
        save_trained_model(output_dir, self.state.best_weights, trained.info)
        return trained
