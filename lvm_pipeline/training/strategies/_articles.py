"""Articles behind spans.

Shapes: A = articles, R = spans.
"""

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.training.data import Spans, TrainingData


def articles_of(spans: Spans, data: TrainingData) -> NDArray[np.int64]:
    """Return the index of the article that each span begins in, (R,)."""
    return np.searchsorted(data.articles.first_rows, spans.first_rows, side="right") - 1
