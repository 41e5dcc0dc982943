"""Find the architectures: one a module of this folder, underscore marks machinery."""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.errors import LvmError

if TYPE_CHECKING:
    from lvm_pipeline.architectures._contract import Architecture

PACKAGE = "lvm_pipeline.architectures"


def architecture_names() -> list[str]:
    """Return the names of all architectures, sorted, variants of others last, without importing any (nor torch)."""
    folder = Path(__file__).parent
    names = [module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_")]
    return sorted(names, key=lambda name: (_is_variant(folder / f"{name}.py"), name))


@cache
def _is_variant(path: Path) -> bool:
    """Whether the module's declaration names an architecture that it is a variant of."""
    return re.search(r"^    variant_of=\"\w+\",$", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def architectures_named(words: str) -> list[str]:
    """Return the architectures that some words name, between commas or spaces; `all` is every one.

    Raises:
        LvmError: If there is none of a name; the message lists what exists.
    """
    known = architecture_names()
    wanted = words.replace(",", " ").split()
    if "all" in wanted:
        return known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise LvmError(f"There is no architecture {', '.join(unknown)}; there are {', '.join(known)}.")
    return list(dict.fromkeys(wanted))


def load_architecture(name: str) -> "Architecture":
    """Import one architecture.

    Returns:
        What the module declares.

    Raises:
        LvmError: If there is none of that name; the message lists what exists.
        ValueError: If the module declares another name than its own.
    """
    if name not in architecture_names():
        raise LvmError(f"There is no architecture {name!r}; there are {', '.join(architecture_names())}.")
    architecture = importlib.import_module(f"{PACKAGE}.{name}").ARCHITECTURE
    if architecture.name != name:
        raise ValueError(f"module {name} declares the architecture {architecture.name!r}")
    return architecture


class _Architectures(Mapping[str, "Architecture"]):
    """All architectures by name, each imported when it is first asked for."""

    def __getitem__(self, name: str) -> "Architecture":
        if name not in architecture_names():
            raise KeyError(name)
        return load_architecture(name)

    def __iter__(self) -> Iterator[str]:
        return iter(architecture_names())

    def __len__(self) -> int:
        return len(architecture_names())


ARCHITECTURES: Mapping[str, "Architecture"] = _Architectures()
