"""The evaluation report: one model on one split, as a frozen record that its JSON is made from.

Every figure is stored once. Pages, plots, Dagster's metadata and the terminal read this record; what follows from
other figures is a property.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.not_run import NotRun
from lvm_pipeline.evaluation.preference import PreferenceScores
from lvm_pipeline.evaluation.ranking_scores import RankingScores
from lvm_pipeline.evaluation.report_parts import (
    Controls,
    EnsembleScores,
    Latency,
    LearningCurve,
    ResolutionScores,
    RolloutScores,
)
from lvm_pipeline.evaluation.report_version_1 import from_version_1
from lvm_pipeline.evaluation.smoothing import SmoothingScores
from lvm_pipeline.evaluation.standing_scores import StandingScores
from lvm_pipeline.evaluation.stored import adapter_of
from lvm_pipeline.evaluation.text_scores import TextScores
from lvm_pipeline.findings import Finding
from lvm_pipeline.measures.metrics import Spread
from lvm_pipeline.measures.retrieval import Chance, Exclusion, RetrievalScores
from lvm_pipeline.measures.samples import MAX_FITTED_TARGETS
from lvm_pipeline.measures.scores import MeanScores
from lvm_pipeline.measures.targets import ContextMode
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.sequences.schema import Split

REPORT_VERSION = 2
JSON_NAME, HTML_NAME = "report.json", "report.html"


@dataclass(frozen=True, kw_only=True)
class BaselineScores(MeanScores):
    """Mean scores of a baseline, and what the model gains over it."""

    fitted: dict[str, float]  # what was fitted for it on the train articles
    gain: Interval  # mean difference in cosine, model minus baseline, on the same targets


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Targets and articles that were scored, and those that the baselines were fitted on."""

    targets: int
    articles: int
    train_targets: int
    train_articles: int


@dataclass(frozen=True, kw_only=True)
class Pool:
    size: int  # candidates before any are excluded
    fingerprint: str  # hash of rows and vectors; figures of other pools cannot be compared
    exclusion: Exclusion  # rule that excludes exactly the context of this model
    chance: dict[Exclusion, Chance]  # what random ranking scores under each rule
    num_ranked: int | None = None  # targets that were ranked, evenly spaced; None: all, as in earlier versions


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How the model was trained: the provenance stored with its weights."""

    mode: str
    seed: int
    training_seconds: float
    trained_on: str
    selection_metric: str
    score: float  # validation `selection_metric` of the selected checkpoint, as training measured it
    start_score: float  # the same before the first step
    best_epoch: int
    context_weights: dict[str, float]  # decay and article weight that the residual head started from
    model_config: dict[str, JsonValue]  # config of the model
    training_config: dict[str, JsonValue]  # config of the training
    split: dict[str, JsonValue]  # rule, seed and counts of the split
    fingerprints: dict[str, str]
    code_version: str
    packages: dict[str, str]
    history: list[dict[str, int | float | str]]  # metrics of each epoch; epoch 0 is before the first step


@dataclass(frozen=True, kw_only=True)
class ArticleScores:
    """Mean cosine on one article; `label` is the beginning of its text."""

    article_id: str
    label: str
    num_targets: int
    cosine: float
    best_baseline_cosine: float

    @property
    def gain(self) -> float:
        return self.cosine - self.best_baseline_cosine


@dataclass(frozen=True, kw_only=True)
class CosineHistogram:
    """Number of targets between each pair of neighbouring `edges`."""

    edges: tuple[float, ...]
    model: tuple[int, ...]
    best_baseline: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RetrievalCurve:
    """Recall at each `k`, under the pool's exclusion rule."""

    k: tuple[int, ...]
    model: tuple[float, ...]
    baselines: dict[str, tuple[float, ...]]
    chance: tuple[float, ...] | None = None  # of random ranking; None in reports of earlier versions


@dataclass(frozen=True, kw_only=True)
class OtherGains:
    """What the model gains over the best baseline in other measures than the cosine, on the same targets."""

    centred_cosine: Interval
    mrr: dict[Exclusion, Interval]  # reciprocal rank under each rule


