"""Prediction by a trained model, beside the stages.

The first answer of `lvm predict` should come soon, so nothing is imported here that it does not need.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.errors import LvmError
from lvm_pipeline.imports import lasting_imports
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.inference.predict import Prediction


def predict_on(
    settings: Settings,
    model_dir: Path,
    source: Path | Iterable[bytes],
    *,
    space_id: str | None = None,
    num_nearest: int = 0,
    warn: Callable[[str], None],
) -> "Iterator[Prediction]":
    """Read concepts from a file, or lines as they come, and yield the next concept's prediction after each.

    Args:
        settings: Where encoders and the concept table are, and what to run on.
        source: See `inference.reading`.
        space_id: Space of the vectors, refused where it is not the model's.
        num_nearest: Concepts of the promoted table to name beside each prediction.

    Raises:
        LvmError: If model, table or a concept cannot be used; predictions made before were yielded.
    """
    with lasting_imports():
        import torch

        from lvm_pipeline.inference.nearest import open_index
        from lvm_pipeline.inference.predict import StreamPredictor
        from lvm_pipeline.inference.reading import read_file, read_lines
        from lvm_pipeline.source.space_fingerprint import FILE, read_fingerprint
        from lvm_pipeline.training.settle import find_device
        from lvm_pipeline.training.trained_model import load_trained_model

    torch.set_num_threads(settings.num_threads)
    model, info = load_trained_model(model_dir, space_id=space_id, device=find_device(settings.device))
    index = None
    if num_nearest:
        index = open_index(settings.concepts_path, settings.vectors_dir, space_id=info.space_id, search=settings.search)
    predictor = StreamPredictor(
        model,
        info,
        encoders_dir=settings.encoders_dir,
        fingerprint=read_fingerprint(model_dir / FILE),
        index=index,
        num_nearest=num_nearest,
        warn=warn,
    )
    return predictor.predictions(read_file(source) if isinstance(source, Path) else read_lines(source))


def model_folder(
    settings: Settings, *, model: Path | None = None, trial: str | None = None, architecture: str | None = None
) -> Path:
    """Return the folder of a model: the given one, a trial's, an architecture's latest, or else the champion's.

    Raises:
        LvmError: If there is no such trial, or no champion yet.
    """
    if model is not None:
        return model
    from lvm_pipeline.lineage.trials import latest_trial, named_trial

    if trial is not None:
        return named_trial(settings, trial).model_dir
    if architecture is not None:
        return latest_trial(settings, architecture).model_dir
    from lvm_pipeline.adapters import mlflow_registry

    champion = mlflow_registry.champion(settings)
    if champion is None:
        raise LvmError(why_no_champion(settings, "--model, --trial or --architecture"))
    return champion.model_dir


def why_no_champion(settings: Settings, options: str) -> str:
    """Return why there is no champion, and the options that choose another model."""
    from lvm_pipeline.lineage.results import read_champion

    decision = read_champion(settings).get("decision")
    if decision is None:
        return f"There is no champion yet; run `lvm run`, or choose a model with {options}."
    return f"There is no champion: {decision['reason']} Choose a model with {options}."
