"""Find the architectures: each module of this folder declares one, unless its name starts with an underscore.

Beside the architectures there are baseline models (`is_baseline` in the declaration): they are trained, promoted and
served in the same way, but `all` does not include them and they have no partitions in Dagster.
"""

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.errors import LvmError
from lvm_pipeline.imports import lasting_imports

if TYPE_CHECKING:
    from lvm_pipeline.architectures._contract import Architecture

PACKAGE = "lvm_pipeline.architectures"
PRESET = re.compile(r"""["'](\w+)["']\s*:\s*Preset\(""")


def architecture_names() -> list[str]:
    """Return the names of all architectures, sorted, variants of others last, without importing any (nor torch)."""
    names = [name for name in _module_names() if not _declares(name, "is_baseline=True")]
    return sorted(names, key=lambda name: (_declares(name, r"variant_of=\"\w+\""), name))


def preset_names() -> list[str]:
    """Return the names of the presets of all architectures, the most common first, without importing any."""
    folder = Path(__file__).parent
    found = Counter(
        preset
        for name in _module_names()
        for preset in PRESET.findall((folder / f"{name}.py").read_text(encoding="utf-8"))
    )
    return [name for name, _ in found.most_common()]


def baseline_model_names() -> list[str]:
    """Return the names of the baseline models, sorted, without importing any."""
    return [name for name in _module_names() if _declares(name, "is_baseline=True")]


def all_model_names() -> list[str]:
    """Return every name that can be trained: the architectures, then the baseline models."""
    return [*architecture_names(), *baseline_model_names()]


@cache
def _module_names() -> tuple[str, ...]:
    folder = str(Path(__file__).parent)
    return tuple(sorted(each.name for each in pkgutil.iter_modules([folder]) if not each.name.startswith("_")))


@cache
def _declares(name: str, pattern: str) -> bool:
    """Whether a module's declaration has a line of this pattern."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return re.search(rf"^    {pattern},$", source, re.MULTILINE) is not None


def architectures_named(words: str) -> list[str]:
    """Return the architectures that a text names, separated by commas or spaces; `all` is every one of them.

    Raises:
        LvmError: If there is none of a name; the message lists what exists.
    """
    wanted = words.replace(",", " ").split()
    if "all" in wanted:
        return architecture_names()
    unknown = [name for name in wanted if name not in all_model_names()]
    if unknown:
        raise LvmError(_unknown(", ".join(unknown)))
    return list(dict.fromkeys(wanted))


def _unknown(name: str) -> str:
    return (
        f"There is no architecture {name}; there are {', '.join(architecture_names())}, and the baseline models "
        f"{', '.join(baseline_model_names())}."
    )


def load_architecture(name: str) -> "Architecture":
    """Import the module of one architecture or baseline model and return what it declares.

    Raises:
        LvmError: If there is none of that name; the message lists what exists.
        ValueError: If the module declares another name than its own.
    """
    if name not in all_model_names():
        raise LvmError(_unknown(repr(name)))
    with lasting_imports():
        architecture = importlib.import_module(f"{PACKAGE}.{name}").ARCHITECTURE
    if architecture.name != name:
        raise ValueError(f"module {name} declares the architecture {architecture.name!r}")
    return architecture


class _Architectures(Mapping[str, "Architecture"]):
    """All architectures by name, each imported when it is first asked for; baseline models are found but not listed."""

    def __getitem__(self, name: str) -> "Architecture":
        if name not in all_model_names():
            raise KeyError(name)
        return load_architecture(name)

    def __iter__(self) -> Iterator[str]:
        return iter(architecture_names())

    def __len__(self) -> int:
        return len(architecture_names())


ARCHITECTURES: Mapping[str, "Architecture"] = _Architectures()
