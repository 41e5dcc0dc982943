"""Evaluate a trained model: scores and gains over the baselines on the same targets, controls and provenance.

Shapes: S = targets, A = articles.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lvm_pipeline.architectures._products import packed_weights
from lvm_pipeline.concepts.store import read_texts
from lvm_pipeline.evaluation.baseline_scores import ScoredBaseline, baseline_scores
from lvm_pipeline.evaluation.checked import not_checked, score_is_reproduced
from lvm_pipeline.evaluation.controls import control_scores, usual_context_length
from lvm_pipeline.evaluation.ensemble_scores import ensemble_scores
from lvm_pipeline.evaluation.gates import (
    beats_best_baseline,
    cosine_is_above_minimum_viable,
    cosine_is_above_production,
    inference_takes_under_50_ms,
    text_accuracy_is_above_minimum_viable,
    text_accuracy_is_above_production,
)
from lvm_pipeline.evaluation.latency import latency_ms
from lvm_pipeline.evaluation.not_run import NO_TEXT, NotRun
from lvm_pipeline.evaluation.plot_data import cosine_histogram, retrieval_curve
from lvm_pipeline.evaluation.ranking_scores import ranking_scores
from lvm_pipeline.evaluation.report import (
    ArticleScores,
    BaselineScores,
    Counts,
    EvaluationReport,
    OtherGains,
    Pool,
    TrainingRecord,
)
from lvm_pipeline.evaluation.report_parts import Latency
from lvm_pipeline.evaluation.resolution_scores import resolution_scores
from lvm_pipeline.evaluation.rollout import NO_ROLLOUT, rollout_scores
from lvm_pipeline.evaluation.scoring import ScoredModel, other_data, score_model
from lvm_pipeline.evaluation.standing_scores import standing_scores
from lvm_pipeline.evaluation.table_fits import make_fits
from lvm_pipeline.evaluation.text_scores import TextRequest, TextScores, text_scores
from lvm_pipeline.findings import Finding
from lvm_pipeline.measures.baselines import COPY_LAST
from lvm_pipeline.measures.retrieval import (
    EXCLUSIONS,
    Exclusion,
    RetrievalScores,
    chance_scores,
    num_candidates,
    pool_is_declared_and_clean,
    primary_exclusion,
    retrieval_scores,
)
from lvm_pipeline.measures.targets import ContextMode, Targets
from lvm_pipeline.measures.threads import both
from lvm_pipeline.measures.uncertainty import Interval, paired_gain
from lvm_pipeline.sequences.schema import Split
from lvm_pipeline.source.encoders.encoder import Encoder
from lvm_pipeline.source.encoders.registry import encoder_of_space
from lvm_pipeline.training.data import TrainingData, load_training_data
from lvm_pipeline.training.invariants import (
    prediction_is_not_the_mean_vector,
    read_findings,
    training_takes_under_an_hour,
)
from lvm_pipeline.training.trained_model import TrainedModelInfo

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
    encoders_dir: Path | None = None,
    text: TextRequest | None = None,
    on_scored: Callable[[ScoredModel], None] | None = None,
) -> EvaluationReport:
    """Evaluate a trained model on a concept table and its sequences.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`; scores, controls and latency are measured on it.
        context_mode: What the model may read; None: what it was trained to read.
        cache_dir: Where scores of baselines are cached for the next model; None: no cache.
        num_threads: PyTorch threads on a CPU; None: as in training.
        data_findings: Findings on these concepts and sequences; None if they were not checked.
        encoders_dir: Where the encoder of the vectors' space is looked up, for the leak ladder.
        text: What to decode to text; None: nothing.
        on_scored: Called with the predictions and scores that the report is based on.
    """
    data = load_training_data(concepts_path, sequences_path, vectors_dir)
    scored = score_model(
        model_dir,
        data,
        device=device,
        split=split,
        context_mode=context_mode,
        num_threads=num_threads,
        require_same_data=require_same_data,
        correct_hubness=True,
    )
    if on_scored is not None:
        on_scored(scored)
    make_fits(scored, cache_dir=cache_dir, seed=seed)
    baselines = _baselines_of(scored, cache_dir)
    encoder = None if encoders_dir is None else encoder_of_space(data.concepts.space_id, encoders_dir=encoders_dir)
    decoders = text.decoders if text else ()
    # side by side: texts are compared in Python, which leaves a core idle
    measured, standing = both(
        lambda: _text(scored, text, concepts_path=concepts_path, encoder=encoder, cache_dir=cache_dir, seed=seed),
        lambda: standing_scores(scored, concepts_path=concepts_path, cache_dir=cache_dir, encoder=encoder, seed=seed),
    )
    report = replace(
        _scores_report(scored, baselines, concepts_path=concepts_path, num_threads=num_threads, seed=seed),
        ranking=ranking_scores(scored, baselines[COPY_LAST], cache_dir=cache_dir, seed=seed),
        standing=standing,
        text=measured,
        rollout=rollout_scores(scored, cache_dir=cache_dir, decoders=decoders, encoder=encoder, seed=seed),
    )
    return _with_findings(report, scored, data_findings, read_findings(model_dir))


def _baselines_of(scored: ScoredModel, cache_dir: Path | None) -> dict[str, ScoredBaseline]:
    fingerprint = scored.data.sequences.metadata.fingerprint
    return baseline_scores(scored.targets, fingerprint=fingerprint, split=scored.split, cache_dir=cache_dir)


def _with_findings(
    report: EvaluationReport, scored: ScoredModel, of_data: Sequence[Finding] | None, of_training: Sequence[Finding]
) -> EvaluationReport:
    findings = _findings(scored, report)
    unchecked = not_checked(scored, report.controls, findings, data_findings=of_data, training_findings=of_training)
    return replace(
        report,
        findings=tuple(findings),
        data_findings=None if of_data is None else tuple(of_data),
        training_findings=tuple(of_training),
        not_checked=(*unchecked, *((NO_ROLLOUT,) if report.rollout is None else ())),
    )


def _text(
    scored: ScoredModel,
    request: TextRequest | None,
    *,
    concepts_path: Path,
    encoder: Encoder | None,
    cache_dir: Path | None,
    seed: int,
) -> TextScores | NotRun:
    if request is None or not request.num_targets:
        return NO_TEXT
    return text_scores(scored, request, concepts_path=concepts_path, encoder=encoder, cache_dir=cache_dir, seed=seed)


@dataclass(frozen=True, kw_only=True)
class GainOverBest:
    """What a model scored on a split, and by how much it beats the best baseline there."""

    cosine: float
    best_baseline: str
    gain: Interval
    counts: Counts


def gain_over_best_baseline(
    model_dir: Path,
    data: TrainingData,
    *,
    device: str,
    split: Split,
    cache_dir: Path | None = None,
    num_threads: int | None = None,
    seed: int = 0,
) -> GainOverBest:
    """Score a trained model and the baselines on a split, without the rest of a report."""
    scored = score_model(model_dir, data, device=device, split=split, num_threads=num_threads)
    baselines = _baselines_of(scored, cache_dir)
    best = best_baseline(baselines)
    own, other = scored.scores.closeness, baselines[best].scores.closeness.cosine
    return GainOverBest(
        cosine=own.means()["cosine"],
        best_baseline=best,
        gain=paired_gain(own.cosine, other, scored.targets.scored.articles, seed=seed),
        counts=_counts(scored.targets),
    )


def best_baseline(baselines: Mapping[str, ScoredBaseline]) -> str:
    """Return the name of the baseline with the highest mean cosine."""
    return max(baselines, key=lambda name: baselines[name].scores.closeness.means()["cosine"])


def _scores_report(
    scored: ScoredModel,
    baselines: Mapping[str, ScoredBaseline],
    *,
    concepts_path: Path,
    num_threads: int | None,
    seed: int,
) -> EvaluationReport:
    articles = scored.targets.scored.articles
    cosines = scored.scores.closeness.cosine
    best = best_baseline(baselines)
    return EvaluationReport(
        name=scored.info.trial_id,
        trial_id=scored.info.trial_id,
        **vars(scored.scores.means()),
        **_identity(scored),
        counts=_counts(scored.targets),
        pool=_pool(scored.targets),
        baselines={
            name: BaselineScores(
                **vars(found.scores.means()),
                fitted=dict(found.fitted),
                gain=paired_gain(cosines, found.scores.closeness.cosine, articles, seed=seed),
            )
            for name, found in baselines.items()
        },
        best_baseline=best,
        other_gains=_other_gains(scored, baselines[best], seed=seed),
        latency_ms=prediction_latency(scored, num_threads),
        controls=control_scores(
            scored.model, scored.targets, condition=scored.condition, seed=seed, device=scored.device
        ),
        spread=scored.scores.spread,
        training=_training(scored.info),
        articles=_articles(scored, baselines[best], concepts_path),
        cosine_histogram=cosine_histogram(scored, baselines[best]),
        retrieval_curve=retrieval_curve(scored, baselines, best),
        ensemble=ensemble_scores(scored, seed=seed),
        resolutions=resolution_scores(scored),
        retrieval_of_prediction=_retrieval_of_prediction(scored),
        seed=seed,
        strategies=dict(scored.info.strategy_notes) or None,
    )


def _other_gains(scored: ScoredModel, best: ScoredBaseline, *, seed: int) -> OtherGains:
    own, other, ranked = scored.scores, best.scores, scored.targets.ranked.articles
    articles = scored.targets.scored.articles
    return OtherGains(
        centred_cosine=paired_gain(own.closeness.centred_cosine, other.closeness.centred_cosine, articles, seed=seed),
        mrr={rule: paired_gain(1 / own.ranks[rule], 1 / other.ranks[rule], ranked, seed=seed) for rule in EXCLUSIONS},
    )


def _identity(scored: ScoredModel) -> dict[str, Any]:
    sequences, concepts = scored.data.sequences.metadata, scored.data.concepts
    reason = sequences.leak_reason or _leak_reason(scored.info)
    return {
        **{name: getattr(scored.info, name) for name in ("architecture", "preset", "num_params")},
        **{name: getattr(concepts, name) for name in ("space_id", "source", "dataset_source", "order_warning")},
        "model_fingerprint": scored.model_fingerprint,
        "fingerprint": sequences.fingerprint,
        "concepts_fingerprint": concepts.fingerprint,
        "is_same_data_as_training": not other_data(scored.info, scored.data),
        "split": scored.split,
        "split_rule": sequences.split_rule,
        "context_mode": scored.targets.context_mode,
        "context_length": scored.targets.context_length,
        "is_leaking": sequences.is_leaking or scored.info.is_leaking,
        "leak_reason": reason,
    }


def _leak_reason(info: TrainedModelInfo) -> str | None:
    if info.is_oracle:
        return "the model is an oracle, which reads the TMD codes of its targets"
    return "the model was trained on leaking sequences" if info.is_leaking else None


def _counts(targets: Targets) -> Counts:
    return Counts(
        targets=len(targets.scored),
        articles=len(np.unique(targets.scored.articles)),
        train_targets=len(targets.train),
        train_articles=len(np.unique(targets.train.articles)),
    )


def _pool(targets: Targets) -> Pool:
    return Pool(
        size=len(targets.pool_rows),
        fingerprint=targets.pool_fingerprint(),
        exclusion=primary_exclusion(targets),
        chance={rule: chance_scores(num_candidates(targets, rule)) for rule in EXCLUSIONS},
        num_ranked=len(targets.ranked),
    )


def _findings(scored: ScoredModel, report: EvaluationReport) -> list[Finding]:
    text = report.text if isinstance(report.text, TextScores) else None
    return [
        pool_is_declared_and_clean(scored.targets, exclusion=report.pool.exclusion),
        score_is_reproduced(scored, scored.scores.closeness.means(), report.spread),
        prediction_is_not_the_mean_vector(report.spread),
        beats_best_baseline(report.best_baseline, report.gain, num_articles=report.counts.articles),
        cosine_is_above_minimum_viable(report.cosine),
        cosine_is_above_production(report.cosine),
        text_accuracy_is_above_minimum_viable(text),
        text_accuracy_is_above_production(text),
        inference_takes_under_50_ms(report.latency_ms.p95),
        training_takes_under_an_hour(report.training.training_seconds),
    ]


def prediction_latency(scored: ScoredModel, num_threads: int | None) -> Latency:
    """Return the latency of one prediction with the context length that is usual for the targets."""
    length = usual_context_length(scored.model, scored.targets)
    contexts = scored.targets.scored
    is_long_enough = contexts.target_rows - contexts.first_rows >= length
    target_row = contexts.target_rows[is_long_enough][0]
    with packed_weights(scored.model):  # as `lvm predict` does
        return latency_ms(
            scored.model,
            scored.data.vectors[target_row - length : target_row],
            condition=None if scored.condition is None else scored.condition[target_row - length : target_row],
            device=scored.device,
            num_threads=num_threads or scored.info.training["num_threads"],
        )


def _training(info: TrainedModelInfo) -> TrainingRecord:
    renamed = {"context_weights": "arithmetic", "model_config": "config", "training_config": "training"}
    names = TrainingRecord.__dataclass_fields__
    return TrainingRecord(**{name: getattr(info, renamed.get(name, name)) for name in names})


def _articles(scored: ScoredModel, best: ScoredBaseline, concepts_path: Path) -> tuple[ArticleScores, ...]:
    """Return the mean scores of each article, in reading order, with the beginning of its text."""
    indices, codes = np.unique(scored.targets.scored.articles, return_inverse=True)
    counts = np.bincount(codes)
    first_rows = scored.data.articles.first_rows[indices]
    texts = read_texts(concepts_path, first_rows)
    cosines = np.bincount(codes, scored.scores.closeness.cosine) / counts
    best_cosines = np.bincount(codes, best.scores.closeness.cosine) / counts
    return tuple(
        ArticleScores(
            article_id=scored.data.articles.ids[index],
            label=" ".join(text.split())[:LABEL_CHARACTERS],
            num_targets=int(count),
            cosine=float(cosine),
            best_baseline_cosine=float(best_cosine),
        )
        for index, count, cosine, best_cosine, text in zip(indices, counts, cosines, best_cosines, texts, strict=True)
    )


def _retrieval_of_prediction(scored: ScoredModel) -> dict[Exclusion, RetrievalScores] | None:
    ranks = scored.ranks_of_prediction
    return None if ranks is None else {rule: retrieval_scores(found) for rule, found in ranks.items()}
