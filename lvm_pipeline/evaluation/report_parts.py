"""Sections of a report that are measured with PyTorch; pages and lists read these records without it."""

from dataclasses import dataclass

from lvm_pipeline.measures.uncertainty import Interval

# curves of the roll-out
MODEL, LINEAR = "model", "linear_forecast"
NEAREST, TRUTH, HELD = "model, nearest concept fed back", "model, reading the truth", "last concept, held"


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one prediction, median and 95th percentile, and how they were measured."""

    p50: float
    p95: float
    num_timed: int
    batch_size: int
    context_length: int
    device: str
    num_threads: int


@dataclass(frozen=True, kw_only=True)
class Control:
    """Mean cosine with another context, and how much lower it is than with the model's own."""

    cosine: float
    loss: Interval


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Scores on a sample of the targets with `context_length` concepts before them.

    `order_shuffled` is None if that is one concept, `wrong_context` if these targets come from one article.
    """

    num_targets: int
    context_length: int
    cosine: float
    order_shuffled: Control | None
    wrong_context: Control | None


@dataclass(frozen=True, kw_only=True)
class MemberScores:
    trial_id: str  # its trial
    mode: str  # what it reads: `windows` or `articles`
    weight: float  # its weight in the mean
    cosine: float  # its own mean cosine on the report's targets
    gain: Interval  # mean difference in cosine, ensemble minus member, on the same targets


@dataclass(frozen=True, kw_only=True)
class EnsembleScores:
    """The members of an ensemble, best first, and how their weights were chosen."""

    weights_chosen: str
    members: tuple[MemberScores, ...]


@dataclass(frozen=True, kw_only=True)
class ResolutionScores:
    """Mean cosines in the leading principal directions of the train rows."""

    width: int  # number of directions
    cosine: float  # of the head of this width; of the full prediction at the full width
    full_cosine: float  # of the full prediction in the same directions


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The model trained on a part of the train articles."""

    fraction: float  # of the train articles
    num_articles: int  # train articles of this part
    cosine: Interval  # mean cosine on the validation split
    linear_cosine: float  # of the linear forecast fitted on the same articles
    gain: Interval  # model minus linear forecast


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """The points of one model, by rising fraction."""

    model_fingerprint: str
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, kw_only=True)
class RolloutCurve:
    """Mean cosine and mean reciprocal rank of the true concept at each step, over `num_articles` articles."""

    name: str
    num_articles: int
    cosine: tuple[float, ...]
    mrr: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RolloutScores:
    """Scores when the model continues from its own predictions."""

    steps: tuple[int, ...]  # 1 to H; step 1 is the usual prediction
    num_articles: int  # sampled articles, one start each
    seed: int  # of the sample
    curves: tuple[RolloutCurve, ...]  # the model first
    # at each step, cosine of the model minus that of the linear forecast, with its interval
    gains: tuple[Interval, ...]

    @property
    def by_name(self) -> dict[str, RolloutCurve]:
        """The curves by name."""
        return {curve.name: curve for curve in self.curves}
