"""The measurements after every epoch: scores on the validation split, and each term's share of the objective.

Shapes: S = targets, D = vector width.
"""

from contextlib import nullcontext
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.errors import LvmError
from lvm_pipeline.measures.metrics import spread_of
from lvm_pipeline.training.assembly import Assembly
from lvm_pipeline.training.balance import share_metrics
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.objectives import SumOfTerms
from lvm_pipeline.training.phases import Phase
from lvm_pipeline.training.predictions import predict_spans, selection_metric
from lvm_pipeline.training.ranks import Ranks
from lvm_pipeline.training.spans import Spans


class Validation:
    """The validation split of a training, with its targets."""

    def __init__(
        self,
        config: TrainingConfig,
        data: TrainingData,
        made: Assembly,
        ranks: Ranks,
    ):
        self.metric = selection_metric(config.selection_metric)
        self.metric_name = f"validation_{config.selection_metric}"
        self.made, self.measures, self.ranks = made, made.staging.measures, ranks
        self.spans = data.scored_spans("validation", mode=config.mode)
        self.targets = np.asarray(data.vectors[self.spans.target_rows()])
        self.train_mean = data.train_sample().mean(axis=0)
        self.scores = {name: selection_metric(name) for name in sorted({"cosine", "mse", config.selection_metric})}

    def metrics(self, model: LatentVectorModel, objective: SumOfTerms, phase: Phase) -> dict[str, float]:
        """Predict the split and return every metric by name. Raises LvmError if a prediction is not finite."""
        predictions = self._predictions(model)
        if not np.isfinite(predictions).all():
            raise LvmError(f"predictions are not finite; try a smaller learning rate than {phase.learning_rate}")
        targets, mean = self.targets, self.train_mean
        scores = {f"validation_{name}": each.measure(predictions, targets, mean) for name, each in self.scores.items()}
        shares = share_metrics(
            objective, predictions, targets, batch_size=phase.batch_size, is_unit=model.config.unit_length
        )
        further = {name: value for measure in self.measures for name, value in measure(predictions, targets).items()}
        return {**scores, **asdict(spread_of(predictions, targets, mean)), **shares, **further}

    def score(self, model: LatentVectorModel) -> float:
        """Return the selection metric alone."""
        predictions = self._predictions(model)
        return self.metric.measure(predictions, self.targets, self.train_mean)

    def _predictions(self, model: LatentVectorModel) -> NDArray[np.float32]:
        """Predict every target of the split once, (S, D); each rank predicts a part."""
        vectors, condition = self.made.vectors, self.made.condition
        in_threads = not self.ranks.are_sharding  # FSDP's hooks are called by every layer and expect one thread

        def predict(spans: Spans) -> NDArray[np.float32]:
            return predict_spans(model, vectors, spans, condition=condition, in_threads=in_threads)

        idle = model.without_idle_mixers() if isinstance(model, Backbone) else nullcontext()
        with self.ranks.whole(model), idle:
            return self.ranks.predicted(predict, self.spans, width=vectors.shape[1])
