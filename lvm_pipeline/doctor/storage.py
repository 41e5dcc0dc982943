"""Examine LVM_HOME and its disk: permissions, free space, encoders."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.doctor.diagnosis import Diagnosis, Subject
from lvm_pipeline.doctor.source import source_bytes
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

HOME = Subject("storage", "LVM_HOME")
DISK = Subject("storage", "disk")
PRESET = Subject("storage", "preset")
ENCODERS = Subject("storage", "encoders")
ELSEWHERE = "Set LVM_HOME to a folder of your own on a disk with room."

COPIES_OF_THE_DATA = 3  # concept table, the next one staged beside it, and the memory-mapped vectors
BYTES_OF_A_PARAMETER = 20  # float32 weights, two moments and the best weights of a checkpoint, and the promoted model
OTHER_BYTES = 500_000_000  # databases, logs, reports, MLflow artifacts


def examine_storage(settings: Settings) -> Iterator[Diagnosis]:
    """Examine LVM_HOME, its disk, the preset and the encoders."""
    yield examine_home(settings.home)
    num_params = _largest_model(settings.preset)
    if num_params is None:
        yield PRESET.problem(
            f"no architecture has a preset {settings.preset}",
            "Set LVM_PRESET to one that `lvm list architectures` shows.",
        )
    needed = COPIES_OF_THE_DATA * source_bytes(settings) + BYTES_OF_A_PARAMETER * (num_params or 0) + OTHER_BYTES
    yield examine_disk(settings.home, needed_bytes=needed)
    yield from examine_encoders(settings)


def examine_home(home: Path) -> Diagnosis:
    """Write a file to LVM_HOME, or to the folder in which it would be created."""
    folder = _nearest_folder(home)
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        return HOME.problem(f"{folder} cannot be written to: {(error.strerror or str(error)).lower()}", ELSEWHERE)
    return HOME.ok(f"{home} is writable" if folder == home else f"{home} does not exist yet; it can be created")


def examine_disk(home: Path, *, needed_bytes: int) -> Diagnosis:
    """Compare the free space with what the data and a model need."""
    free = shutil.disk_usage(_nearest_folder(home)).free
    found = f"{_gigabytes(free)} free; data and a training of this preset take up to {_gigabytes(needed_bytes)}"
    return DISK.ok(found) if free >= needed_bytes else DISK.problem(found, f"Free space. {ELSEWHERE}")


def examine_encoders(settings: Settings) -> Iterator[Diagnosis]:
    """List the available encoders, and check that the concepts' encoder is among them."""
    from lvm_pipeline.source.encoders.registry import encoder_of_space

    kept = sorted(folder.name for folder in settings.encoders_dir.glob("*") if folder.is_dir())
    has_library = find_spec("sentence_transformers") is not None
    library = "sentence-transformers installed" if has_library else "sentence-transformers not installed (an extra)"
    yield ENCODERS.ok(f"lsa-768; {library}; kept in LVM_HOME: {', '.join(kept) or 'none'}")
    if not settings.concepts_path.is_file():
        return
    try:
        space_id = read_concepts_metadata(settings.concepts_path).space_id
    except LvmError as error:
        yield ENCODERS.refused(error, fix="Extract the concepts again with `lvm run`.")
        return
    if settings.encoder is None and encoder_of_space(space_id, encoders_dir=settings.encoders_dir) is None:
        yield ENCODERS.warning(
            f"none for {space_id}, the space of the concepts, so no texts are encoded again to check it",
            "Set LVM_ENCODER to the encoder's folder, with the extra `encoders` installed.",
        )


def _largest_model(preset: str) -> int | None:
    """Return the size of the largest model of a preset, None if no architecture has it."""
    from lvm_pipeline.architectures._registry import ARCHITECTURES

    of_each = (architecture.presets.get(preset) for architecture in ARCHITECTURES.values())
    return max((one.num_params for one in of_each if one is not None), default=None)


def _nearest_folder(path: Path) -> Path:
    """Return the path, or its nearest parent that is seen to exist."""
    # Other than Path.is_dir, isdir is False in a folder that this user cannot enter.
    return next(folder for folder in (path, *path.parents) if os.path.isdir(folder))  # noqa: PTH112


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB"
