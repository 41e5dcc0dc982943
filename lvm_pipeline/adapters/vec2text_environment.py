"""Install vec2text in an environment of its own, and its weights."""

import subprocess
import sys
from pathlib import Path

from lvm_pipeline.decoding.vec2text import VARIANTS, environment_python
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import staged_dir

REQUIREMENTS = (  # versions that were run together
    "torch",
    "vec2text==0.0.13",
    "transformers==4.49.0",
    "sentence-transformers==3.4.1",
    "accelerate==1.4.0",
    "optimum==1.27.0",
)
DOWNLOAD = (
    "import sys; from huggingface_hub import snapshot_download; snapshot_download(sys.argv[1], local_dir=sys.argv[2])"
)


def install_environment(folder: Path) -> Path:
    """Create the environment, or complete it, and return its interpreter. Takes minutes and several gigabytes.

    Raises:
        LvmError: If a package cannot be installed.
    """
    python = environment_python(folder)
    if not _has_pip(python):
        _run([sys.executable, "-m", "venv", "--clear", str(folder / "env")], "create the environment of vec2text")
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS]
    _run(command, "install vec2text")
    _run([str(python), "-c", "import vec2text"], "import vec2text in its environment")
    return python


def _has_pip(python: Path) -> bool:
    """Whether the environment was created to its end; an interrupted creation leaves an interpreter without pip."""
    command = [str(python), "-m", "pip", "--version"]
    return python.is_file() and subprocess.run(command, capture_output=True).returncode == 0


def install_weights(folder: Path, variant: str) -> Path:
    """Download the weights of a variant and return their folder. Raises LvmError if the model hub cannot be reached."""
    found = VARIANTS[variant]
    for part, repository in (("inversion", found.inversion), ("corrector", found.corrector)):
        target = folder / variant / part
        if (target / "config.json").is_file():
            continue
        with staged_dir(target) as staged:
            command = [str(environment_python(folder)), "-c", DOWNLOAD, repository, str(staged)]
            _run(command, f"download {repository}")
    return folder / variant


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise LvmError(f"Could not {what} ({lines[-1][:300]}); see whether the network is reachable and try again.")
