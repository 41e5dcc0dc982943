"""Statistics of each vector space, kept in the home and with every model, to check later vectors against."""

from pathlib import Path

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.spaces import fingerprint_of_table, read_spread
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import link_or_copy
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.space_fingerprint import (
    FILE,
    GROWTH,
    SpaceFingerprint,
    kept_path,
    read_fingerprint,
    write_fingerprint,
)
from lvm_pipeline.source.space_ids import is_declared


def space_fingerprint(settings: Settings, space_id: str) -> SpaceFingerprint | None:
    """Return the kept statistics of a space; None if there are none, or the space is not declared."""
    return read_fingerprint(kept_path(settings.spaces_dir, space_id)) if is_declared(space_id) else None


def keep_space_fingerprint(settings: Settings) -> None:
    """Keep the statistics of the promoted concepts, which have passed their checks, for later vectors of their space.

    Statistics of an earlier table are replaced only when there are twice as many concepts.
    """
    metadata = read_concepts_metadata(settings.concepts_path)
    before = space_fingerprint(settings, metadata.space_id)
    if not is_declared(metadata.space_id) or (
        before is not None and metadata.num_concepts < GROWTH * before.num_concepts
    ):
        return
    found = fingerprint_of_table(settings.concepts_path)
    if found is not None and (before is None or found.num_concepts >= GROWTH * before.num_concepts):
        write_fingerprint(kept_path(settings.spaces_dir, metadata.space_id), found)


def keep_with_model(model_dir: Path, tables: tuple[Path, Path, Path]) -> None:
    """Store the statistics of the concepts that a model was trained on beside its weights.

    `tables` are concept table, sequence table and folder of the memory-mapped vectors, which also keeps the statistics
    for the next model.
    """
    concepts_path, _, vectors_dir = tables
    kept = vectors_dir / f"{read_concepts_metadata(concepts_path).fingerprint}.{FILE}"
    if read_fingerprint(kept) is None:
        found = fingerprint_of_table(concepts_path)
        if found is None:
            return
        write_fingerprint(kept, found)
    link_or_copy(kept, model_dir / FILE)


def refuse_other_numbers(settings: Settings, concepts_path: Path) -> None:
    """Refuse a table whose vectors do not match the statistics of their declared space.

    Raises:
        LvmError: If they do not match, with what to do.
    """
    space_id = read_concepts_metadata(concepts_path).space_id
    fingerprint = space_fingerprint(settings, space_id)
    why = None if fingerprint is None else fingerprint.why_other(read_spread(concepts_path).vectors)
    if why is not None:
        raise LvmError(f"The vectors are declared as space {space_id}, but {why}; declare the space they come from.")
