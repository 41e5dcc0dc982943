"""Reports as earlier versions wrote them (report version 1), in the layout of the present one."""

from collections.abc import Mapping
from typing import Any

from lvm_pipeline.measures.retrieval import RetrievalScores

UNCHANGED = (
    *("name", "architecture", "preset", "num_params", "model_fingerprint", "fingerprint", "concepts_fingerprint"),
    *("is_same_data_as_training", "space_id", "source", "dataset_source", "order_warning", "split", "split_rule"),
    *("context_mode", "context_length", "is_leaking", "leak_reason", "latency_ms", "controls", "articles"),
    *("cosine_histogram", "retrieval_curve", "seed", "findings", "not_checked"),
)
MEASURES = ("cosine", "centred_cosine", "mse", "l2", "norm_ratio")
RENAMED_IN_TRAINING = {"arithmetic": "context_weights", "config": "model_config", "training": "training_config"}


def from_version_1(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a version 1 report in the present layout; every figure is kept.

    Raises:
        KeyError: If a value is missing.
    """
    checked = [dict(finding) for finding in report["checked_before"]]
    data_findings = [finding for finding in checked if finding["stage"] == "data"]
    return {
        **{name: report[name] for name in UNCHANGED},
        **_scores(report),
        "counts": report["counts"],
        "pool": {
            "size": report["counts"]["pool"],
            "fingerprint": report["pool_fingerprint"],
            "exclusion": report["retrieval"]["exclusion"],
            "chance": {rule: _chance(found) for rule, found in report["retrieval_by_exclusion"].items()},
        },
        "baselines": {
            name: {**_scores(found), "fitted": found["fitted"], "gain": found["gain"]}
            for name, found in report["baselines"].items()
        },
        "best_baseline": report["gain_over_best_baseline"]["baseline"],
        "spread": {**report["collapse"], "cosine_to_mean": report["collapse"]["cosine_to_mean_vector"]},
        "training": {RENAMED_IN_TRAINING.get(name, name): value for name, value in report["training"].items()},
        "data_findings": data_findings or None,
        "training_findings": [finding for finding in checked if finding["stage"] == "training"],
    }


def _scores(found: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: found[name] for name in MEASURES}, "retrieval": found["retrieval_by_exclusion"]}


def _chance(found: Mapping[str, Any]) -> dict[str, float]:
    measures = RetrievalScores.__dataclass_fields__
    return {"mean_candidates": found["mean_candidates"]} | {name: found[f"chance_{name}"] for name in measures}
