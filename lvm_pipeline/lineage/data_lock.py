"""One process at a time makes concepts and sequences."""

from contextlib import AbstractContextManager

from lvm_pipeline.files import only_one
from lvm_pipeline.settings import Settings


def data_locked(settings: Settings) -> AbstractContextManager[None]:
    """Keep other processes from making concepts or sequences while the block runs, from extraction to promotion.

    Otherwise an older extraction that takes longer would replace a newer one.

    Raises:
        LvmError: If another process is making them.
    """
    problem = f"Another run is making the concepts or sequences of {settings.home}; wait for its end and try again."
    return only_one(settings.home / "cache" / "data.lock", problem)
