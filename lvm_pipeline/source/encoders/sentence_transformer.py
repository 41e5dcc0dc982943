"""Sentence encoders in the folder layout of sentence-transformers, `gtr-t5-base` among them.

What a model's vectors mean is read from its own files: `modules.json` names the pooling, the dense
layers and the norm, and the weights are hashed. So the space id tells apart models that share a
name, such as the two that are called GTR-T5-base. Weights are read from safetensors only.

The extra `encoders` is imported when an encoder is loaded, never before.
"""

import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.encoders.encoder import Progress, unit_length

HUB_OWNER = "sentence-transformers"  # of models that are named without one
HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
HUB_FILES_LEFT = ["onnx/*", "openvino/*"]
HUB_FOLDER = "hub"
KNOWN_LAYOUTS = {"gtr-t5-base": "mean/dense-768x768/l2"}
BATCH_SIZE = 32
PROGRESS_EVERY = 512  # texts
INSTALL = "run `make setup-encoders` in the checkout, or install the extra `encoders`"


@dataclass(frozen=True, kw_only=True)
class SentenceTransformerEncoder:
    """A loaded sentence encoder; its vectors are scaled to unit length whether or not its own layers do so."""

    space_id: str
    vector_dim: int
    folder: Path
    model: Any = field(repr=False)  # sentence_transformers.SentenceTransformer

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> NDArray[np.float32]:
        """Return one unit vector for each text, shape (N, D), equal to 1e-5 whatever texts are beside it."""
        vectors = np.empty((len(texts), self.vector_dim), np.float32)
        for start in range(0, len(texts), PROGRESS_EVERY):
            batch = list(texts[start : start + PROGRESS_EVERY])
            found = self.model.encode(batch, batch_size=BATCH_SIZE, show_progress_bar=False, convert_to_numpy=True)
            vectors[start : start + len(batch)] = unit_length(np.asarray(found, np.float32))
            if progress is not None:
                progress(start + len(batch), len(texts))
        return vectors


def load_sentence_transformer(
    name: str, *, encoders_dir: Path, may_download: bool = True
) -> SentenceTransformerEncoder:
    """Load a model by name or folder.

    Looked for in this order: the folder itself, a folder of that name in `encoders_dir`, the model
    hub's cache, the hub (downloaded into `encoders_dir`).

    Raises:
        LvmError: If the extra is not installed, the weights cannot be had, or the folder is not there or
            none of sentence-transformers'.
    """
    folder = local_folder(name, encoders_dir=encoders_dir)
    if folder is None and _is_path(name):
        raise LvmError(
            f"There is no folder {Path(name).expanduser()}; give the folder of a sentence-transformers model."
        )
    folder = folder or _hub_folder(name, encoders_dir, may_download=may_download)
    space_id = space_of_folder(folder, name=name)
    model = _loaded(folder)
    return SentenceTransformerEncoder(space_id=space_id, vector_dim=_vector_dim(model), folder=folder, model=model)


def local_folder(name: str, *, encoders_dir: Path) -> Path | None:
    """Return the folder that a name means on this machine, None where it means none."""
    given = Path(name).expanduser()
    kept = encoders_dir / Path(name).name
    return next((folder.resolve() for folder in (given, kept) if folder.is_dir()), None)


def _is_path(name: str) -> bool:
    """Say whether a name can only mean a folder: the hub's have one slash, between owner and model."""
    return name.startswith(("/", "~", "./", "../")) or name.count("/") > 1 or name in (".", "..")


def space_of_folder(folder: Path, *, name: str) -> str:
    """Name the space of a model folder: encoder, pooling, dense layers, norm, and 12 hex digits of its weights' hash.

    Raises:
        LvmError: If the folder is incomplete, holds pickled weights, or is not what its well-known name promises.
    """
    short_name = Path(name).expanduser().name or folder.name
    modules = [folder / module["path"] for module in _modules(folder)]
    layout = layout_of_folder(folder)
    expected = KNOWN_LAYOUTS.get(short_name)
    if expected is not None and layout != expected:
        raise LvmError(f"The model at {folder} is {layout}, but {short_name} is {expected}; give it a name of its own.")
    return f"{short_name}/{layout}@{_weights_hash(folder, modules)}"


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
    """Name the activation behind a dense layer, which its weights do not tell; the library's own default is tanh."""
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
            f"{folder} has no modules.json, so its pooling is not known; give a model folder of sentence-transformers."
        )
    return _read_json(folder / "modules.json")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LvmError(f"The model file {path} cannot be read ({error}); download the model again.") from None


def _weights_hash(folder: Path, modules: Sequence[Path]) -> str:
    """Hash the weights of all modules, names and order included."""
    digest = hashlib.sha256()
    for path in _weight_files(folder, modules):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def _weight_files(folder: Path, modules: Sequence[Path]) -> Iterator[Path]:
    places = sorted({folder, *modules})
    files = [sorted(place.glob("*.safetensors")) for place in places]
    for place, found in zip(places, files, strict=True):
        if not found and any(place.glob("pytorch_model*.bin")):
            raise LvmError(f"The weights in {place} are pickled, which could run code; use safetensors weights.")
    if not files[places.index(folder)] and not any(files):
        raise LvmError(f"The model folder {folder} has no weights (*.safetensors); download the model again.")
    return (path for found in files for path in found)


def _hub_folder(name: str, encoders_dir: Path, *, may_download: bool) -> Path:
    """Return the folder of a hub model, from the hub's own cache, else downloaded below `encoders_dir`."""
    hub = _imported("huggingface_hub")
    repository = name if "/" in name else f"{HUB_OWNER}/{name}"
    patterns = {"allow_patterns": HUB_FILES, "ignore_patterns": HUB_FILES_LEFT}
    for place in ({}, {"cache_dir": encoders_dir / HUB_FOLDER}):
        try:
            folder = Path(hub.snapshot_download(repository, local_files_only=True, **place))
        except (OSError, ValueError):  # not there; or the name is none of the hub's
            continue
        if (folder / "modules.json").is_file() and any(folder.rglob("*.safetensors")):
            return folder
    try:
        if not may_download:
            raise OSError("downloads are off")
        return Path(hub.snapshot_download(repository, cache_dir=encoders_dir / HUB_FOLDER, **patterns))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LvmError(
            f"The weights of the encoder {name} cannot be had: there is no folder {encoders_dir / Path(name).name}, "
            f"and the model hub gives no {repository} ({reason}); put its folder there, or name another encoder."
        ) from None


def _loaded(folder: Path) -> Any:
    library = _imported("sentence_transformers")
    _silence_transformers()
    try:
        return library.SentenceTransformer(str(folder), device=None, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise LvmError(f"The model at {folder} cannot be loaded ({error}); download it again.") from None


def _silence_transformers() -> None:
    """Turn off the bar that transformers draws while it loads weights, and what it remarks on them."""
    messages = importlib.import_module("transformers.utils.logging")
    messages.set_verbosity_error()
    messages.disable_progress_bar()


def _imported(module: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise LvmError(f"This encoder needs {module}, which cannot be imported ({error}); {INSTALL}.") from None


def _vector_dim(model: Any) -> int:
    return int(model.encode(["width"], show_progress_bar=False, convert_to_numpy=True).shape[1])
