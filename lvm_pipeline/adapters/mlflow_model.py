"""A trained model as an MLflow model: safetensors and JSON, loaded by this module without pickle.

MLflow calls `_load_pyfunc`, so `mlflow.pyfunc.load_model("models:/lvm@champion").predict(contexts)` works wherever this
package is installed. `lvm serve --mlflow` starts MLflow's own server on it.
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

    from lvm_pipeline.inference.contexts import ContextPredictor

DATA = "trained_model"  # folder of the trained model inside the MLflow model
EXAMPLE, SERVING_EXAMPLE = "input_example.json", "serving_input_example.json"  # MLflow's names


class Predictor:
    """Predicts the next concept's vector from context vectors; what it cannot use is an MLflow error with the reason.

    MLflow's server answers such an error with status 400; any other exception would show its traceback.
    """

    def __init__(self, predictor: "ContextPredictor"):
        self._predictor = predictor

    def predict(
        self, inputs: "NDArray[np.float32] | Mapping[str, NDArray[np.float32]]", params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """Return the predictions (B, D) after contexts (B, T, D).

        For a model with a condition, inputs are `contexts` and their `condition` (B, T, C). MLflow's `params` are
        unused.

        Raises:
            MlflowException: If the contexts cannot be used: missing, not finite, too long or of the wrong width.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

        named = inputs if isinstance(inputs, Mapping) else {"contexts": inputs}
        try:
            return self._predictions(named)
        except LvmError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None

    def _predictions(self, named: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        if "contexts" not in named:
            raise LvmError(f"The input has no field contexts; it has {', '.join(named)}.")
        contexts, conditions = named["contexts"], named.get("condition")
        if not len(contexts):
            raise LvmError("There is no context in the input; give at least one.")
        if conditions is not None and len(conditions) != len(contexts):
            raise LvmError(f"There are {len(contexts)} contexts and {len(conditions)} conditions; give one for each.")
        beside = [None] * len(contexts) if conditions is None else conditions
        return self._predictor.predict(
            [self._predictor.context(vectors, condition) for vectors, condition in zip(contexts, beside, strict=True)]
        )


def _load_pyfunc(path: str) -> Predictor:
    from lvm_pipeline.inference.contexts import ContextPredictor
    from lvm_pipeline.source.space_fingerprint import FILE, read_fingerprint
    from lvm_pipeline.training.trained_model import load_trained_model

    fingerprint = read_fingerprint(Path(path) / FILE)
    return Predictor(ContextPredictor(*load_trained_model(Path(path)), fingerprint=fingerprint))


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
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([TensorSpec(number, (-1, vector_dim), name=None)]))


def write_description(folder: Path, *, model_dir: Path, model_id: str, run_id: str) -> None:
    """Write the files that MLflow needs: `MLmodel`, the environment and an input example.

    `mlflow.pyfunc.save_model` does the same, but takes seconds to inspect all installed packages.
    """
    from mlflow.models import Model

    widths = widths_of(model_dir)
    description = Model(
        artifact_path=None,
        run_id=run_id,
        model_id=model_id,
        signature=model_signature(*widths),
        saved_input_example_info=_write_example(folder, *widths),
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


def _write_example(folder: Path, vector_dim: int, condition_dim: int) -> dict[str, str]:
    """Write one context of two concepts in MLflow's two formats, and return what `MLmodel` says of them."""
    vectors = np.zeros((1, 2, vector_dim))
    vectors[:, [0, 1], [0, -1]] = 1
    example: Any = vectors.tolist()
    if condition_dim:
        example = {"contexts": example, "condition": np.zeros((1, 2, condition_dim)).tolist()}
    (folder / EXAMPLE).write_text(json.dumps(example) + "\n", encoding="utf-8")
    (folder / SERVING_EXAMPLE).write_text(json.dumps({"inputs": example}) + "\n", encoding="utf-8")
    return {"artifact_path": EXAMPLE, "serving_input_path": SERVING_EXAMPLE, "type": "ndarray"}


def widths_of(model_dir: Path) -> tuple[int, int]:
    """Return the widths of vectors and condition that a trained model was built for."""
    config = json.loads((model_dir / "trained_model.json").read_text(encoding="utf-8"))["config"]
    return int(config["vector_dim"]), int(config.get("condition_dim", 0))
