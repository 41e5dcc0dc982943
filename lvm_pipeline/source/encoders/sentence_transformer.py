"""Sentence encoders in the folder layout of sentence-transformers, `gtr-t5-base` among them.

The space id is read from the files of a model: `modules.json` names the pooling, the dense layers and
the norm, the configuration the longest text, the default prompt and the width, and the weights are hashed. So it
distinguishes models of the same name, such as the two called GTR-T5-base, and settings of one model. Weights are read
from safetensors only.

The extra `encoders` is imported when an encoder is loaded.
"""

import hashlib
import importlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError, first_line
from lvm_pipeline.source.encoders.encoder import Progress, unit_length

HUB_OWNER = "sentence-transformers"  # of models named without an owner
HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
HUB_FILES_SKIPPED = ["onnx/*", "openvino/*"]
HUB_FOLDER = "hub"
KNOWN_LAYOUTS = {"gtr-t5-base": "mean/dense-768x768/l2"}
BATCH_SIZE = 32
PROGRESS_EVERY = 512  # texts
INSTALL = "run `make setup-encoders` in the repository, or install the extra `encoders`"


@dataclass(frozen=True, kw_only=True)
class SentenceTransformerEncoder:
    """A loaded sentence encoder; its vectors are scaled to unit length."""

    space_id: str
    vector_dim: int
    folder: Path
    model: Any = field(repr=False)  # sentence_transformers.SentenceTransformer

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> NDArray[np.float32]:
        """Return one unit vector for each text, shape (N, D), equal to 1e-5 in any batch."""
        vectors = np.empty((len(texts), self.vector_dim), np.float32)
        for start in range(0, len(texts), PROGRESS_EVERY):
            batch = list(texts[start : start + PROGRESS_EVERY])
            found = self.model.encode(batch, batch_size=BATCH_SIZE, show_progress_bar=False, convert_to_numpy=True)
            vectors[start : start + len(batch)] = unit_length(np.asarray(found, np.float32))
            if progress is not None:
                progress(start + len(batch), len(texts))
        return vectors

    def cut_texts(self, texts: Sequence[str]) -> list[int]:
        """Return the indices of the texts that are longer than the model reads."""
        longest = self.model.max_seq_length
        if longest is None or not texts:
            return []
        tokens = self.model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return [index for index, ids in enumerate(tokens) if len(ids) > longest]


def load_sentence_transformer(
    name: str, *, encoders_dir: Path, may_download: bool = True
) -> SentenceTransformerEncoder:
    """Load a model by name or folder.

    Looks in this order: the folder itself, a folder of that name in `encoders_dir`, the cache of the model hub, the
    hub (downloaded into `encoders_dir`).

    Raises:
        LvmError: If the extra is not installed, the weights are not available, or the folder does not exist or is not
            that of a sentence-transformers model.
    """
    folder = local_folder(name, encoders_dir=encoders_dir)
    if folder is None and _is_path(name):
        raise LvmError(f"There is no folder {_expanded(name)}; give the folder of a sentence-transformers model.")
    folder = folder or _hub_folder(name, encoders_dir, may_download=may_download)
    space_id = space_of_folder(folder, name=name)
    model = _loaded(folder)
    (vector,) = model.encode(["width"], show_progress_bar=False, convert_to_numpy=True)
    return SentenceTransformerEncoder(space_id=space_id, vector_dim=len(vector), folder=folder, model=model)


def local_folder(name: str, *, encoders_dir: Path) -> Path | None:
    """Return the folder on this machine that a name refers to, None if there is none."""
    folders = _expanded(name), encoders_dir / Path(name).name
    return next((folder.resolve() for folder in folders if folder.is_dir()), None)


