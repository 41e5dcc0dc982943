"""A learning curve by data: the same training on parts of the train articles, scored on the same targets.

Each point is compared with the linear forecast fitted on the same articles. The parts are nested: a larger part
contains every article of a smaller one.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.report_parts import CurvePoint, LearningCurve
from lvm_pipeline.evaluation.scoring import score_model
from lvm_pipeline.evaluation.stored import read_section
from lvm_pipeline.files import write_json
from lvm_pipeline.measures.baselines import fitted_forecast
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.targets import Targets
from lvm_pipeline.measures.uncertainty import article_interval, paired_gain
from lvm_pipeline.training.config import training_config
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.trained_model import read_trained_model_info, weights_fingerprint
from lvm_pipeline.words import counted

FRACTIONS = (0.25, 0.5, 1.0)
CURVE_FILE = "learning_curve.json"
LEFT_OUT = "left_out"  # the split of train articles that a part does not have

OnPoint = Callable[[int, int], None]  # points done, points in all


def learning_curve(
    model_dir: Path, data: TrainingData, *, work_dir: Path, device: str, progress: OnPoint | None = None
) -> LearningCurve:
    """Train a model's configuration on 25 and 50 % of the train articles and score it beside the model itself.

    A smaller training of the same model that is in `work_dir` is not repeated; `progress` is called after every point.

    Raises:
        LvmError: If the model is an ensemble or was trained on other data, or there are fewer than 4 train articles.
    """
    info = read_trained_model_info(model_dir)
    if info.members or not info.training:
        raise LvmError(f"The model in {model_dir} was not trained by one trial; name a trial that is no ensemble.")
    config = training_config({**info.training, "device": device})
    points = []
    for fraction in reversed(FRACTIONS):  # the model itself first: it is refused if it was trained on other data
        part, part_dir = part_of(data, fraction, seed=config.seed), model_dir
        if fraction < 1:
            part_dir = work_dir / f"{fraction:g}-{weights_fingerprint(model_dir)[:12]}"
            if not part_dir.is_dir():
                train(config, part, output_dir=part_dir)
        points.append(_point(part_dir, part, fraction, device=device))
        if progress is not None:
            progress(len(points), len(FRACTIONS))
    return LearningCurve(model_fingerprint=weights_fingerprint(model_dir), points=tuple(reversed(points)))


def part_of(data: TrainingData, fraction: float, *, seed: int) -> TrainingData:
    """Return the data with a part of the train articles; the other splits stay.

    Raises:
        LvmError: If a part would have no train article.
    """
    train_articles = np.flatnonzero(data.article_splits == "train")
    num = int(fraction * len(train_articles))
    if not num:
        raise LvmError(
            f"{counted(len(train_articles), 'train article is', 'train articles are')} "
            "too few for a learning curve; load more articles."
        )
    left_out = np.random.default_rng(seed).permutation(train_articles)[num:]
    splits = data.article_splits.astype(object)
    splits[left_out] = LEFT_OUT
    is_left_out = np.isin(data.articles_of(data.sequences.target_rows), left_out)
    sequence_splits = np.where(is_left_out, LEFT_OUT, data.sequences.splits.astype(object))
    return replace(
        data, article_splits=splits.astype(str), sequences=replace(data.sequences, splits=sequence_splits.astype(str))
    )


def _point(model_dir: Path, data: TrainingData, fraction: float, *, device: str) -> CurvePoint:
    scored = score_model(model_dir, data, device=device)
    targets = scored.targets
    base = _linear_cosines(targets)
    articles = targets.scored.articles
    return CurvePoint(
        fraction=fraction,
        num_articles=int((data.article_splits == "train").sum()),
        cosine=article_interval(scored.scores.closeness.cosine, articles),
        linear_cosine=float(base.mean()),
        gain=paired_gain(scored.scores.closeness.cosine, base, articles),
    )


def _linear_cosines(targets: Targets) -> np.ndarray:
    scored = targets.scored
    predictions = fitted_forecast(targets).predict(targets.vectors, scored.first_rows, scored.target_rows)
    return cosines(predictions, np.asarray(targets.vectors[scored.target_rows], np.float32))


def write_curve(curve: LearningCurve, folder: Path) -> None:
    write_json(folder / CURVE_FILE, asdict(curve))


def read_curve(folder: Path, *, fingerprint: str) -> LearningCurve | None:
    """Read the curve of a model from its trial's folder; None if there is none, or it is another model's."""
    return read_section(LearningCurve, folder / CURVE_FILE, fingerprint=fingerprint)