@dataclass(frozen=True, kw_only=True)
class EvaluationReport(MeanScores):
    """Scores of one model on one split, beside the baselines on the same targets."""

    report_version: int = REPORT_VERSION
    name: str  # the model, in words
    trial_id: str | None = None  # the trial that trained it; None for models of earlier versions
    architecture: str
    preset: str
    num_params: int
    model_fingerprint: str  # hash of the weights
    fingerprint: str  # of the sequence table
    concepts_fingerprint: str
    is_same_data_as_training: bool  # whether the model was trained on these very tables
    space_id: str
    source: str
    dataset_source: str
    order_warning: str | None  # set if the order of the concepts was not given by the source
    split: Split
    split_rule: str
    context_mode: ContextMode  # what the model reads: `windows` or `articles`
    context_length: int  # context concepts of a window
    is_leaking: bool  # whether train and validation share articles or windows; `leak_reason` says how
    leak_reason: str | None
    counts: Counts
    pool: Pool
    baselines: dict[str, BaselineScores]
    best_baseline: str  # the baseline with the highest mean cosine
    other_gains: OtherGains | None = None  # over that baseline; None in reports of earlier versions
    latency_ms: Latency
    controls: Controls
    spread: Spread
    training: TrainingRecord
    articles: tuple[ArticleScores, ...]
    cosine_histogram: CosineHistogram
    retrieval_curve: RetrievalCurve
    seed: int  # of resampling and controls
    findings: tuple[Finding, ...] = ()  # invariants that this evaluation checked
    # invariants of the concepts and sequences; None if no verification report was available
    data_findings: tuple[Finding, ...] | None = None
    training_findings: tuple[Finding, ...] = ()  # invariants checked after training; empty if they were not stored
    not_checked: tuple[str, ...] = ()  # what this report does not cover, one sentence each
    # scores of decoded predictions, or why they were not decoded; None in reports of earlier versions
    text: TextScores | NotRun | None = None
    preference: PreferenceScores | NotRun | None = None  # preference of raters between texts, or why none were asked
    # decoded predictions rewritten by a language model, or why that was not done
    smoothing: SmoothingScores | NotRun | None = None
    # scores when the model continues from its own predictions; None in reports of earlier versions, and where no
    # article is long enough
    rollout: RolloutScores | None = None
    # what each strategy of the training did with the data, one sentence each
    strategies: dict[str, JsonValue] | None = None
    # the model beside baselines made for ranking; None in reports of earlier versions
    ranking: RankingScores | None = None
    # figures that say what a mean cosine is worth; None in reports of earlier versions
    standing: StandingScores | None = None
    learning_curve: LearningCurve | None = None  # scores by number of train articles, if `lvm learning-curve` was run
    ensemble: EnsembleScores | None = None  # the members of an ensemble with their weights and scores
    resolutions: tuple[ResolutionScores, ...] | None = None  # scores at each width of a model that predicts at several
    # retrieval by the prediction, for a model whose `retrieval` is by its ranking output
    retrieval_of_prediction: dict[Exclusion, RetrievalScores] | None = None

    @property
    def best(self) -> BaselineScores:
        return self.baselines[self.best_baseline]

    @property
    def verdict(self) -> str:
        """One sentence: the cosine, and whether it beats the best baseline."""
        return verdict_in_words(self.cosine, self.gain, self.best_baseline)

    @property
    def samples_in_words(self) -> str:
        """One sentence: what is measured or fitted on a sample of the targets; empty where all are used."""
        used = []
        if self.pool.num_ranked not in (None, self.counts.targets):
            ranked = f"{self.pool.num_ranked:,} targets, evenly spaced, are ranked"
            used.append(f"{ranked}, and clusters, contrastive accuracy and effective rank are theirs")
        if self.counts.train_targets > MAX_FITTED_TARGETS:
            used.append(f"regressions and the linear forecast are fitted on about {MAX_FITTED_TARGETS:,} train targets")
        return f"Samples: {'; '.join(used)}." if used else ""

    @property
    def gain(self) -> Interval:
        return self.best.gain

    @property
    def main_retrieval(self) -> RetrievalScores:
        """Retrieval under the rule that excludes exactly the model's context."""
        return self.retrieval[self.pool.exclusion]

    @property
    def main_chance(self) -> Chance:
        """What random ranking scores under that rule."""
        return self.pool.chance[self.pool.exclusion]

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """Findings of data, training and evaluation, in this order."""
        return (*(self.data_findings or ()), *self.training_findings, *self.findings)

    def as_json(self) -> dict[str, Any]:
        return adapter_of(EvaluationReport).dump_python(self, mode="json")


def report_from_json(values: Any) -> EvaluationReport:
    """Make a report from JSON values of this version or version 1.

    Raises:
        ValueError: If they are not those of a report.
    """
    version = values.get("report_version") if isinstance(values, Mapping) else None
    if version not in (1, REPORT_VERSION):
        raise ValueError(f"the report version is {version}, not {REPORT_VERSION}")
    try:
        return adapter_of(EvaluationReport).validate_python(from_version_1(values) if version == 1 else values)
    except KeyError as error:
        raise ValueError(f"{error} is missing") from None
    except (TypeError, AttributeError) as error:  # only version 1 is taken apart before it is validated
        raise ValueError(f"it is not laid out like a report: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def verdict_in_words(cosine: float, gain: Interval, best_baseline: str) -> str:
    """Return one sentence: the cosine, and whether the gain over the best baseline is real, if that can be said."""
    if gain.low is None or gain.high is None:
        return (
            f"Cosine {cosine:.4f}; gain over the best baseline, {best_baseline}: {gain.mean:+.4f}, without an interval "
            "(one article)."
        )
    beats = "beats" if gain.is_above_zero else "does not beat"
    return (
        f"Cosine {cosine:.4f}; {beats} the best baseline, {best_baseline} "
        f"(gain {gain.mean:+.4f}, 95 % CI {gain.low:+.4f} to {gain.high:+.4f})."
    )


def is_lower(score: float, base_score: float, gain: Interval | None) -> bool:
    """Whether a score is below a baseline's beyond chance; without a gain, whether it is in the four digits shown."""
    return round(score, 4) < round(base_score, 4) if gain is None else gain.is_below_zero


def read_report(path: Path) -> EvaluationReport:
    """Read a report. Raises LvmError if there is none, or it cannot be read."""
    try:
        return report_from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise LvmError(f"There is no report at {path}; make one with `lvm run` or `lvm evaluate`.") from None
    except (ValueError, OSError) as error:
        raise LvmError(f"{path} is not a readable report ({error}); evaluate the model again.") from None
