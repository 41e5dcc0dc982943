"""Does the model use its context, and the order in it? Two controls on a sample of targets.

`order_shuffled` shuffles the context: if the cosine stays the same, the model does not use the order. `wrong_context`
takes the context of a target in another article: if the cosine stays the same, the model does not use its context.

Shapes: C = sampled targets, T = context in concepts, D = vector width.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from lvm_pipeline.architectures._contract import LatentVectorModel, at_last_position
from lvm_pipeline.evaluation.report_parts import Control, Controls
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.targets import Targets
from lvm_pipeline.measures.uncertainty import paired_gain

NUM_SAMPLED = 512
LONG_CONTEXT = 16  # of a model that reads articles
CONTEXTS_IN_A_BATCH = 128


def control_scores(
    model: LatentVectorModel,
    targets: Targets,
    *,
    device: str,
    condition: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> Controls:
    """Score the model with its own context, the same concepts shuffled, and the context of another article."""
    rng = np.random.default_rng(seed)
    context_length = usual_context_length(model, targets)
    chosen = _sample(targets, context_length, rng)
    rows = targets.scored.target_rows[chosen]
    articles = targets.scored.articles[chosen]
    lags = np.arange(-context_length, 0)
    own_rows = rows[:, None] + lags
    shuffled = rng.permuted(own_rows, axis=1)
    wanted = np.asarray(targets.vectors[rows], np.float32)

    def cosine_with(context_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return cosines(_predictions(model, targets.vectors, context_rows, device, condition), wanted)

    own_cosines = cosine_with(own_rows)

    def control(context_rows: NDArray[np.int64]) -> Control:
        found = cosine_with(context_rows)
        return Control(cosine=float(found.mean()), loss=paired_gain(own_cosines, found, articles, seed=seed))

    other_rows = _of_other_articles(own_rows, articles, rng)
    return Controls(
        num_targets=len(rows),
        context_length=context_length,
        cosine=float(own_cosines.mean()),
        order_shuffled=control(shuffled) if context_length > 1 else None,
        wrong_context=None if other_rows is None else control(other_rows),
    )


def usual_context_length(model: LatentVectorModel, targets: Targets) -> int:
    """Return the context length of the controls and of the latency, at most what the model reads.

    That is T for windows; for articles, 16 concepts or the median length of the contexts, if that is less.
    """
    if targets.context_mode == "windows":
        usual = targets.context_length
    else:
        before = targets.scored.target_rows - targets.scored.first_rows
        usual = min(LONG_CONTEXT, int(np.median(before)))
    return min(usual, model.max_context or usual)


def _sample(targets: Targets, context_length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    before = targets.scored.target_rows - targets.scored.first_rows
    long_enough = np.flatnonzero(before >= context_length)
    return np.sort(rng.choice(long_enough, min(NUM_SAMPLED, len(long_enough)), replace=False))


def _of_other_articles(
    rows: NDArray[np.int64], articles: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """Give each target the context rows of a target of another article; None if these targets are of one article."""
    if len(np.unique(articles)) < 2:
        return None
    donors = rng.permutation(len(rows))
    while len(same := np.flatnonzero(articles[donors] == articles)):
        donors[same] = rng.integers(0, len(rows), len(same))
    return rows[donors]


@torch.inference_mode()
def _predictions(
    model: LatentVectorModel,
    vectors: NDArray[np.float32],
    context_rows: NDArray[np.int64],
    device: str,
    condition: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    model.eval()
    found = []
    for start in range(0, len(context_rows), CONTEXTS_IN_A_BATCH):
        rows = context_rows[start : start + CONTEXTS_IN_A_BATCH]
        contexts = torch.from_numpy(np.asarray(vectors[rows], np.float32)).to(device)
        beside = None if condition is None else torch.from_numpy(condition[rows]).to(device)
        found.append(model(contexts, beside, at_last_position(contexts)).float().cpu().numpy())
    return np.concatenate(found)
