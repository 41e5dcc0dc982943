"""Fits that depend on the table and not on the model: made in parallel and cached before the report reads them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline.evaluation.baseline_scores import are_kept
from lvm_pipeline.evaluation.kept_fits import kept_forecast, kept_ridges
from lvm_pipeline.evaluation.ranking_scores import are_ranked, ranked_baselines
from lvm_pipeline.evaluation.standing_scores import centroids_of
from lvm_pipeline.measures.baselines import Baseline
from lvm_pipeline.measures.ranking import fit_ranking_baselines
from lvm_pipeline.measures.threads import in_threads

if TYPE_CHECKING:
    from lvm_pipeline.evaluation.scoring import ScoredModel


def make_fits(scored: "ScoredModel", *, cache_dir: Path | None, seed: int) -> None:
    """Make the fits that `cache_dir` does not hold yet; with None, each is made where it is read."""
    if cache_dir is None:
        return
    targets, fingerprint = scored.targets, scored.data.sequences.metadata.fingerprint
    ranking: list[Baseline] = []
    fits: list[Callable[[], Any]] = []  # the longest first
    if not are_ranked(scored, cache_dir, seed=seed):
        fits.append(lambda: ranking.extend(fit_ranking_baselines(targets, seed=seed)))
    if not are_kept(targets, fingerprint=fingerprint, split=scored.split, cache_dir=cache_dir):
        fits += [
            partial(kept, targets, fingerprint=fingerprint, cache_dir=cache_dir)
            for kept in (kept_ridges, kept_forecast)
        ]
    fits.append(partial(centroids_of, scored, cache_dir, seed=seed))
    targets.prepare_pool()
    in_threads(lambda fit: fit(), fits)
    # afterwards, since each is ranked in all threads: beside the fits, the last ranks would keep one thread waiting
    ranked_baselines(scored, cache_dir, seed=seed, fitted=ranking)
