"""Checks that ran and checks that did not: a report lists both."""

from collections.abc import Mapping, Sequence

from lvm_pipeline.evaluation.report_parts import Controls
from lvm_pipeline.evaluation.scoring import ScoredModel, other_data
from lvm_pipeline.findings import Finding
from lvm_pipeline.measures.metrics import Spread
from lvm_pipeline.training.invariants import checkpoint_reproduces_its_score
from lvm_pipeline.training.rescore import Rescore
from lvm_pipeline.words import counted

COMPARABLE_METRICS = ("cosine", "mse")  # the others depend on a mean vector that training estimates from a sample
NO_DATA_CHECKS = "Data: there is no verification report of these concepts and sequences; run `lvm verify --products`."
NO_TRAINING_CHECKS = "Training: its checks were not stored."


def score_is_reproduced(scored: ScoredModel, means: Mapping[str, float], spread: Spread) -> Finding:
    """Compare the model's score on its own validation targets with the one that training recorded."""
    info = scored.info
    is_same = (
        scored.split == "validation" and not other_data(info, scored.data) and info.mode == scored.targets.context_mode
    )
    if not is_same:
        return checkpoint_reproduces_its_score.not_checked(
            "the model is scored on other targets than in training, so its score cannot be compared"
        )
    if info.selection_metric not in COMPARABLE_METRICS:
        return checkpoint_reproduces_its_score.not_checked(
            f"the checkpoint was selected by {info.selection_metric.replace('_', ' ')}, which depends on a mean vector "
            "that training estimates from a sample"
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
    """Return a sentence for everything that a report does not cover and every check that did not run."""
    sentences: list[str] = []
    if scored.split != "test":
        sentences.append(
            "Test split: a model is scored on it once, when it becomes champion; `lvm champion` shows that score."
        )
    if controls.order_shuffled is None:
        sentences.append("Order control: the context is one concept.")
    if controls.wrong_context is None:
        context = counted(controls.context_length, "concept")
        sentences.append(f"Wrong-context control: all targets with {context} of context come from one article.")
    if other_data(scored.info, scored.data):
        sentences.append("Whether the model has seen these articles in training: it was trained on other data.")
    sentences.append("GPU memory: not measured.")
    sentences += [NO_DATA_CHECKS] if data_findings is None else []
    sentences += [] if training_findings else [NO_TRAINING_CHECKS]
    everything = (*(data_findings or ()), *training_findings, *findings)
    return sentences + [_sentence(finding) for finding in everything if finding.outcome == "not checked"]


def _sentence(finding: Finding) -> str:
    name = finding.name.replace("_", " ").replace("tmd", "TMD")
    return f"{name[0].upper()}{name[1:]}: {finding.message.rstrip('.')}."
