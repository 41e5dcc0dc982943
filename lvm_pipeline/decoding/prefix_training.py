"""Train the prefix decoder on the vectors and texts of train concepts.

The same seed, data and number of steps give the same weights on a machine. A time limit ends a training earlier; the
learning rate then follows the time.

Shapes: N = concepts, D = vector width, B = texts in a batch, M = tokens.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lvm_pipeline.decoding._options import checked
from lvm_pipeline.decoding._tokens import TextTokens, train_tokenizer
from lvm_pipeline.errors import LvmError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lvm_pipeline.decoding._lm_model import LmModel
    from lvm_pipeline.decoding._prefix_model import PrefixModel
    from lvm_pipeline.decoding.lm import LmOptions

LEAST_TEXTS = 8
BETAS = (0.9, 0.98)
LARGEST_GRADIENT = 1.0
WARMUP_FRACTION, FINAL_FRACTION = 0.05, 0.05
BATCHES_SORTED = 64  # batches whose texts are sorted by length together, so that a batch has little padding
SMALLEST_DEVIATION = 1e-6
LOSS_STEPS = 50  # last steps; the reported loss is their mean

OnStep = Callable[[int, int, float], None]  # steps done, steps in all, loss


@dataclass(frozen=True, kw_only=True)
class PrefixOptions:
    """How a prefix decoder is trained."""

    steps: Annotated[int, Field(ge=1)] = 1500  # optimiser steps
    # time limit; None: no limit. With a limit, weights depend on the speed of the machine
    seconds: Annotated[float, Field(gt=0)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 16  # texts in a step
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3  # peak learning rate
    # standard deviation of the noise added to the vectors, relative to their own mean standard deviation
    noise: Annotated[float, Field(ge=0)] = 0.0
    vocabulary_size: Annotated[int, Field(ge=257)] = 4096  # tokens of the tokenizer, at most
    hidden_dim: Annotated[int, Field(ge=4, multiple_of=4)] = 192  # hidden width
    num_layers: Annotated[int, Field(ge=1)] = 3  # number of layers
    seed: int = 0  # of the weights, batches and noise


@dataclass(frozen=True, kw_only=True)
class TrainedPrefix:
    """Result of a training: model, tokenizer, steps done, seconds, and the mean loss per token of the last steps."""

    model: "PrefixModel | LmModel"
    tokens: TextTokens
    num_steps: int
    seconds: float
    loss: float
    language_model: dict[str, str] | None = None  # folder and fingerprint of the frozen language model, if any


def train_prefix(
    vectors: NDArray[np.float32],
    texts: Sequence[str],
    options: PrefixOptions,
    *,
    device: str = "cpu",
    num_threads: int = 1,
    progress: OnStep | None = None,
) -> TrainedPrefix:
    """Train a tokenizer on texts of train concepts and a model to write each text from its vector, (N, D).

    The returned model is in evaluation mode, its weights take no gradient. `progress` is called after every step.

    Raises:
        LvmError: If an option cannot be used, or there are too few texts.
    """
    import torch

    from lvm_pipeline.architectures._threads import torch_threads
    from lvm_pipeline.decoding._prefix_model import PrefixConfig, PrefixModel

    options = checked(options)
    if len(texts) < LEAST_TEXTS:
        raise LvmError(f"A text decoder needs at least {LEAST_TEXTS} train concepts, got {len(texts)}; load more.")
    tokens = train_tokenizer(texts, vocabulary_size=options.vocabulary_size)
    config = PrefixConfig(
        vector_dim=vectors.shape[1],
        vocabulary_size=tokens.size,
        hidden_dim=options.hidden_dim,
        num_layers=options.num_layers,
    )
    with torch_threads(num_threads):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            model = PrefixModel(config)
        standardise(model, vectors)
        lines = tokens.encode(texts, max_tokens=config.max_tokens)
        counts = np.bincount([token for line in lines for token in line], minlength=tokens.size) + 1.0
        model.bias.data.copy_(torch.from_numpy(np.log(counts / counts.sum())))
        steps, seconds, loss = fit(model.to(device), vectors, lines, options, progress)
    model.eval().requires_grad_(False)
    return TrainedPrefix(model=model.cpu(), tokens=tokens, num_steps=steps, seconds=seconds, loss=loss)


def standardise(model: "PrefixModel | LmModel", vectors: NDArray[np.float32]) -> None:
    """Set mean and scale of the model's inputs to those of the vectors, (N, D)."""
    import torch

    model.mean.copy_(torch.from_numpy(vectors.mean(axis=0)))
    model.scale.fill_(1 / max(float(np.sqrt(vectors.var(axis=0).mean())), SMALLEST_DEVIATION))


