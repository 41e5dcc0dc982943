"""Invariants of a trained model, checked before it replaces an earlier one.

Importing this module does not import torch: the Dagster code server only reads the declarations.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import read_json_list, write_json
from lvm_pipeline.findings import Finding, InvariantCheck, Severity, declared_in, invariant

if TYPE_CHECKING:
    from lvm_pipeline.architectures._contract import Architecture
    from lvm_pipeline.measures.metrics import Spread
    from lvm_pipeline.training.rescore import Rescore, Rescorer

SAME_DEVICE_TOLERANCE = 1e-5
OTHER_DEVICE_TOLERANCE = 5e-3
MOST_ALLOCATED = 20_000_000  # parameters that are counted by allocating them
LEAST_VARIANCE_SHARE = 0.1
LARGEST_SHARE = 0.95
GRADIENT_SHARE, VALUE_SHARE = "objective_share_", "objective_value_share_"  # metrics of an epoch begin with these
LONGEST_TRAINING_SECONDS = 3600.0
FINDINGS_FILE = "findings.json"  # beside the weights: findings from before the promotion


def invariants() -> tuple[InvariantCheck[...], ...]:
    return declared_in(globals())


def check_trained_model(
    model_dir: Path, concepts_path: Path, sequences_path: Path, vectors_dir: Path, *, rescorer: "Rescorer | None" = None
) -> list[Finding]:
    """Score a model again in another process and check every invariant of a trained model.

    `rescorer` scores it; None starts a process for this model alone.
    """
    from lvm_pipeline.training import rescore
    from lvm_pipeline.training.trained_model import read_trained_model_info

    info = read_trained_model_info(model_dir)
    others = [
        _sizes_as_declared(info.built_from),
        no_objective_term_dominates(info.history),
        training_takes_under_an_hour(info.training_seconds),
    ]
    try:
        score = rescorer or rescore.rescore_in_fresh_process
        found = score(model_dir, concepts_path, sequences_path, vectors_dir)
    except LvmError as error:
        return [checkpoint_reproduces_its_score.finding(passed=False, message=str(error)), *others]
    return [
        checkpoint_reproduces_its_score(info.score, found),
        prediction_is_not_the_mean_vector(found.spread),
        *others,
    ]


def _sizes_as_declared(presets: Sequence[tuple[str, str]]) -> Finding:
    """Check each architecture's preset; return the first failure, or the first finding."""
    found = [preset_has_its_declared_size(load_architecture(name), preset) for name, preset in presets]
    return next((each for each in found if not each.passed), found[0])


def write_findings(model_dir: Path, findings: Iterable[Finding]) -> None:
    """Write the findings of a trained model beside its weights."""
    write_json(model_dir / FINDINGS_FILE, [finding.as_json() for finding in findings])


def read_findings(model_dir: Path) -> list[Finding]:
    """Return the findings written beside the weights; none if the file is missing."""
    remedy = "delete it; the report then says that the checks of the training were not stored."
    return [Finding.from_json(values) for values in read_json_list(model_dir / FINDINGS_FILE, remedy=remedy)]


@invariant(
    remedy="Do not use the model; train it again. If it happens again, the architecture keeps state outside its "
    "weights."
)
def checkpoint_reproduces_its_score(recorded: float, found: "Rescore") -> Finding:
    """The saved weights, loaded in another process, give the score that training recorded."""
    difference = abs(found.score - recorded)
    allowed = SAME_DEVICE_TOLERANCE if found.is_same_device else OTHER_DEVICE_TOLERANCE
    return checkpoint_reproduces_its_score.finding(
        passed=difference <= allowed,
        message=f"training recorded {recorded:.6f}, the saved weights give {found.score:.6f}",
        observed=difference,
        allowed=allowed,
        details={"recorded": recorded, "found": found.score},
    )


@invariant(remedy="Look at the learning curve, then train with a smaller learning rate or another objective.")
def prediction_is_not_the_mean_vector(spread: "Spread") -> Finding:
    """Predictions depend on their context: they vary at least a tenth as much as their targets.

    A model that always predicts the mean vector has a fair cosine and is of no use.
    """
    share = spread.prediction_variance / max(spread.target_variance, 1e-12)
    return prediction_is_not_the_mean_vector.finding(
        passed=share >= LEAST_VARIANCE_SHARE,
        message=(
            f"the variance of predictions is {share:.3f} times that of their targets; "
            f"their cosine to the mean train vector is {spread.cosine_to_mean:.3f}"
        ),
        observed=share,
        allowed=LEAST_VARIANCE_SHARE,
        details={
            "prediction_variance": spread.prediction_variance,
            "target_variance": spread.target_variance,
            "cosine_to_mean": spread.cosine_to_mean,
        },
    )


@invariant(remedy="The architecture's code changed: correct it, or declare the new number of parameters.")
def preset_has_its_declared_size(architecture: "Architecture", preset: str) -> Finding:
    """The preset has exactly the number of parameters that its architecture declares."""
    from lvm_pipeline.architectures._contract import num_params_of

    declared = architecture.preset(preset)
    found = num_params_of(architecture, declared.config, allocates=declared.num_params <= MOST_ALLOCATED)
    return preset_has_its_declared_size.finding(
        passed=found == declared.num_params,
        message=f"{architecture.name} {preset} declares {declared.num_params:,} parameters and has {found:,}",
        observed=found,
        allowed=declared.num_params,
    )


@invariant(severity=Severity.WARNING, remedy="Give the named term a smaller weight, or drop the other terms.")
def no_objective_term_dominates(history: Sequence[Mapping[str, float]]) -> Finding:
    """No term of a mixed objective has more than 95 % of the gradient or of the loss after any epoch."""
    shares = [
        (share, name.removeprefix(prefix), what, int(epoch["epoch"]))
        for prefix, what in ((GRADIENT_SHARE, "gradient"), (VALUE_SHARE, "loss"))
        for epoch in history
        for name, share in epoch.items()
        if name.startswith(prefix)
    ]
    largest, term, what, epoch = max(shares, default=(None, "", "", 0))
    return no_objective_term_dominates.finding(
        passed=largest is None or largest <= LARGEST_SHARE,
        message="the objective has one term"
        if largest is None
        else f"the largest share is that of {term}: {largest:.1%} of the {what} after epoch {epoch}",
        observed=largest,
        allowed=LARGEST_SHARE,
        details={
            "last_epoch": {name: share for epoch in history[-1:] for name, share in epoch.items() if "_share_" in name}
        },
    )


@invariant(severity=Severity.WARNING, remedy="Use a smaller preset, fewer epochs or a GPU.")
def training_takes_under_an_hour(seconds: float) -> Finding:
    """Training took less than an hour, the project's limit."""
    return training_takes_under_an_hour.finding(
        passed=seconds < LONGEST_TRAINING_SECONDS,
        message=f"training took {seconds:.0f} seconds, required below {LONGEST_TRAINING_SECONDS:.0f}",
        observed=seconds,
        allowed=LONGEST_TRAINING_SECONDS,
    )
