"""Generate tokens after soft tokens: greedily, by sampling, or by beam search.

Shapes: B = vectors, D = vector width, W = beam width, V = vocabulary.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

REPEATED = 4  # tokens in a run that no text repeats

Line = list[int]
Followers = defaultdict[tuple[int, ...], set[int]]  # tokens that followed a run of tokens in a text


class SoftTokenModel(Protocol):
    """A causal language model that reads a few soft tokens made from a vector before the text."""

    @property
    def end(self) -> int:
        """Token after a text."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest text."""
        ...

    def start(self, vectors: Tensor) -> tuple[Tensor, Any]:
        """Return logits of the first token (B, V) after each vector (B, D), and a state."""
        ...

    def go_on(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one more token of each text (B,) and return the logits of the next (B, V) with the new state."""
        ...

    def chosen(self, state: Any, rows: Tensor) -> Any:
        """Return the state of some rows, which may repeat."""
        ...


def written(model: SoftTokenModel, vectors: Tensor, *, temperature: float, generator: Generator) -> list[Line]:
    """Generate one line for each vector, (B, D): greedily, or by sampling at a temperature above 0."""
    logits, state = model.start(vectors)
    logits[:, model.end] = -torch.inf  # no text is empty
    lines: list[Line] = [[] for _ in vectors]
    followers: list[Followers] = [defaultdict(set) for _ in vectors]
    for _ in range(model.max_tokens):
        for index, (line, known) in enumerate(zip(lines, followers, strict=True)):
            logits[index, list(known[_last(line)])] = -torch.inf
        if temperature:
            weights = (logits / temperature).softmax(dim=-1).cpu()
            tokens = torch.multinomial(weights, 1, generator=generator)[:, 0]
        else:
            tokens = logits.argmax(dim=-1).cpu()
        for line, known, token in zip(lines, followers, tokens.tolist(), strict=True):
            if not line or line[-1] != model.end:
                known[_last(line)].add(token)
                line.append(token)
        if all(line[-1] == model.end for line in lines):
            break
        logits, state = model.go_on(tokens.to(logits.device), state)
    return lines


def beam_written(model: SoftTokenModel, vectors: Tensor, *, width: int) -> list[tuple[float, Line]]:
    """Generate one line for each vector, (B, D), by beam search; return its mean log-likelihood per token and it."""
    num = len(vectors)
    logits, state = model.start(vectors)
    rows = torch.arange(num).repeat_interleave(width)
    logits, state = logits[rows.to(logits.device)], model.chosen(state, rows.to(logits.device))
    sums = torch.full((num, width), -torch.inf)
    sums[:, 0] = 0  # all lines of a beam begin as one
    lines: list[Line] = [[] for _ in rows]
    ended: list[list[tuple[float, Line]]] = [[] for _ in range(num)]
    for _ in range(model.max_tokens):
        likely = logits.float().log_softmax(dim=-1).cpu()
        for index, line in enumerate(lines):
            likely[index, _repeating(line) if line else [model.end]] = -torch.inf  # no text is empty
        totals, indices = (sums.view(-1, 1) + likely).view(num, -1).topk(2 * width, dim=1)
        beams, next_tokens = indices // likely.shape[1], indices % likely.shape[1]
        rows, tokens, sums, lines = _kept(totals, beams, next_tokens, lines, ended, end=model.end)
        if all(len(each) >= width for each in ended):
            break
        rows, tokens = rows.to(logits.device), tokens.to(logits.device)
        logits, state = model.go_on(tokens, model.chosen(state, rows))
    for index, found in enumerate(ended):
        open_lines = zip(sums[index].tolist(), lines[index * width : (index + 1) * width], strict=True)
        found += [] if found else [(total / len(line), line) for total, line in open_lines]
    # A line that has ended goes on until all have: only its first ends count, so that no text depends on the others.
    return [max(found[:width], key=lambda each: each[0]) for found in ended]


def _kept(
    totals: Tensor,
    beams: Tensor,
    next_tokens: Tensor,
    lines: Sequence[Line],
    ended: list[list[tuple[float, Line]]],
    *,
    end: int,
) -> tuple[Tensor, Tensor, Tensor, list[Line]]:
    """Add the best continuations (B, 2 W) that end to `ended`, and select the W best others of each vector.

    Return rows, last tokens, log-likelihoods (B, W) and lines of the selected ones.
    """
    width = totals.shape[1] // 2
    going_on: list[tuple[int, int, float, Line]] = []
    for index, found in enumerate(ended):
        columns = zip(totals[index].tolist(), beams[index].tolist(), next_tokens[index].tolist(), strict=True)
        own = [(index * width + beam, token, total) for total, beam, token in columns]
        found += [
            (total / (1 + len(lines[row])), [*lines[row], token]) for row, token, total in own[:width] if token == end
        ]
        left = [(row, token, total, [*lines[row], token]) for row, token, total in own if token != end]
        going_on += left[:width]
    rows, tokens, sums, kept = zip(*going_on, strict=True)
    return torch.tensor(rows), torch.tensor(tokens), torch.tensor(sums).view(-1, width), list(kept)


def _repeating(line: Line) -> list[int]:
    """Return the tokens that would repeat a run of `REPEATED` tokens."""
    last = _last(line)
    if len(last) < REPEATED - 1:
        return []
    starts = range(len(line) - len(last))
    return [line[start + len(last)] for start in starts if tuple(line[start : start + len(last)]) == last]


def _last(line: Line) -> tuple[int, ...]:
    """Return the last tokens of a line, which a repeated run would go on from."""
    return tuple(line[1 - REPEATED :])
