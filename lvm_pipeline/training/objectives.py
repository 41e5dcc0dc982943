"""What training minimises, each scaled so that a prediction that knows nothing costs about one.

Unscaled, a mean squared error of unit vectors is about 0.001 and would vanish beside a contrastive
loss of 1 to 7 (FIELD_NOTES' fault F14), so weights in a mix mean what they say.

Shapes: B = batch, T = context, D = vector width, n = positions that count.
"""

import re
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lvm_pipeline.architectures._contract import Objective
from lvm_pipeline.errors import LvmError

Term = Callable[[Tensor, Tensor], Tensor]


def cosine_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - mean cosine of (n, D) against (n, D)."""
    return 1 - F.cosine_similarity(predictions, targets, dim=-1).mean()


def relative_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the squared error of (n, D) against (n, D) as a share of the targets' squares."""
    return (predictions - targets).square().sum() / targets.square().sum()


OBJECTIVES: Mapping[str, Term] = {"cosine": cosine_loss, "mse": relative_squared_error}


def objective_named(text: str) -> Objective:
    """Make the objective from its text.

    Args:
        text: A sum of terms, each with an optional weight before it: `cosine`, `cosine + 0.1 mse`.

    Returns:
        A function of predictions (B, T, D), targets (B, T, D) and which positions count (B, T).

    Raises:
        LvmError: If the text is no such sum; the message lists the terms.
    """
    terms = [_term(part, text) for part in text.split("+")]

    def objective(predictions: Tensor, targets: Tensor, is_target: Tensor) -> Tensor:
        chosen, wanted = predictions[is_target], targets[is_target].to(predictions.dtype)
        return torch.stack([weight * term(chosen, wanted) for weight, term in terms]).sum()

    return objective


def _term(part: str, text: str) -> tuple[float, Term]:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)?\s*\*?\s*([a-z_]+)\s*", part)
    if match is None or match[2] not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise LvmError(f"The objective {text!r} is no sum of {known}; write for example `cosine + 0.1 mse`.")
    return float(match[1] or 1), OBJECTIVES[match[2]]
