"""The prefix decoder: a small language model of the concepts that is conditioned on a vector by soft tokens.

It is trained by `prefix_training` on train articles only, for any space. Decoding is greedy; with an encoder of the
space at hand it can also write several texts and keep the one whose own vector is closest.

Shapes: B = vectors, D = vector width, C = candidates, V = vocabulary.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.decoding._contract import Rows, refuse_other_shape
from lvm_pipeline.decoding._tokens import TextTokens, read_tokenizer
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import restore_dir, staged_dir, write_json
from lvm_pipeline.source.encoders.encoder import Encoder, unit_length

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from lvm_pipeline.decoding._prefix_model import PrefixModel
    from lvm_pipeline.decoding.prefix_training import TrainedPrefix

SCHEMA_VERSION = 1
WEIGHTS_FILE, TOKENIZER_FILE, INFO_FILE = "decoder.safetensors", "tokenizer.json", "decoder.json"
IDENTITY_KEY = "identity"
BATCH = 64  # texts written at once
REPEATED = 4  # no run of so many tokens is written twice in a text

Followers = defaultdict[tuple[int, ...], set[int]]  # what has come after a run of tokens in a text


@dataclass(frozen=True, kw_only=True)
class PrefixInfo:
    """What a prefix decoder says of itself."""

    space_id: str  # space of its vectors
    config: dict[str, int]  # sizes of its model
    fingerprints: dict[str, str]  # of the concept and sequence table that it was trained on
    code_version: str  # of the code that trained it
    options: dict[str, Any]  # how it was trained
    num_texts: int  # train concepts
    num_steps: int  # optimiser steps done
    seconds: float  # time of the training
    loss: float  # mean loss per token of the last steps
    num_params: int  # parameters


@dataclass(frozen=True, kw_only=True)
class PrefixDecoder:
    """A trained prefix decoder."""

    model: "PrefixModel"  # in evaluation mode; its weights take no gradient
    tokens: TextTokens  # the tokenizer
    info: PrefixInfo  # what it says of itself
    # encoder of its space; with one, `num_candidates` texts are written for each vector and the one whose vector is
    # closest is kept
    encoder: Encoder | None = None
    num_candidates: int = 1  # how many; 1 is greedy decoding, which the others are added to
    temperature: float = 0.7  # the logits of the others are divided by this
    seed: int = 0  # of the others
    name: str = "prefix"  # used in reports

    @property
    def space_id(self) -> str:
        return self.info.space_id

    def best_of(self, num_candidates: int, encoder: Encoder, *, temperature: float = 0.7) -> "PrefixDecoder":
        """Return the decoder that writes several texts and keeps the one whose vector is closest.

        Raises:
            LvmError: If the encoder is of another space, or a value cannot be used.
        """
        if encoder.space_id != self.space_id:
            raise LvmError(
                f"The encoder is of space {encoder.space_id} and the decoder of {self.space_id}; use the encoder of "
                "the decoder's space."
            )
        if num_candidates < 1 or temperature <= 0:
            raise LvmError(
                f"The number of candidates must be at least 1 and the temperature above 0, got {num_candidates} and "
                f"{temperature:g}."
            )
        return replace(self, encoder=encoder, num_candidates=num_candidates, temperature=temperature)

    def decode(self, vectors: NDArray[np.float32], *, exclude: Sequence[Rows] | None = None) -> list[str]:
        """Write a text for each vector, (B, D); `exclude` changes nothing, as it answers with no concept of a table."""
        refuse_other_shape(self.name, vectors, self.model.config.vector_dim)
        if self.num_candidates == 1 or self.encoder is None or not len(vectors):
            return self.write(vectors)
        others = range(self.seed + 1, self.seed + self.num_candidates)
        written = [
            self.write(vectors),
            *(self.write(vectors, temperature=self.temperature, seed=seed) for seed in others),
        ]
        return closest_texts(vectors, written, self.encoder)

    def write(self, vectors: NDArray[np.float32], *, temperature: float = 0.0, seed: int = 0) -> list[str]:
        """Write one text for each vector, (B, D); at temperature 0 of the most likely tokens, above of drawn ones."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        lines: list[list[int]] = []
        with torch.inference_mode():
            for begin in range(0, len(vectors), BATCH):
                batch = torch.from_numpy(np.ascontiguousarray(vectors[begin : begin + BATCH], np.float32))
                lines += _written(self.model, batch, temperature=temperature, generator=generator)
        return self.tokens.decode(lines)

    def nll(self, vectors: "Tensor", texts: Sequence[str]) -> "Tensor":
        """Return the mean negative log-likelihood per token of each text given its vector, shape (B,).

        Differentiable in `vectors` (B, D); the weights take no gradient. Of a long text, the beginning counts.
        """
        from lvm_pipeline.decoding._prefix_model import IGNORED
        from lvm_pipeline.decoding.prefix_training import padded

        tokens = padded(self.tokens.encode(texts, max_tokens=self.model.config.max_tokens)).to(vectors.device)
        losses = self.model.losses(vectors, tokens)
        return losses.sum(dim=1) / (tokens != IGNORED).sum(dim=1)


def closest_texts(vectors: NDArray[np.float32], candidates: Sequence[list[str]], encoder: Encoder) -> list[str]:
    """Return for each vector (B, D) that of its candidates (C lists of B texts) whose own vector is closest."""
    encoded = encoder.encode([text for texts in candidates for text in texts])
    cosines = np.einsum("cbd,bd->cb", encoded.reshape(len(candidates), *vectors.shape), unit_length(vectors))
    return [candidates[best][index] for index, best in enumerate(cosines.argmax(axis=0))]