def _expanded(name: str) -> Path:
    """Return a name as a path, with `~` replaced by the home of the user unless there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _is_path(name: str) -> bool:
    """Return whether a name can only be a folder: names of the hub have one slash, between owner and model."""
    return name.startswith(("/", "~", "./", "../")) or name.count("/") > 1 or name in (".", "..")


def space_of_folder(folder: Path, *, name: str) -> str:
    """Return the space id of a model folder: encoder, pooling, dense layers, norm, and a hash of the weights.

    Raises:
        LvmError: If the folder is incomplete, has pickled weights, or differs from the known model of its name.
    """
    short_name = _expanded(name).name or folder.name
    modules = [folder / module["path"] for module in _modules(folder)]
    layout = layout_of_folder(folder)
    expected = KNOWN_LAYOUTS.get(short_name)
    if expected is not None and layout != expected:
        raise LvmError(f"The model at {folder} is {layout}, but {short_name} is {expected}; rename its folder.")
    return f"{'/'.join([short_name, layout, *_options_of_folder(folder)])}@{_weights_hash(folder, modules)}"


def bare_space(space_id: str) -> str:
    """Return a space id without the options, as earlier versions wrote it.

    Example:
        >>> bare_space("gtr-t5-base/mean/dense-768x768/l2/seq-512@0123456789ab")
        'gtr-t5-base/mean/dense-768x768/l2@0123456789ab'
    """
    return re.sub(r"/(seq-\d+|lower|prompt-[0-9a-f]+|dim-\d+)(?=[/@])", "", space_id)


def _options_of_folder(folder: Path) -> list[str]:
    """Name what else changes the vectors: longest text, lower case, the default prompt, the width they are cut to."""
    reading, model = (
        _read_json(folder / name) if (folder / name).is_file() else {}
        for name in ("sentence_bert_config.json", "config_sentence_transformers.json")
    )
    prompt = (model.get("prompts") or {}).get(model.get("default_prompt_name") or "", "")
    return [
        *([f"seq-{reading['max_seq_length']}"] if reading.get("max_seq_length") else []),
        *(["lower"] if reading.get("do_lower_case") else []),
        *([f"prompt-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}"] if prompt else []),
        *([f"dim-{model['truncate_dim']}"] if model.get("truncate_dim") else []),
    ]


def layout_of_folder(folder: Path) -> str:
    """Read pooling, dense layers and norm of a model folder, such as `mean/dense-768x768/l2`."""
    pooling, dense, norm = "no-pooling", [], "l2"  # `encode` normalises in any case
    for module in _modules(folder):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _pooling_name(_read_json(folder / module["path"] / "config.json"))
        elif kind == "Dense":
            config = _read_json(folder / module["path"] / "config.json")
            dense.append(f"dense-{config['in_features']}x{config['out_features']}{_activation_suffix(config)}")
    return "/".join([pooling, "+".join(dense) or "no-dense", norm])


def _activation_suffix(config: dict[str, Any]) -> str:
    """Return the activation after a dense layer as a suffix; the default of sentence-transformers is tanh."""
    name = str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1].lower()
    return "" if name == "identity" else f"-{name}"


def _pooling_name(config: dict[str, Any]) -> str:
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        return mode if isinstance(mode, str) else "+".join(mode)
    modes = [key.removeprefix("pooling_mode_") for key, is_on in config.items() if is_on is True and "pooling" in key]
    return "+".join(mode.removesuffix("_tokens").removesuffix("_token") for mode in modes)


def _modules(folder: Path) -> list[dict[str, str]]:
    if not (folder / "modules.json").is_file():
        raise LvmError(
            f"{folder} has no modules.json, so its pooling is unknown; give a folder of a sentence-transformers model."
        )
    return _read_json(folder / "modules.json")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LvmError(f"The model file {path} cannot be read ({error}); download the model again.") from None


def _weights_hash(folder: Path, modules: Sequence[Path]) -> str:
    """Hash the weights of all modules, including their names and order."""
    digest = hashlib.sha256()
    for path in _weight_files(folder, modules):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def _weight_files(folder: Path, modules: Sequence[Path]) -> Iterator[Path]:
    files = {each: sorted(each.glob("*.safetensors")) for each in sorted({folder, *modules})}
    for each, found in files.items():
        if not found and any(each.glob("pytorch_model*.bin")):
            raise LvmError(f"The weights in {each} are pickled, which could run code; use safetensors weights.")
    if not any(files.values()):
        raise LvmError(f"The model folder {folder} has no weights (*.safetensors); download the model again.")
    return (path for found in files.values() for path in found)


def _hub_folder(name: str, encoders_dir: Path, *, may_download: bool) -> Path:
    """Return the folder of a hub model, from the cache of the hub or downloaded into `encoders_dir`."""
    hub = _imported("huggingface_hub")
    repository = name if "/" in name else f"{HUB_OWNER}/{name}"
    patterns = {"allow_patterns": HUB_FILES, "ignore_patterns": HUB_FILES_SKIPPED}
    for cache in ({}, {"cache_dir": encoders_dir / HUB_FOLDER}):
        try:
            folder = Path(hub.snapshot_download(repository, local_files_only=True, **cache))
        except (OSError, ValueError):  # not there, or not a name of the hub
            continue
        if (folder / "modules.json").is_file() and any(folder.rglob("*.safetensors")):
            return folder
    try:
        if not may_download:
            raise OSError("downloads are disabled")
        return Path(hub.snapshot_download(repository, cache_dir=encoders_dir / HUB_FOLDER, **patterns))
    except (OSError, ValueError) as error:
        raise LvmError(
            f"The weights of encoder {name} are not available: there is no folder {encoders_dir / Path(name).name}, "
            f"and {repository} cannot be downloaded ({first_line(error)}); copy its folder there, or name "
            "another encoder."
        ) from None


def _loaded(folder: Path) -> Any:
    library = _imported("sentence_transformers")
    messages = importlib.import_module("transformers.utils.logging")  # about loaded weights
    messages.set_verbosity_error()
    messages.disable_progress_bar()
    try:
        return library.SentenceTransformer(str(folder), device=None, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise LvmError(f"The model at {folder} cannot be loaded ({error}); download it again.") from None


def _imported(module: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise LvmError(f"This encoder needs {module}, which cannot be imported ({error}); {INSTALL}.") from None
