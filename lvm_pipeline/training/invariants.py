"""What must hold of a trained model before it takes the place of an earlier one."""

import json
from collections.abc import Iterable
from pathlib import Path

from lvm_pipeline.architectures._contract import Architecture, num_params_of
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import write_json
from lvm_pipeline.findings import Finding, Severity
from lvm_pipeline.training.balance import no_objective_term_dominates
from lvm_pipeline.training.predictions import Collapse
from lvm_pipeline.training.rescore import Rescore, rescore_in_fresh_process
from lvm_pipeline.training.trained_model import read_trained_model_info

SAME_DEVICE_TOLERANCE = 1e-5
OTHER_DEVICE_TOLERANCE = 5e-3
LEAST_VARIANCE_SHARE = 0.1
LONGEST_TRAINING_SECONDS = 3600.0
FINDINGS_FILE = "findings.json"  # beside the weights: what was checked before they were promoted


def check_trained_model(model_dir: Path, concepts_path: Path, sequences_path: Path, vectors_dir: Path) -> list[Finding]:
    """Score the model again in a fresh process and hold it to every invariant of this stage."""
    info = read_trained_model_info(model_dir)
    others = [
        no_objective_term_dominates(info.history),
        preset_has_its_declared_size(load_architecture(info.architecture), info.preset),
        training_takes_under_an_hour(info.training_seconds),
    ]
    try:
        found = rescore_in_fresh_process(model_dir, concepts_path, sequences_path, vectors_dir)
    except LvmError as error:
        return [_could_not_be_scored(str(error)), *others]
    return [
        checkpoint_reproduces_its_score(info.score, found),
        prediction_is_not_the_mean_vector(found.collapse),
        *others,
    ]


def write_findings(model_dir: Path, findings: Iterable[Finding]) -> None:
    """Keep what was checked of a trained model beside its weights."""
    write_json(model_dir / FINDINGS_FILE, [finding.as_json() for finding in findings])


def read_findings(model_dir: Path) -> list[Finding]:
    """Return what was checked of a trained model before it was promoted; nothing where nobody kept it."""
    path = model_dir / FINDINGS_FILE
    if not path.is_file():
        return []
    return [Finding.from_json(values) for values in json.loads(path.read_text(encoding="utf-8"))]


def preset_has_its_declared_size(architecture: Architecture, preset: str) -> Finding:
    """The preset builds exactly as many parameters as its architecture declares (F15); counted without allocating."""
    declared = architecture.preset(preset)
    found = num_params_of(architecture, declared.config)
    return Finding(
        name="preset_has_its_declared_size",
        passed=found == declared.num_params,
        severity=Severity.BLOCKING,
        message=f"{architecture.name} {preset} declares {declared.num_params:,} parameters and has {found:,}",
        observed=float(found),
        allowed=float(declared.num_params),
    )


def checkpoint_reproduces_its_score(recorded: float, found: Rescore) -> Finding:
    """The saved model scores, loaded anew, what it scored in training (F8)."""
    difference = abs(found.score - recorded)
    allowed = SAME_DEVICE_TOLERANCE if found.is_same_device else OTHER_DEVICE_TOLERANCE
    return Finding(
        name="checkpoint_reproduces_its_score",
        passed=difference <= allowed,
        severity=Severity.BLOCKING,
        message=f"Recorded {recorded:.6f} in training, scored again {found.score:.6f}",
        observed=difference,
        allowed=allowed,
        details={"recorded": recorded, "found": found.score},
    )


def _could_not_be_scored(reason: str) -> Finding:
    return Finding(name="checkpoint_reproduces_its_score", passed=False, severity=Severity.BLOCKING, message=reason)


def prediction_is_not_the_mean_vector(collapse: Collapse) -> Finding:
    """Predictions still depend on the context: their variance is a fair share of the targets' (F9)."""
    share = collapse.prediction_variance / max(collapse.target_variance, 1e-12)
    return Finding(
        name="prediction_is_not_the_mean_vector",
        passed=share >= LEAST_VARIANCE_SHARE,
        severity=Severity.BLOCKING,
        message=(
            f"Predictions vary {share:.3f} times as much as their targets; "
            f"their cosine to the mean train vector is {collapse.cosine_to_mean:.3f}"
        ),
        observed=share,
        allowed=LEAST_VARIANCE_SHARE,
        details={
            "prediction_variance": collapse.prediction_variance,
            "target_variance": collapse.target_variance,
            "cosine_to_mean": collapse.cosine_to_mean,
        },
    )


def training_takes_under_an_hour(seconds: float) -> Finding:
    """The request's bound on the time of a training; a warning."""
    return Finding(
        name="training_takes_under_an_hour",
        passed=seconds < LONGEST_TRAINING_SECONDS,
        severity=Severity.WARNING,
        message=f"Training took {seconds:.0f} seconds",
        observed=seconds,
        allowed=LONGEST_TRAINING_SECONDS,
    )