def save_prefix_decoder(
    folder: Path,
    trained: "TrainedPrefix",
    *,
    space_id: str,
    fingerprints: Mapping[str, str],
    code_version: str,
    options: Mapping[str, Any],
    num_texts: int,
) -> PrefixInfo:
    """Write a decoder whole, in place of an earlier one in the same folder, or not at all."""
    from safetensors.torch import save_file

    info = PrefixInfo(
        space_id=space_id,
        config=asdict(trained.model.config),
        fingerprints=dict(fingerprints),
        code_version=code_version,
        options=dict(options),
        num_texts=num_texts,
        num_steps=trained.num_steps,
        seconds=round(trained.seconds, 3),
        loss=trained.loss,
        num_params=sum(parameter.numel() for parameter in trained.model.parameters()),
    )
    tokenizer = trained.tokens.as_json()
    with staged_dir(folder) as staged:
        weights = {name: tensor.contiguous() for name, tensor in trained.model.state_dict().items()}
        save_file(weights, staged / WEIGHTS_FILE, metadata={IDENTITY_KEY: _identity(info, tokenizer)})
        (staged / TOKENIZER_FILE).write_text(tokenizer, encoding="utf-8")
        write_json(staged / INFO_FILE, {"schema_version": SCHEMA_VERSION, **asdict(info)})
    return info


def read_prefix_info(folder: Path) -> PrefixInfo:
    """Read what a decoder says of itself. Raises LvmError if there is none, or its record cannot be read."""
    restore_dir(folder)
    path = folder / INFO_FILE
    if not path.is_file():
        raise LvmError("There is no text decoder in this home; train one with `lvm decoder train`.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LvmError(f"{path} cannot be read ({error}); train the decoder again with `lvm decoder train`.") from None
    version = values.pop("schema_version", None) if isinstance(values, dict) else None
    if version != SCHEMA_VERSION or set(values) != {each.name for each in fields(PrefixInfo)}:
        raise LvmError(
            f"{path} is not a record of schema version {SCHEMA_VERSION}; train the decoder again with "
            "`lvm decoder train`."
        )
    return PrefixInfo(**values)


def load_prefix_decoder(folder: Path, *, space_id: str | None = None, device: str = "cpu") -> PrefixDecoder:
    """Load a trained decoder, greedy; if a space is given, it has to be of that space.

    Raises:
        LvmError: If there is none, it is of another space, or its files do not belong together.
    """
    from safetensors import SafetensorError, safe_open

    from lvm_pipeline.decoding._prefix_model import PrefixConfig, PrefixModel

    info = read_prefix_info(folder)
    if space_id is not None and info.space_id != space_id:
        raise LvmError(
            f"The text decoder in {folder} reads vectors of space {info.space_id}, not {space_id}; train one on the "
            "present concepts with `lvm decoder train`."
        )
    tokens = read_tokenizer(folder / TOKENIZER_FILE)
    damaged = f"The text decoder in {folder} is damaged ({{}}); train it again with `lvm decoder train`."
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            identity = (file.metadata() or {}).get(IDENTITY_KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        model = PrefixModel(PrefixConfig(**info.config))
        model.load_state_dict(weights, strict=True)
    except (OSError, SafetensorError, RuntimeError, TypeError) as error:
        raise LvmError(damaged.format(str(error).strip().splitlines()[0])) from None
    if identity != _identity(info, (folder / TOKENIZER_FILE).read_text(encoding="utf-8")):
        raise LvmError(damaged.format("its weights, tokenizer and record are not of one training"))
    return PrefixDecoder(model=model.to(device).eval().requires_grad_(False), tokens=tokens, info=info)


def _identity(info: PrefixInfo, tokenizer: str) -> str:
    """Return what weights, tokenizer and record must share."""
    values = {**asdict(info), "tokenizer": hashlib.sha256(tokenizer.encode()).hexdigest()}
    return json.dumps(values, sort_keys=True)


def _written(model: "PrefixModel", vectors: "Tensor", *, temperature: float, generator: "Generator") -> list[list[int]]:
    """Write one line of tokens for each vector."""
    import torch

    from lvm_pipeline.decoding._prefix_model import END

    logits, topic, state = model.start(vectors.to(model.mean.device))
    logits[:, END] = -torch.inf  # no text is empty
    lines: list[list[int]] = [[] for _ in vectors]
    written: list[Followers] = [defaultdict(set) for _ in vectors]
    for _ in range(model.config.max_tokens):
        for index, (line, followers) in enumerate(zip(lines, written, strict=True)):
            logits[index, list(followers[_last(line)])] = -torch.inf
        if temperature:
            weights = (logits / temperature).softmax(dim=-1).cpu()
            tokens = torch.multinomial(weights, 1, generator=generator)[:, 0]
        else:
            tokens = logits.argmax(dim=-1).cpu()
        for line, followers, token in zip(lines, written, tokens.tolist(), strict=True):
            if not line or line[-1] != END:
                followers[_last(line)].add(token)
                line.append(token)
        if all(line[-1] == END for line in lines):
            break
        following, state = model.go_on(tokens.to(logits.device)[:, None], topic, state)
        logits = following[:, 0]
    return lines


def _last(line: Sequence[int]) -> tuple[int, ...]:
    """Return the last tokens of a line, which a repeated run would go on from."""
    return tuple(line[1 - REPEATED :])
