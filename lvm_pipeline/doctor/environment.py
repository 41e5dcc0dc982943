"""Examine Python, packages, PyTorch and GPU."""

import importlib.metadata
import platform
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lvm_pipeline.adapters import nvidia
from lvm_pipeline.doctor.diagnosis import Diagnosis, Subject
from lvm_pipeline.errors import LvmError, first_line
from lvm_pipeline.settings import Settings
from lvm_pipeline.words import counted

PROJECT = "lvm-pipeline"
PYTHON = Subject("environment", "Python")
PACKAGES = Subject("environment", "packages")
TORCH = Subject("environment", "PyTorch")
GPU = Subject("environment", "GPU")
REINSTALL = "Run `make setup`, or pip install --constraint constraints.txt --editable . in a checkout."


def examine_environment(settings: Settings | None) -> Iterator[Diagnosis]:
    """Examine what is installed and the device that training would use (`auto` without settings)."""
    project = _project()
    yield examine_python(project)
    yield examine_packages(project)
    yield from examine_devices("auto" if settings is None else settings.device)


def examine_python(project: importlib.metadata.PackageMetadata | None) -> Diagnosis:
    """Compare the version of Python with the project's requirement."""
    version = platform.python_version()
    found = f"{version} at {sys.executable}"
    if project is None:
        return PYTHON.warning(f"{found}; the project is not installed, so its requirements are unknown", REINSTALL)
    allowed = SpecifierSet(project["Requires-Python"] or "")
    if version not in allowed:
        return PYTHON.problem(
            f"{found}, but {allowed} is needed", "Run `make clean` and `make PYTHON=python3.12 setup`."
        )
    return PYTHON.ok(f"{found} ({allowed})")


def examine_packages(project: importlib.metadata.PackageMetadata | None) -> Diagnosis:
    """Compare the installed packages with the project's requirements."""
    if project is None:
        return PACKAGES.warning("not checked, since the project is not installed", REINSTALL)
    requirements = [Requirement(line) for line in project.get_all("Requires-Dist") or []]
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = list(filter(None, map(_wrong, needed)))
    if wrong:
        return PACKAGES.problem("; ".join(wrong), REINSTALL)
    return PACKAGES.ok(f"{len(needed)} packages, each in its version range")


def examine_devices(device: str) -> Iterator[Diagnosis]:
    """Report the build of PyTorch and whether it can use the GPU of this machine."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: an incompatible shared library
        yield TORCH.problem(f"cannot be imported: {first_line(error)}", REINSTALL)
        return
    from lvm_pipeline.training.settle import find_device

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield TORCH.ok(f"{torch.__version__} ({build}, {counted(torch.get_num_threads(), 'thread')})")
    try:
        used = find_device(device)
    except LvmError as error:
        yield GPU.refused(error, fix="Set LVM_DEVICE to auto.")
        return
    yield _gpu(used, seen=nvidia.gpus(), is_cuda_build=torch.version.cuda is not None)


def _gpu(used: str, *, seen: list[str], is_cuda_build: bool) -> Diagnosis:
    import torch

    if used.startswith("cuda"):
        memory = torch.cuda.get_device_properties(used).total_memory
        return GPU.ok(f"{torch.cuda.get_device_name(used)}, {memory / 2**30:.0f} GiB; training uses it")
    if torch.cuda.is_available():
        return GPU.warning(f"{torch.cuda.get_device_name()} is available, but LVM_DEVICE=cpu", "Unset LVM_DEVICE.")
    if not seen:
        return GPU.ok("none; training uses the CPU")
    reason = "PyTorch cannot use it" if is_cuda_build else "this PyTorch is a CPU build"
    fix = "Update the driver to one for this CUDA." if is_cuda_build else "Install PyTorch with CUDA (pytorch.org)."
    return GPU.warning(f"{', '.join(seen)} is installed, but {reason}; training uses the CPU", fix)


def _project() -> importlib.metadata.PackageMetadata | None:
    try:
        return importlib.metadata.metadata(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        return None


def _wrong(requirement: Requirement) -> str | None:
    """Return what is wrong with an installed package, None if nothing is."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed ({requirement.specifier or 'any version'} is needed)"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} is {version}, but {requirement.specifier} is needed"
