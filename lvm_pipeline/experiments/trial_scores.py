"""The record of one trial of the plan, from which the study is made: its scores and how it ended."""

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from lvm_pipeline.evaluation.baseline_scores import baseline_scores
from lvm_pipeline.evaluation.evaluate import best_baseline, prediction_latency
from lvm_pipeline.evaluation.report import verdict_in_words
from lvm_pipeline.evaluation.scoring import score_model
from lvm_pipeline.experiments.champion import DECIDING_SPLIT
from lvm_pipeline.experiments.plan import Purpose
from lvm_pipeline.experiments.row_scores import keep_row_scores
from lvm_pipeline.files import write_json
from lvm_pipeline.measures.retrieval import EARLIER_ROWS, Exclusion
from lvm_pipeline.measures.uncertainty import Interval, article_sums, paired_gain
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.provenance import code_version

OUTCOME_FILE = "outcome.json"  # in the trial's folder

OutcomeStatus = Literal["done", "stopped", "failed", "refused"]


@dataclass(frozen=True, kw_only=True)
class TrialScores:
    """Scores of one trained model on the validation split."""

    mode: str  # `windows` or `articles`: what it was trained on and reads
    num_params: int  # learned values
    cosine: float  # mean cosine of prediction and target
    best_baseline: str  # the best baseline that reads the same context
    gain: Interval  # gain in cosine over it, with its own 95 % interval
    mrr: float  # mean reciprocal rank; no earlier concept of the article is a candidate
    r_at_10: float  # recall at 10, likewise
    exclusion: Exclusion  # rule of the retrieval pool
    latency_ms: float  # median latency of one prediction
    training_seconds: float  # time in optimiser steps and validation
    best_epoch: int  # epoch whose weights were kept
    # sum of the cosine over the targets of each article, in reading order
    cosine_sums: tuple[float, ...] = field(repr=False)
    gain_sums: tuple[float, ...] = field(repr=False)  # sum of the gain over the best baseline, likewise
    target_counts: tuple[int, ...] = field(repr=False)  # targets of each article
    scored_by: str = ""  # version of the code that scored it; empty in records of earlier versions

    @property
    def verdict(self) -> str:
        return verdict_in_words(self.cosine, self.gain, self.best_baseline)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    trial_id: str  # id of the trial
    week: int  # its week
    purpose: Purpose  # see `plan.PlannedTrial`
    # done; stopped: pruned as worse than others; failed: an error during training; refused: it cannot work with these
    # data or options
    status: OutcomeStatus
    reason: str | None = None  # why it is not done
    options: dict[str, Any] = field(default_factory=dict)  # the options that tell the trial from others
    fingerprints: dict[str, str]  # of the data
    # fingerprint of the texts, codes and negatives, if the trial reads any of them and their table has one
    content_fingerprint: str | None = None
    code_version: str  # of the code that it uses
    seconds: float  # time from its start to its scores
    overhead_seconds: float | None = None  # the part of it that was neither training nor scoring
    mlflow_url: str | None = None  # page of its MLflow run
    scores: TrialScores | None = None  # what it scored, if it is done

    def is_of(self, fingerprints: Mapping[str, str], content: str | None) -> bool:
        """Whether it was made with these data; `content` is what `content_read` returns for its trial."""
        return self.fingerprints == dict(fingerprints) and self.content_fingerprint == content


def write_outcome(folder: Path, outcome: Outcome) -> None:
    write_json(folder / OUTCOME_FILE, asdict(outcome))


def read_outcome(folder: Path) -> Outcome | None:
    """Read the outcome in a trial's folder; None if it is missing or unreadable."""
    try:
        return _adapter().validate_python(json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        return None


def scoring_version() -> str:
    """Return the version of the code that scores trials: baselines, pools and measures."""
    return code_version(__name__)


def score_trial(model_dir: Path, data: TrainingData, *, device: str, num_threads: int, cache_dir: Path) -> TrialScores:
    """Score a trained model on the validation split of its data, and keep its cosines for the champion rule."""
    scored = score_model(model_dir, data, split=DECIDING_SPLIT, device=device, num_threads=num_threads)
    keep_row_scores(cache_dir, model_dir, scored)
    baselines = baseline_scores(
        scored.targets, fingerprint=data.sequences.metadata.fingerprint, split=DECIDING_SPLIT, cache_dir=cache_dir
    )
    best = best_baseline(baselines)
    own, base = scored.scores.closeness.cosine, baselines[best].scores.closeness.cosine
    articles = scored.targets.scored.articles
    sums, counts = article_sums(own.astype(np.float64) - base, articles)
    means = scored.scores.means()
    retrieval = means.retrieval[EARLIER_ROWS]
    return TrialScores(
        mode=scored.info.mode,
        num_params=scored.info.num_params,
        cosine=means.cosine,
        best_baseline=best,
        gain=paired_gain(own, base, articles),
        mrr=retrieval.mrr,
        r_at_10=retrieval.r_at_10,
        exclusion=EARLIER_ROWS,
        latency_ms=prediction_latency(scored, num_threads).p50,
        training_seconds=scored.info.training_seconds,
        best_epoch=scored.info.best_epoch,
        cosine_sums=tuple(article_sums(own, articles)[0].tolist()),
        gain_sums=tuple(sums.tolist()),
        target_counts=tuple(counts.astype(int).tolist()),
        scored_by=scoring_version(),
    )


@functools.cache
def _adapter() -> TypeAdapter[Outcome]:
    return TypeAdapter(Outcome)
