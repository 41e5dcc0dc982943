"""Fine-tuning: pre-train on whole articles, with a target at every position, then fine-tune on windows."""

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.strategies._contract import Staging, Strategy, strategy_option
from lvm_pipeline.training.trial import Trial
from lvm_pipeline.words import counted


@dataclass(frozen=True, kw_only=True)
class FineTuneOptions:
    pretraining_fraction: Annotated[float, Field(gt=0, lt=1)] = strategy_option(
        0.5, "Fraction of the epochs that are pre-training on whole articles."
    )
    fine_tuning_rate: Annotated[float, Field(gt=0)] = strategy_option(
        0.5, "Peak learning rate of the fine-tuning, relative to that of the pre-training."
    )


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: FineTuneOptions) -> Staging:
    """Put a phase on whole articles before the phases on windows.

    Raises:
        LvmError: If the architecture or the sequences cannot be used on whole articles, or there is one epoch alone.
    """
    if config.epochs < 2:  # not refused when the trial is made, or a plan of one epoch could not even be listed
        raise LvmError("The strategy fine_tune needs one epoch for each of its two phases; set epochs to at least 2.")
    if not load_architecture(config.architecture).causal or data.sequences.metadata.is_leaking:
        raise LvmError(
            f"The strategy fine_tune pre-trains on whole articles, which {config.architecture} cannot do on these "
            "sequences; use another architecture or strategy."
        )
    spans, last = data.article_spans("train"), staging.phases[-1]
    num_first = min(max(1, round(last.epochs * options.pretraining_fraction)), last.epochs - 1)
    first = replace(last, name="pre-training on articles", spans=spans, epochs=num_first)
    tuned = replace(
        last,
        name="fine-tuning on windows",
        epochs=last.epochs - num_first,
        learning_rate=last.learning_rate * options.fine_tuning_rate,
    )
    note = (
        f"{counted(first.epochs, 'epoch')} on {counted(len(spans), 'whole article')}, then {tuned.epochs} on "
        f"{counted(len(last.spans), 'window')}."
    )
    phases = (first, *staging.phases[:-1], tuned)
    return replace(staging, phases=phases, notes={**staging.notes, STRATEGY.name: note})


def refused(trial: Trial, options: FineTuneOptions) -> str | None:
    """Refuse any mode but windows, and bagging, whose drawn articles the pre-training would not follow."""
    if trial.mode != "windows":
        return f"it ends on windows; set mode to windows, got {trial.mode}"
    if "bagging" in trial.strategy.split("+"):
        return "it pre-trains on all train articles, so bagging would hold for the windows only; leave one of them out"
    return None


STRATEGY = Strategy(
    name="fine_tune",
    summary="Pre-train on whole articles, then fine-tune on windows",
    affects="phases",
    stage=stage,
    options=FineTuneOptions,
    refused=refused,
)
