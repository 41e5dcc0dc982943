"""Training objectives, scaled so that an uninformed prediction has a loss of about one.

Unscaled, a mean squared error of unit vectors is about 0.001 and would vanish beside a contrastive loss of 1 to 7. So
every term is divided by its value for an uninformed prediction. In a sum, each term is also divided by its value at the
start of the training, so that weights are comparable.

Shapes: B = batch, T = context, D = vector width, n = positions that count.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._row_padding import PaddedLinears
from lvm_pipeline.architectures._units import cosines
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.batches import Batch

Term = Callable[[Tensor, Tensor], Tensor]
Objective = Callable[[Tensor, Batch], Tensor]  # of predictions (n, D) and their batch

TEMPERATURE = 0.1  # of the contrastive term: cosines are divided by it
SMALLEST_SCALE = 0.01  # of a term that is almost zero from the start


def cosine_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - mean cosine of (n, D) against (n, D)."""
    return 1 - cosines(predictions, targets).mean()


def relative_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the squared error of (n, D) against (n, D) as a share of the targets' squares."""
    return (predictions - targets).square().sum() / targets.square().sum()


def contrastive_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return InfoNCE of the predictions (n, D) among the n targets, divided by log n.

    The loss of https://arxiv.org/abs/1807.03748 with cosine / temperature as score; log n is that of a uniform guess.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        found, wanted = F.normalize(predictions, dim=-1), F.normalize(targets, dim=-1)
        scores = found @ wanted.T / TEMPERATURE
        own = torch.arange(len(scores), device=scores.device)
        guessing = torch.log(torch.tensor(float(max(2, len(scores))), device=scores.device, dtype=scores.dtype))
        return F.cross_entropy(scores, own) / guessing


OBJECTIVES: Mapping[str, Term] = {"cosine": cosine_loss, "mse": relative_squared_error, "infonce": contrastive_loss}


@dataclass(frozen=True, kw_only=True)
class WeightedTerm:
    """One term of a sum; it is divided by `scale`, its value at the start of the training."""

    name: str
    weight: float
    scale: float = 1.0

    def __call__(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return self.weight / self.scale * OBJECTIVES[self.name](predictions, targets)


@dataclass(frozen=True)
class SumOfTerms:
    """An objective that is a weighted sum of terms."""

    terms: tuple[WeightedTerm, ...]

    def __call__(self, predictions: Tensor, batch: Batch) -> Tensor:
        """Return what training minimises, a scalar, from the predictions (n, D) where the batch has targets."""
        targets = batch.chosen_targets().to(predictions.dtype)
        return torch.stack([term(predictions, targets) for term in self.terms]).sum()

    @property
    def scales(self) -> dict[str, float]:
        return {term.name: term.scale for term in self.terms}

    @property
    def is_mixed(self) -> bool:
        """Whether there is more than one term, so that one can dominate."""
        return len(self.terms) > 1

    def scaled_by(self, values: Mapping[str, float]) -> "SumOfTerms":
        """Return the same sum with each term divided by its value at the start; a single term stays as it is."""
        if not self.is_mixed:
            return self
        return SumOfTerms(tuple(replace(term, scale=max(SMALLEST_SCALE, values[term.name])) for term in self.terms))

    def shares(self, predictions: Tensor, targets: Tensor, *, is_unit: bool) -> dict[str, "TermShare"]:
        """Return each term's share of the loss and of the gradient, for detached predictions (n, D) and targets (n, D).

        `is_unit`: the model normalises its predictions, so that the gradient along them has no effect.
        """
        values, pulls = {}, {}
        for term in self.terms:
            with torch.enable_grad():
                leaf = predictions.detach().clone().requires_grad_()
                value = term(F.normalize(leaf, dim=-1) if is_unit else leaf, targets)
                (gradient,) = torch.autograd.grad(value, leaf)
            values[term.name], pulls[term.name] = float(value.detach()), float(gradient.norm())
        return {name: TermShare(of_value=_share(values, name), of_gradient=_share(pulls, name)) for name in values}


def training_loss(model: LatentVectorModel, batch: Batch, objective: Objective) -> Tensor:
    """Run the model once on a batch and return what training minimises, a scalar.

    The objective is applied to the predictions that have a target; for a model that learns by denoising, to each draw.
    """
    if not model.learns_by_denoising:
        return objective(model(batch.contexts, batch.condition, batch.is_target), batch)
    draws, loss = model(batch.contexts, batch.condition, batch.is_target, batch.targets)
    return loss + torch.stack([objective(draw, batch) for draw in draws]).mean()


class TrainingLoss(nn.Module):
    """`training_loss` as a module, which DDP can wrap.

    A strategy's terms use heads of the model outside its forward pass. DDP only follows what happens inside the forward
    pass of the module that it wraps, so that module computes the whole loss.
    """

    def __init__(self, model: LatentVectorModel):
        super().__init__()
        self.model = model
        self.padded = PaddedLinears(model)

    def forward(self, batch: Batch, objective: Objective) -> Tensor:
        with self.padded:
            return training_loss(self.model, batch, objective)


@dataclass(frozen=True, kw_only=True)
class TermShare:
    """One term's share of the loss, and of the sum of the gradient norms, each from 0 to 1."""

    of_value: float
    of_gradient: float


def _share(values: Mapping[str, float], name: str) -> float:
    total = sum(values.values())
    return values[name] / total if total > 0 else 1 / len(values)


def objective_named(text: str) -> SumOfTerms:
    """Make the objective from a sum of terms, each with an optional weight: `cosine`, `cosine + 0.1 mse`.

    Raises:
        LvmError: If the text is no such sum; the message lists the terms.
    """
    terms = tuple(_term(part, text) for part in text.split("+"))
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise LvmError(f"The objective {text!r} names a term twice; name each once, with one weight.")
    return SumOfTerms(terms)


def _term(part: str, text: str) -> WeightedTerm:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)?\s*\*?\s*([a-z_]+)\s*", part)
    if match is None or match[2] not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise LvmError(f"The objective {text!r} is no sum of {known}; write for example `cosine + 0.1 mse`.")
    return WeightedTerm(name=match[2], weight=float(match[1] or 1))
