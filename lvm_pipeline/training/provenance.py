"""Which code and which packages made a model."""

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("lvm-pipeline", "torch", "numpy", "safetensors", "pyarrow")
FOLDERS_THAT_DECIDE = ("architectures", "measures", "training")


@cache
def code_version() -> str:
    """Return the package's version with a hash of the sources that decide what a training computes."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for folder in FOLDERS_THAT_DECIDE:
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return f"{_version('lvm-pipeline')}+{digest.hexdigest()[:12]}"


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter for a result."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
