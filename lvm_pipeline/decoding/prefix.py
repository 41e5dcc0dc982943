"""Decoders that write a text after soft tokens made from its vector, trained on train articles only, for any space.

    prefix    a small language model of the concepts, trained as a whole (`prefix_training`)
    lm        a frozen language model, of which only the soft tokens are trained (`lm`, extra `lm`)

Decoding is greedy; see `search` for beams, and for several texts of which the closest is kept.

Shapes: B = vectors, D = vector width.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.decoding._contract import Rows, refuse_other_shape
from lvm_pipeline.decoding._tokens import END, TextTokens, read_tokenizer
from lvm_pipeline.decoding.search import Closest, Search, around, checked_search, corrected
from lvm_pipeline.errors import LvmError, first_line
from lvm_pipeline.files import restore_dir, staged_dir, usual_mode, write_json
from lvm_pipeline.source.encoders.encoder import Encoder

if TYPE_CHECKING:
    from torch import Tensor

    from lvm_pipeline.decoding._lm_model import LmModel
    from lvm_pipeline.decoding._prefix_model import PrefixModel
    from lvm_pipeline.decoding.prefix_training import TrainedPrefix

SCHEMA_VERSION = 1
WEIGHTS_FILE, TOKENIZER_FILE, INFO_FILE = "decoder.safetensors", "tokenizer.json", "decoder.json"
IDENTITY_KEY = "identity"
BATCH = 64  # texts written at once
LM = "lm"  # name of the decoder with a frozen language model
LANGUAGE_MODEL_PREFIX = "lm."  # of its frozen weights, which are not saved with it


@dataclass(frozen=True, kw_only=True)
class PrefixInfo:
    """Record of a trained `prefix` or `lm` decoder."""

    space_id: str  # space of its vectors
    config: dict[str, int]  # sizes of its model
    fingerprints: dict[str, str]  # of the concept and sequence table that it was trained on
    code_version: str  # of the code that trained it
    options: dict[str, Any]  # how it was trained
    num_texts: int  # train concepts
    num_steps: int  # optimiser steps done
    seconds: float  # time of the training
    loss: float  # mean loss per token of the last steps
    num_params: int  # trained parameters
    content_fingerprint: str | None = None  # of the texts of the concept table, if it had one
    language_model: dict[str, str] | None = None  # `folder` and `fingerprint` of the frozen language model, if any

    @property
    def name(self) -> str:
        """`prefix` or `lm`."""
        return "prefix" if self.language_model is None else LM


@dataclass(frozen=True, kw_only=True)
class PrefixDecoder:
    """A trained prefix decoder."""

    model: "PrefixModel | LmModel"  # in evaluation mode; its weights take no gradient
    tokens: TextTokens  # the tokenizer
    info: PrefixInfo  # its record
    encoder: Encoder | None = None  # encoder of its space, which chooses among several texts
    search: Search = field(default_factory=Search)  # how texts are searched for
    seed: int = 0  # of sampling

    @property
    def name(self) -> str:
        """Name in reports."""
        return self.info.name

    @property
    def space_id(self) -> str:
        return self.info.space_id

    @property
    def identity(self) -> str:
        """Changes with its training, its search and the encoder that chooses."""
        chosen_by = None if self.encoder is None else self.encoder.space_id
        return f"{_identity(self.info, self.tokens.as_json())} {self.search} {self.seed} {chosen_by}"

    def searching(self, search: Search, encoder: Encoder | None) -> "PrefixDecoder":
        """Return the decoder with another search; without an encoder, only the beam is used.

        Raises:
            LvmError: If the encoder is of another space, or a value cannot be used.
        """
        if encoder is not None and encoder.space_id != self.space_id:
            raise LvmError(
                f"The encoder is of space {encoder.space_id} and the decoder of {self.space_id}; use the encoder of "
                "the decoder's space."
            )
        return replace(self, encoder=encoder, search=checked_search(search))

    def decode(self, vectors: NDArray[np.float32], *, exclude: Sequence[Rows] | None = None) -> list[str]:
        """Generate a text for each vector, (B, D); `exclude` is ignored."""
        search = self.search
        refuse_other_shape(self.name, vectors, self.model.config.vector_dim)
        first = self.write(vectors, beam=search.beam)
        if self.encoder is None or not search.needs_encoder or not len(vectors):
            return first
        closest = Closest.of(vectors, self.encoder)
        encoded = closest.offer(first)
        noise = search.spread / float(self.model.scale)
        for index, asked in enumerate(around(vectors, noise=noise, count=search.candidates - 1, seed=self.seed)):
            closest.offer(self.write(asked, temperature=search.temperature, seed=self.seed + 1 + index))
        corrected(closest, lambda asked: self.write(asked, beam=search.beam), encoded, num=search.corrections)
        return closest.texts

    def write(
        self, vectors: NDArray[np.float32], *, temperature: float = 0.0, beam: int = 1, seed: int = 0
    ) -> list[str]:
        """Generate one text for each vector, (B, D): by greedy or beam search, or sampled at a temperature above 0."""
        import torch

        from lvm_pipeline.decoding._writing import beam_written, written

        generator, size = torch.Generator().manual_seed(seed), max(1, BATCH // beam)
        lines: list[list[int]] = []
        with torch.inference_mode():
            for begin in range(0, len(vectors), size):
                batch = torch.from_numpy(np.ascontiguousarray(vectors[begin : begin + size], np.float32))
                batch = batch.to(self.model.mean.device)
                if beam > 1 and not temperature:
                    lines += [line for _, line in beam_written(self.model, batch, width=beam)]
                else:
                    lines += written(self.model, batch, temperature=temperature, generator=generator)
        return self.tokens.decode(lines)

    def nll(self, vectors: "Tensor", texts: Sequence[str]) -> "Tensor":
        """Return the mean negative log-likelihood per token of each text given its vector, shape (B,).

        Differentiable in `vectors` (B, D); the weights take no gradient. Of a long text, the beginning counts.
        """
        from lvm_pipeline.decoding._prefix_model import IGNORED
        from lvm_pipeline.decoding.prefix_training import padded

        tokens = padded(self.tokens.encode(texts, max_tokens=self.model.max_tokens)).to(vectors.device)
        losses = self.model.losses(vectors, tokens)
        return losses.sum(dim=1) / (tokens != IGNORED).sum(dim=1)


def save_prefix_decoder(
    folder: Path,
    trained: "TrainedPrefix",
    *,
    space_id: str,
    fingerprints: Mapping[str, str],
    code_version: str,
    options: Mapping[str, Any],
    num_texts: int,
    content_fingerprint: str | None = None,
) -> PrefixInfo:
    """Write a decoder whole, in place of an earlier one in the same folder, or not at all."""
    from safetensors.torch import save_file

    info = PrefixInfo(
        space_id=space_id,
        config=asdict(trained.model.config),
        fingerprints=dict(fingerprints),
        content_fingerprint=content_fingerprint,
        code_version=code_version,
        options=dict(options),
        num_texts=num_texts,
        num_steps=trained.num_steps,
        seconds=round(trained.seconds, 3),
        loss=trained.loss,
        num_params=sum(each.numel() for name, each in trained.model.named_parameters() if _is_saved(name)),
        language_model=trained.language_model,
    )
    tokenizer = trained.tokens.as_json()
    with staged_dir(folder) as staged:
        state = trained.model.state_dict()
        weights = {name: tensor.contiguous() for name, tensor in state.items() if _is_saved(name)}
        with usual_mode(staged / WEIGHTS_FILE):
            save_file(weights, staged / WEIGHTS_FILE, metadata={IDENTITY_KEY: _identity(info, tokenizer)})
        (staged / TOKENIZER_FILE).write_text(tokenizer, encoding="utf-8")
        write_json(staged / INFO_FILE, {"schema_version": SCHEMA_VERSION, **asdict(info)})
    return info


def training_command(kind: str) -> str:
    """Return the command that trains a decoder of a kind, `prefix` or `lm`."""
    return "lvm decoder train --kind lm" if kind == LM else "lvm decoder train"


def trained_on_other_data(folder: Path) -> str:
    """Return the sentence for a decoder in the folder of its kind that was trained on other data."""
    return (
        f"The text decoder in {folder} was trained on other data, perhaps on the articles that are scored; train it "
        f"again with `{training_command(folder.name)}`."
    )


def read_prefix_info(folder: Path) -> PrefixInfo:
    """Read the record of a decoder. Raises LvmError if there is none, or it cannot be read."""
    restore_dir(folder)
    path, command = folder / INFO_FILE, training_command(folder.name)
    if not path.is_file():
        kind = " with a language model" if folder.name == LM else ""
        raise LvmError(f"There is no text decoder{kind} in this home; train one with `{command}`.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LvmError(f"{path} cannot be read ({error}); train the decoder again with `{command}`.") from None
    version = values.pop("schema_version", None) if isinstance(values, dict) else None
    if version == SCHEMA_VERSION:
        values = {"language_model": None, "content_fingerprint": None, **values}  # earlier versions lack them
    if version != SCHEMA_VERSION or set(values) != {each.name for each in fields(PrefixInfo)}:
        raise LvmError(
            f"{path} is not a record of schema version {SCHEMA_VERSION}; train the decoder again with `{command}`."
        )
    return PrefixInfo(**values)


def load_prefix_decoder(folder: Path, *, space_id: str | None = None, device: str = "cpu") -> PrefixDecoder:
    """Load a trained decoder, greedy; if a space is given, it has to be of that space.

    Raises:
        LvmError: If there is none, it is of another space, or its files do not belong together.
    """
    from safetensors import SafetensorError, safe_open

    info = read_prefix_info(folder)
    command = training_command(info.name)
    if space_id is not None and info.space_id != space_id:
        raise LvmError(
            f"The text decoder in {folder} reads vectors of space {info.space_id}, not {space_id}; train one on the "
            f"present concepts with `{command}`."
        )
    tokens = read_tokenizer(folder / TOKENIZER_FILE, end=info.config.get("end", END))
    damaged = f"The text decoder in {folder} is damaged ({{}}); train it again with `{command}`."
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            identity = (file.metadata() or {}).get(IDENTITY_KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        model = _empty_model(info)
        missing, unexpected = model.load_state_dict(weights, strict=False)
        if unexpected or any(map(_is_saved, missing)):
            raise LvmError(damaged.format("RuntimeError: its weights are those of another model"))
    except (OSError, SafetensorError, RuntimeError, TypeError) as error:
        raise LvmError(damaged.format(first_line(error))) from None
    if identity != _identity(info, (folder / TOKENIZER_FILE).read_text(encoding="utf-8")):
        raise LvmError(damaged.format("its weights, tokenizer and record are not of one training"))
    return PrefixDecoder(model=model.to(device).eval().requires_grad_(False), tokens=tokens, info=info)


def decoder_fingerprint(folder: Path) -> str:
    """Return a hash that changes whenever the decoder in a folder is trained.

    Raises:
        LvmError: If there is none, or it cannot be read.
    """
    info = read_prefix_info(folder)
    tokens = read_tokenizer(folder / TOKENIZER_FILE, end=info.config.get("end", END))
    return hashlib.sha256(_identity(info, tokens.as_json()).encode()).hexdigest()


def _empty_model(info: PrefixInfo) -> "PrefixModel | LmModel":
    if info.language_model is not None:
        from lvm_pipeline.decoding.lm import model_of

        return model_of(info.config, info.language_model)
    from lvm_pipeline.decoding._prefix_model import PrefixConfig, PrefixModel

    return PrefixModel(PrefixConfig(**info.config))


def _is_saved(name: str) -> bool:
    """Whether a tensor of the model is saved with the decoder; the weights of a frozen language model are not."""
    return not name.startswith(LANGUAGE_MODEL_PREFIX)


def _identity(info: PrefixInfo, tokenizer: str) -> str:
    """Return what weights, tokenizer and record must share."""
    values = {name: value for name, value in asdict(info).items() if value is not None}
    values = {**values, "tokenizer": hashlib.sha256(tokenizer.encode()).hexdigest()}
    return json.dumps(values, sort_keys=True)
