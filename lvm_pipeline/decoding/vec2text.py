"""vec2text (Morris et al. 2023, arXiv 2310.06816): inversion of GTR-T5 vectors, in an environment of its own.

vec2text 0.0.13 does not run with transformers 5, so it is installed apart (`lvm vec2text install`) and called as a
child process. Two spaces are named GTR-T5-base, each with weights of its own; neither decodes the other's vectors:

    ielab   sentence-transformers GTR-T5-base: mean pool, dense layer, unit length (weights: ielabgroup)
    jxe     the T5 encoder alone: mean pool, not normalised (weights: jxm)
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.decoding import vec2text_child
from lvm_pipeline.decoding._contract import Rows, refuse_other_shape
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.encoders.sentence_transformer import bare_space

VECTOR_DIM = 768
WEIGHTS = ("inversion", "corrector")
TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One of the two spaces: how its id begins, and where the weights are on the model hub."""

    space: str
    inversion: str
    corrector: str


VARIANTS: Mapping[str, Variant] = {
    "ielab": Variant(
        space="gtr-t5-base/mean/dense-768x768/l2",
        inversion="ielabgroup/vec2text_gtr-base-st_inversion",
        corrector="ielabgroup/vec2text_gtr-base-st_corrector",
    ),
    "jxe": Variant(
        space="gtr-t5-base/mean/no-dense/no-norm", inversion="jxm/gtr__nq__32", corrector="jxm/gtr__nq__32__correct"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Vec2Text:
    """Decodes vectors of one of the two spaces."""

    name: str  # `vec2text ielab` or `vec2text jxe`
    space_id: str  # the space of the vectors
    python: Path  # interpreter of vec2text's environment
    weights_dir: Path  # folder with `inversion` and `corrector`, and `base` and `embedder` where there is no network
    num_steps: int = 6  # steps of correction; 0 gives the first hypothesis
    beam: int = 0  # width of the sequence-level beam; 0 is greedy
    device: str = "cpu"  # `cpu` or `cuda`

    @property
    def identity(self) -> str:
        """Changes with its weights' folders and its options."""
        made = [(self.weights_dir / part / "config.json").stat().st_mtime_ns for part in WEIGHTS]
        return f"{self.name} {self.weights_dir} {made} {self.num_steps} {self.beam}"

    def decode(self, vectors: NDArray[np.float32], *, exclude: Sequence[Rows] | None = None) -> list[str]:
        """Return the text of each vector; `exclude` is ignored.

        Raises:
            LvmError: If the child process fails, with its reason.
        """
        refuse_other_shape(self.name, vectors, VECTOR_DIM)
        if not len(vectors):
            return []
        with tempfile.TemporaryDirectory(prefix="lvm-vec2text-") as folder:
            path = Path(folder) / "vectors.npz"
            np.savez(path, vectors=np.asarray(vectors, np.float32))
            request = {
                "weights": str(self.weights_dir),
                "vectors": str(path),
                "steps": self.num_steps,
                "beam": self.beam,
                "device": self.device,
            }
            texts = self._answer(request).get("texts")
        if not isinstance(texts, list) or len(texts) != len(vectors):
            raise LvmError(f"{self.name} did not return one text for each of {len(vectors)} vectors; install it again.")
        return [str(text) for text in texts]

    def _answer(self, request: Mapping[str, object]) -> dict[str, object]:
        # Isolated: this folder, whose vec2text.py would hide the package, is not on the child's path.
        command = [str(self.python), "-I", str(Path(vec2text_child.__file__))]
        try:
            done = subprocess.run(
                command,
                input=json.dumps(request) + "\n",
                capture_output=True,
                encoding="utf-8",
                errors="replace",  # of what native libraries print
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise LvmError(f"{self.name} took longer than {TIMEOUT_SECONDS:.0f} s; decode fewer vectors.") from None
        except OSError as error:
            raise LvmError(f"{self.name} did not answer ({error}); run `lvm vec2text install` again.") from None
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            raise LvmError(f"{self.name} did not answer ({_ending(done)}); run `lvm vec2text install` again.") from None
        if "error" in answer:
            raise LvmError(f"{self.name} failed ({answer['error']}); see whether {self.weights_dir} is complete.")
        return answer


def _ending(done: "subprocess.CompletedProcess[str]") -> str:
    """Return how a process ended that gave no answer, with the last line of its error output."""
    lines = done.stderr.strip().splitlines()
    return f"its process ended with code {done.returncode}" + (f": {lines[-1]}" if lines else "")


def _layout(space_id: str) -> str:
    """Return encoder and layers of a space id; the text length limit in it does not matter for decoding."""
    return (space_id if "/dim-" in space_id else bare_space(space_id)).partition("@")[0]


def is_decoded(space_id: str) -> bool:
    """Whether one of the two variants decodes a space."""
    return _layout(space_id) in {variant.space for variant in VARIANTS.values()}


def variant_of(space_id: str) -> str:
    """Return which variant decodes a space. Raises LvmError if neither does."""
    found = [name for name, variant in VARIANTS.items() if _layout(space_id) == variant.space]
    if not found:
        known = " or ".join(f"{variant.space} ({name})" for name, variant in VARIANTS.items())
        raise LvmError(f"vec2text does not decode vectors of space {space_id}, only of {known}; use another decoder.")
    return found[0]


def open_vec2text(folder: Path, *, space_id: str, num_steps: int = 6) -> Vec2Text:
    """Return the decoder of a space; the folder holds the environment `env` and the weights of each variant.

    Raises:
        LvmError: If no variant decodes this space, or the environment or the weights are missing.
    """
    name = variant_of(space_id)
    python, weights = environment_python(folder), folder / name
    if not python.is_file():
        raise LvmError("vec2text is not installed; run `lvm vec2text install`.")
    missing = [str(weights / part) for part in WEIGHTS if not (weights / part / "config.json").is_file()]
    if missing:
        variant = VARIANTS[name]
        raise LvmError(
            f"The weights of vec2text are missing in {' and '.join(missing)}; download {variant.inversion} and "
            f"{variant.corrector} with `lvm vec2text install --weights {name}`, or copy them there."
        )
    return Vec2Text(
        name=f"vec2text {name}",
        space_id=space_id,
        python=python,
        weights_dir=weights,
        num_steps=num_steps,
    )


def environment_python(folder: Path) -> Path:
    """Return the interpreter of vec2text's environment, whether it exists or not."""
    return folder / "env" / "bin" / "python"
