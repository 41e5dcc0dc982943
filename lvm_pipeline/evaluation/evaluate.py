"""trained model -> report: scores beside the baselines on the same rows, with intervals, controls and provenance.

Shapes: S = targets, A = articles.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.architectures._products import laid_out
from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.baseline_scores import ScoredBaseline, baseline_scores
from lvm_pipeline.evaluation.checked import checked_before, not_checked, score_is_reproduced
from lvm_pipeline.evaluation.controls import control_scores, usual_context_length
from lvm_pipeline.evaluation.gates import beats_best_baseline, threshold_findings, thresholds
from lvm_pipeline.evaluation.latency import latency_ms
from lvm_pipeline.evaluation.scoring import ScoredModel, score_model
from lvm_pipeline.findings import Finding
from lvm_pipeline.measures.baselines import BASELINES
from lvm_pipeline.measures.retrieval import pool_is_declared_and_clean, primary_exclusion
from lvm_pipeline.measures.targets import ContextMode
from lvm_pipeline.measures.uncertainty import Interval, paired_gain
from lvm_pipeline.sequences.schema import Split
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline.training.invariants import prediction_is_not_the_mean_vector, read_findings
from lvm_pipeline.training.predictions import Collapse

REPORT_VERSION = 1
HISTOGRAM_EDGES = tuple(round(-0.5 + 0.025 * i, 3) for i in range(61))  # cosine, -0.5 to 1
CURVE_BASELINES = ("copy_last",)  # drawn beside the model and the best baseline
LABEL_CHARACTERS = 80


def evaluate_model(
    model_dir: Path,
    concepts_path: Path,
    sequences_path: Path,
    *,
    vectors_dir: Path,
    device: str,
    split: Split = "validation",
    context_mode: ContextMode | None = None,
    cache_dir: Path | None = None,
    num_threads: int | None = None,
    seed: int = 0,
    require_same_data: bool = True,
    data_findings: Sequence[Finding] | None = None,
) -> dict[str, Any]:
    """Evaluate a trained model.

    Args:
        model_dir: Folder of the trained model.
        concepts_path: The concept table.
        sequences_path: The sequence table.
        vectors_dir: Where the memory-mapped vectors are kept.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; scores, controls and latency are measured on it.
        split: Whose targets are scored.
        context_mode: What the model may read; None: what it was trained to read.
        cache_dir: Where scores of baselines are kept for the next model; None keeps nothing.
        num_threads: PyTorch threads on a CPU; None: as in training.
        seed: Of resampling and controls.
        require_same_data: Refuse data other than the model was trained on.
        data_findings: What was found of these concepts and sequences; None where nobody looked.

    Returns:
        The report as plain JSON values; `findings` holds the invariants of `lvm_pipeline.findings`.
    """
    data = load_training_data(concepts_path, sequences_path, vectors_dir)
    scored = score_model(
        model_dir,
        data,
        split=split,
        context_mode=context_mode,
        device=device,
        num_threads=num_threads,
        require_same_data=require_same_data,
    )
    baselines = baseline_scores(
        scored.targets, fingerprint=data.sequences.metadata.fingerprint, split=split, cache_dir=cache_dir
    )
    latency = _latency(scored, num_threads)
    controls = control_scores(scored.model, scored.targets, seed=seed, device=scored.device)
    report, findings = _report(
        scored, baselines, latency=latency, controls=controls, concepts_path=concepts_path, seed=seed
    )
    known = {"data_findings": data_findings, "training_findings": read_findings(model_dir)}
    return {
        **report,
        "findings": [finding.as_json() for finding in findings],
        "checked_before": checked_before(**known),
        "not_checked": not_checked(scored, controls, findings, **known),
    }


def best_baseline(baselines: dict[str, ScoredBaseline]) -> str:
    """Return the name of the baseline with the highest mean cosine."""
    return max(baselines, key=lambda name: baselines[name].scores.closeness.means()["cosine"])


def _report(
    scored: ScoredModel,
    baselines: dict[str, ScoredBaseline],
    *,
    latency: dict[str, Any],
    controls: dict[str, Any],
    concepts_path: Path,
    seed: int,
) -> tuple[dict[str, Any], list[Finding]]:
    own = scored.scores.as_json(scored.targets)
    articles = scored.targets.scored.articles
    gains = {
        name: paired_gain(scored.scores.closeness.cosine, found.scores.closeness.cosine, articles, seed=seed)
        for name, found in baselines.items()
    }
    best = best_baseline(baselines)
    gates = thresholds(
        cosine=own["cosine"], latency_p95_ms=latency["p95"], training_seconds=scored.info.training_seconds
    )
    report = {
        "report_version": REPORT_VERSION,
        "name": f"{scored.info.architecture} {scored.info.preset}",
        **_identity(scored),
        **own,
        "baselines": {
            name: {
                **found.scores.as_json(scored.targets),
                "fitted": dict(found.fitted),
                "gain": gains[name].as_json(),
                "what": BASELINES[name],
            }
            for name, found in baselines.items()
        },
        "gain_over_best_baseline": {"baseline": best, **gains[best].as_json()},
        "gains": {name: gain.as_json() for name, gain in gains.items()},
        "latency_ms": latency,
        "thresholds": gates,
        "controls": controls,
        "collapse": {
            **asdict(scored.scores.spread),
            "variance_fraction": scored.scores.spread.variance_fraction,
        },
        "training": _training(scored),
        "articles": _articles(scored, baselines[best], concepts_path),
        "cosine_histogram": _histogram(scored, baselines[best]),
        "retrieval_curve": _retrieval_curve(scored, baselines, best),
        "seed": seed,
    }
    return report, _findings(scored, own, best, gains[best], gates)


def _identity(scored: ScoredModel) -> dict[str, Any]:
    """Say what was scored on what."""
    sequences, targets = scored.data.sequences.metadata, scored.targets
    is_leaking = sequences.is_leaking or scored.info.is_leaking
    reason = sequences.leak_reason or ("the model was trained on sequences that leak" if is_leaking else None)
    return {
        "architecture": scored.info.architecture,
        "preset": scored.info.preset,
        "num_params": scored.info.num_params,
        "model_fingerprint": scored.model_fingerprint,
        "fingerprint": sequences.fingerprint,
        "concepts_fingerprint": scored.data.concepts.fingerprint,
        "is_same_data_as_training": scored.info.fingerprints == scored.data.fingerprints,
        "space_id": scored.data.concepts.space_id,
        "source": scored.data.concepts.source,
        "dataset_source": scored.data.concepts.dataset_source,
        "order_warning": scored.data.concepts.order_warning,
        "split": scored.split,
        "split_rule": sequences.split_rule,
        "context_mode": targets.context_mode,
        "context_length": targets.context_length,
        "is_leaking": is_leaking,
        "leak_reason": reason,
        "counts": {
            "targets": len(targets.scored),
            "articles": len(np.unique(targets.scored.articles)),
            "pool": len(targets.pool_rows),
            "train_targets": len(targets.train),
            "train_articles": len(np.unique(targets.train.articles)),
        },
        "pool_fingerprint": targets.pool_fingerprint(),
    }


def _findings(
    scored: ScoredModel, means: dict[str, Any], best: str, gain: Interval, gates: dict[str, dict[str, Any]]
) -> list[Finding]:
    spread = scored.scores.spread
    collapse = Collapse(
        prediction_variance=spread.prediction_variance,
        target_variance=spread.target_variance,
        cosine_to_mean=spread.cosine_to_mean_vector,
    )
    num_articles = len(np.unique(scored.targets.scored.articles))
    return [
        pool_is_declared_and_clean(scored.targets, exclusion=primary_exclusion(scored.targets)),
        score_is_reproduced(scored, means, collapse),
        prediction_is_not_the_mean_vector(collapse),
        beats_best_baseline(best, gain, num_articles=num_articles),
        *threshold_findings(gates),
    ]


def _latency(scored: ScoredModel, num_threads: int | None) -> dict[str, Any]:
    length = usual_context_length(scored.model, scored.targets)
    contexts = scored.targets.scored
    lengths = contexts.target_rows - contexts.first_rows
    if not (lengths >= length).any():
        raise LvmError(
            f"No target has the {length} concepts of context that latency is timed with; load longer articles."
        )
    target_row = contexts.target_rows[lengths >= length][0]
    with laid_out(scored.model):  # as `lvm predict` does
        return latency_ms(
            scored.model,
            scored.data.vectors[target_row - length : target_row],
            device=scored.device,
            num_threads=num_threads or scored.info.training["num_threads"],
        )


def _training(scored: ScoredModel) -> dict[str, Any]:
    """Return what the trained model says of its making."""
    info = scored.info
    return {
        "mode": info.mode,
        "seed": info.seed,
        "training_seconds": info.training_seconds,
        "trained_on": info.trained_on,
        "selection_metric": info.selection_metric,
        "score": info.score,
        "start_score": info.start_score,
        "best_epoch": info.best_epoch,
        "arithmetic": info.arithmetic,
        "config": info.config,
        "training": info.training,
        "split": info.split,
        "fingerprints": info.fingerprints,
        "code_version": info.code_version,
        "packages": info.packages,
        "history": info.history,
    }


def _articles(scored: ScoredModel, best: ScoredBaseline, concepts_path: Path) -> list[dict[str, Any]]:
    """Return the mean scores of each article, in reading order, with the beginning of its text."""
    contexts = scored.targets.scored
    indices, codes = np.unique(contexts.articles, return_inverse=True)
    counts = np.bincount(codes)
    first_rows = scored.data.articles.first_rows[indices]
    texts = read_columns(concepts_path, ["concept_text"])["concept_text"].take(first_rows).to_pylist()

    def means(values: NDArray[np.float32]) -> list[float]:
        return (np.bincount(codes, values) / counts).tolist()

    columns = zip(
        indices,
        counts.tolist(),
        means(scored.scores.closeness.cosine),
        means(best.scores.closeness.cosine),
        texts,
        strict=True,
    )
    return [
        {
            "article_id": scored.data.articles.ids[index],
            "label": " ".join((text or "").split())[:LABEL_CHARACTERS],
            "num_targets": count,
            "cosine": cosine,
            "best_baseline_cosine": base,
            "gain": cosine - base,
        }
        for index, count, cosine, base, text in columns
    ]


def _histogram(scored: ScoredModel, best: ScoredBaseline) -> dict[str, Any]:
    def counts(values: NDArray[np.float32]) -> list[int]:
        clipped = np.clip(values, HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1])
        return np.histogram(clipped, HISTOGRAM_EDGES)[0].tolist()

    return {
        "edges": list(HISTOGRAM_EDGES),
        "model": counts(scored.scores.closeness.cosine),
        "best_baseline": counts(best.scores.closeness.cosine),
    }


def _retrieval_curve(scored: ScoredModel, baselines: dict[str, ScoredBaseline], best: str) -> dict[str, Any]:
    """Return the share of targets found among the first k candidates, for k from 1 to the pool size."""
    rule = primary_exclusion(scored.targets)
    size = len(scored.targets.pool_rows)
    ks = np.unique(np.round(np.geomspace(1, size, 40)).astype(int))
    predictors = {name: baselines[name].scores for name in (best, *CURVE_BASELINES)}

    def recall(ranks: NDArray[np.int64]) -> list[float]:
        return (np.searchsorted(np.sort(ranks), ks, side="right") / len(ranks)).tolist()

    return {
        "exclusion": rule,
        "k": ks.tolist(),
        "model": recall(scored.scores.ranks[rule]),
        "baselines": {name: recall(found.ranks[rule]) for name, found in predictors.items()},
        "chance": np.minimum(1, ks / size).tolist(),
    }
