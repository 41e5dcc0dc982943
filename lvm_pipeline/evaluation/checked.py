"""What was checked before a report and by it, and what nobody checked: a report says both."""

from collections.abc import Mapping, Sequence

from lvm_pipeline.evaluation.controls import Controls
from lvm_pipeline.evaluation.scoring import ScoredModel
from lvm_pipeline.findings import Finding
from lvm_pipeline.measures.metrics import Spread
from lvm_pipeline.training.invariants import checkpoint_reproduces_its_score
from lvm_pipeline.training.rescore import Rescore

COMPARABLE_METRICS = ("cosine", "mse")  # the others depend on a mean vector that training estimates from a sample
NO_DATA_CHECKS = "The data: no verification report on these concepts and sequences is at hand; run `lvm verify`."
NO_TRAINING_CHECKS = "The training: nothing was kept of what was checked after it."


def score_is_reproduced(scored: ScoredModel, means: Mapping[str, float], spread: Spread) -> Finding:
    """Hold the model's score on its own validation targets to what its training recorded (F8)."""
    info = scored.info
    is_same = (
        scored.split == "validation"
        and info.fingerprints == scored.data.fingerprints
        and info.mode == scored.targets.context_mode
        and info.selection_metric in COMPARABLE_METRICS
    )
    if not is_same:
        return checkpoint_reproduces_its_score.not_checked(
            "the model is scored on other targets than in training, so its score cannot be compared"
        )
    is_same_device = info.training["device"].partition(":")[0] == scored.device.partition(":")[0]
    found = Rescore(score=means[info.selection_metric], spread=spread, is_same_device=is_same_device)
    return checkpoint_reproduces_its_score(info.score, found)


def not_checked(
    scored: ScoredModel,
    controls: Controls,
    findings: Sequence[Finding],
    *,
    data_findings: Sequence[Finding] | None,
    training_findings: Sequence[Finding],
) -> list[str]:
    """Say in sentences what a report does not tell, and what was left open before it."""
    told = [
        "Text accuracy: no prediction was decoded to text.",
        "Human preference: nobody was asked.",
    ]
    if scored.split != "test":
        told.append("The test split: it is looked at once, for a promoted model.")
    if controls.wrong_context is None:
        told.append("The wrong-context control: the targets come from one article only.")
    if scored.info.fingerprints != scored.data.fingerprints:
        told.append("Whether the model saw these articles in its training: it was trained on other data.")
    if not scored.device.startswith("cuda"):
        told.append("GPU memory: no GPU was used.")
    told += [NO_DATA_CHECKS] if data_findings is None else []
    told += [] if training_findings else [NO_TRAINING_CHECKS]
    everything = (*(data_findings or ()), *training_findings, *findings)
    return told + [_sentence(finding) for finding in everything if finding.outcome == "not checked"]


def _sentence(finding: Finding) -> str:
    return f"{finding.name.replace('_', ' ').capitalize()}: {finding.message.rstrip('.')}."
