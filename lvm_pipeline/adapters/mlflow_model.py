"""A trained model as an MLflow model: safetensors and JSON, loaded by this module without pickle.

MLflow calls `_load_pyfunc`, so `mlflow.pyfunc.load_model("models:/lvm@champion").predict(contexts)` works wherever this
package is installed.
"""

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from lvm_pipeline.architectures._contract import LatentVectorModel

DATA = "trained_model"  # folder of the trained model inside the MLflow model


class Predictor:
    """Predicts the next concept's vector from context vectors."""

    def __init__(self, model: "LatentVectorModel"):
        """Wrap a model."""
        self.model = model.eval()

    def predict(
        self, inputs: "NDArray[np.float32] | Mapping[str, NDArray[np.float32]]", params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """Return the prediction after each context.

        Args:
            inputs: Contexts (B, T, D); for a model with a condition, `contexts` and their `condition` (B, T, C).
            params: MLflow's; unused.

        Returns:
            Predictions (B, D).

        Raises:
            LvmError: If the contexts are missing.
        """
        import torch

        from lvm_pipeline.architectures._contract import at_last_position

        named = inputs if isinstance(inputs, Mapping) else {"contexts": inputs}
        contexts, condition = (
            torch.as_tensor(np.asarray(named[name], dtype=np.float32)) if name in named else None
            for name in ("contexts", "condition")
        )
        if contexts is None:
            raise LvmError(f"The input has no field contexts; it has {', '.join(named)}.")
        with torch.inference_mode():
            return self.model(contexts, condition, at_last_position(contexts)).float().numpy()


def _load_pyfunc(path: str) -> Predictor:
    from lvm_pipeline.training.trained_model import load_trained_model

    model, _ = load_trained_model(Path(path))
    return Predictor(model)


def model_signature(vector_dim: int, condition_dim: int = 0) -> "ModelSignature":
    """Return the shapes of a model: contexts (B, T, D), and condition (B, T, C), to predictions (B, D), float32."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    number = np.dtype("float32")
    inputs: list[ColSpec | TensorSpec] = [
        TensorSpec(number, (-1, -1, vector_dim), name="contexts" if condition_dim else None)
    ]
    if condition_dim:
        inputs.append(TensorSpec(number, (-1, -1, condition_dim), name="condition"))
    return ModelSignature(
        inputs=Schema(inputs),
        outputs=Schema([TensorSpec(number, (-1, vector_dim), name=None)]),
    )


def write_description(folder: Path, *, model_dir: Path, model_id: str, run_id: str) -> None:
    """Write the files that MLflow needs: `MLmodel` and the environment.

    `mlflow.pyfunc.save_model` does the same, but takes seconds to inspect all installed packages.
    """
    from mlflow.models import Model

    description = Model(
        artifact_path=None,
        run_id=run_id,
        model_id=model_id,
        signature=model_signature(*widths_of(model_dir)),
        model_size_bytes=sum(file.stat().st_size for file in model_dir.rglob("*") if file.is_file()),
    )
    python_version = platform.python_version()
    description.add_flavor(
        "python_function",
        loader_module=__name__,
        data=DATA,
        env={"virtualenv": "python_env.yaml"},
        python_version=python_version,
    )
    description.save(str(folder / "MLmodel"))
    requirements = [f"{name}=={metadata.version(name)}" for name in ("mlflow", "lvm-pipeline")]
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    environment = {"python": python_version, "dependencies": ["-r requirements.txt"]}
    (folder / "python_env.yaml").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")  # JSON is YAML


def widths_of(model_dir: Path) -> tuple[int, int]:
    """Return the widths of vectors and condition that a trained model was built for."""
    config = json.loads((model_dir / "trained_model.json").read_text(encoding="utf-8"))["config"]
    return int(config["vector_dim"]), int(config.get("condition_dim", 0))
