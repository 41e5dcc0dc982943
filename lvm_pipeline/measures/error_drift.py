"""Does a model predict new articles as well as those it was validated on? The next concept is its own label.

Shapes: S = targets.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.findings import Finding, Severity, invariant
from lvm_pipeline.measures.uncertainty import FEWEST_ARTICLES, article_difference
from lvm_pipeline.words import counted

MIN_ARTICLES, MIN_TARGETS = 10, 100  # at least as many new ones; fewer cannot be distinguished from chance
LEVEL = 0.99
MIN_DROP = 0.01  # of the cosine; smaller ones are no reason to act
MIN_LOST_GAIN = 0.5  # share of the gain over the linear forecast


@dataclass(frozen=True, kw_only=True)
class Errors:
    """What a model and the linear forecast scored on some targets."""

    cosine: NDArray[np.float32]  # of the model, (S,)
    forecast: NDArray[np.float32]  # of the linear forecast that was fitted on the model's train articles, (S,)
    articles: NDArray[np.int64]  # article of each target, (S,)

    @property
    def num_articles(self) -> int:
        return len(np.unique(self.articles))

    @property
    def gain(self) -> NDArray[np.float32]:
        return self.cosine - self.forecast


@invariant(
    severity=Severity.WARNING,
    remedy="Look at the new articles: other text, another chunking, damaged vectors? If they are what you want to "
    "predict, retrain (LVM_RETRAIN_ON=error does it when this fails).",
)
def champion_predicts_as_before(before: Errors, after: Errors) -> Finding:
    """The champion predicts new articles as well as those it was validated on.

    Its cosine and its gain over the linear forecast are compared with those on its validation articles, by a bootstrap
    over articles. It fails if the cosine is lower by 0.01 or more, or if half of the gain is gone.
    """
    if after.num_articles < MIN_ARTICLES or len(after.cosine) < MIN_TARGETS:
        return champion_predicts_as_before.not_checked(
            f"{counted(after.num_articles, 'new article')} with {counted(len(after.cosine), 'target')} "
            "are too few to tell"
        )
    if before.num_articles < FEWEST_ARTICLES:
        return champion_predicts_as_before.not_checked(
            f"{before.num_articles} validation article is too few to compare with"
        )
    figures = {
        name: (float(np.mean(getattr(before, name))), float(np.mean(getattr(after, name))))
        for name in ("cosine", "gain", "forecast")
    }
    changes = {
        name: article_difference(
            getattr(after, name), after.articles, getattr(before, name), before.articles, level=LEVEL
        )
        for name in ("cosine", "gain")
    }
    least = {"cosine": MIN_DROP, "gain": MIN_LOST_GAIN * max(figures["gain"][0], 0)}
    lost = [name for name, change in changes.items() if (change.high or 0) < 0 and -change.mean >= least[name] > 0]
    details = {
        **{f"{name}_before": values[0] for name, values in figures.items()},
        **{f"{name}_now": values[1] for name, values in figures.items()},
        **{f"{name}_change_{end}": getattr(each, end) for name, each in changes.items() for end in ("low", "high")},
        "num_articles": after.num_articles,
        "num_targets": len(after.cosine),
    }
    sentences = [
        f"{words} {figures[name][1]:{form}} on {counted(after.num_articles, 'new article')}, "
        f"{figures[name][0]:{form}} on its "
        f"{counted(before.num_articles, 'validation article')} (change {changes[name].mean:+.4f}, "
        f"{100 * LEVEL:g} % interval [{changes[name].low:+.4f}, {changes[name].high:+.4f}])"
        for name, words, form in (("cosine", "cosine", ".4f"), ("gain", "gain over the linear forecast", "+.4f"))
    ]
    if lost:
        sentences.append(_about_the_articles(*figures["forecast"]))
    return champion_predicts_as_before.finding(
        passed=not lost,
        message="; ".join(sentences),
        observed=figures["cosine"][1],
        allowed=figures["cosine"][0] - MIN_DROP,
        details=details,
    )


def _about_the_articles(before: float, now: float) -> str:
    """Say what the cosine of the linear forecast, on the same articles, says about them."""
    went = f"the linear forecast went from {before:.4f} to {now:.4f}, so the articles are"
    if now - before < -MIN_DROP / 2:
        return f"{went} harder"
    return f"{went} {'hardly' if now < before else 'not'} harder and the model is worse on them"