def fit(
    model: "PrefixModel | LmModel",
    vectors: NDArray[np.float32],
    lines: Sequence[Sequence[int]],
    options: "PrefixOptions | LmOptions",
    progress: OnStep | None,
) -> tuple[int, float, float]:
    """Train the model; return steps, seconds and the mean loss of the last steps."""
    import torch

    trained = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=options.learning_rate, betas=BETAS, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(options.seed)
    device = model.mean.device
    lengths = np.array([len(line) for line in lines])
    batches = _batches(lengths, options)
    start, losses, step = time.monotonic(), [], 0
    model.train()
    while step < options.steps:
        elapsed = time.monotonic() - start
        done = max((step + 1) / options.steps, 0 if options.seconds is None else min(1, elapsed / options.seconds))
        if options.seconds is not None and elapsed >= options.seconds and step:
            break
        chosen = next(batches)
        inputs = _with_noise(torch.from_numpy(vectors[chosen]), model, options.noise, generator)
        targets = padded([lines[index] for index in chosen])
        loss = _step(model, optimiser, inputs.to(device), targets.to(device), options.learning_rate * _share(done))
        losses.append(loss)
        step += 1
        if progress is not None:
            progress(step, options.steps, loss)
    return step, time.monotonic() - start, float(np.mean(losses[-LOSS_STEPS:]))


def _step(
    model: "PrefixModel | LmModel",
    optimiser: "torch.optim.Optimizer",
    vectors: "Tensor",
    tokens: "Tensor",
    learning_rate: float,
) -> float:
    import torch

    from lvm_pipeline.decoding._prefix_model import IGNORED

    for group in optimiser.param_groups:
        group["lr"] = learning_rate
    loss = model.losses(vectors, tokens).sum() / (tokens != IGNORED).sum()
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
    optimiser.step()
    found = float(loss.detach())
    if not math.isfinite(found):
        raise LvmError("The training of the text decoder diverged; use a lower learning rate.")
    return found


def _share(done: float) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine."""
    if done < WARMUP_FRACTION:
        return done / WARMUP_FRACTION
    through = (done - WARMUP_FRACTION) / (1 - WARMUP_FRACTION)
    return FINAL_FRACTION + (1 - FINAL_FRACTION) * 0.5 * (1 + math.cos(math.pi * through))


def _with_noise(
    vectors: "Tensor", model: "PrefixModel | LmModel", noise: float, generator: "torch.Generator"
) -> "Tensor":
    """Add noise in proportion to the spread of the vectors."""
    import torch

    if not noise:
        return vectors
    return vectors + noise * torch.randn(vectors.shape, generator=generator) / model.scale.cpu()


def _batches(lengths: NDArray[np.int64], options: "PrefixOptions | LmOptions") -> Iterator[NDArray[np.int64]]:
    """Yield indices of texts of similar length, epoch after epoch."""
    rng = np.random.default_rng(options.seed)
    size = min(options.batch_size, len(lengths))
    while True:
        order = rng.permutation(len(lengths))
        found = []
        for begin in range(0, len(order), size * BATCHES_SORTED):
            group = order[begin : begin + size * BATCHES_SORTED]
            group = group[np.argsort(lengths[group], kind="stable")]
            found += [group[i : i + size] for i in range(0, len(group), size)]
        for index in rng.permutation(len(found)):
            yield found[index]


def padded(lines: Sequence[Sequence[int]]) -> "Tensor":
    """Return lines of tokens as one tensor, `IGNORED` after the end of each, (B, M)."""
    import torch

    from lvm_pipeline.decoding._prefix_model import IGNORED

    table = torch.full((len(lines), max(map(len, lines))), IGNORED)
    for index, line in enumerate(lines):
        table[index, : len(line)] = torch.tensor(line)
    return table
