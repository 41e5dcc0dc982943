"""Private names of Dagster, MLflow and torch are imported in one module each; an upgrade that moves one fails here."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import lvm_pipeline

PACKAGE = Path(lvm_pipeline.__file__).parent
DAGSTER = PACKAGE / "defs" / "dagster_internals.py"
MLFLOW = PACKAGE / "adapters" / "mlflow_internals.py"
TORCH = PACKAGE / "architectures" / "_torch_internals.py"
TORCH_NAME = re.compile(r"\btorch(?:\.\w+)*\._(?!_)\w+(?:\.\w+)*")
PRIVATE = re.compile(r"\._")


def imports(path, library):
    """Module and name of every `from library... import name`."""
    tree = ast.parse(path.read_text())
    return [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == library
        for alias in node.names
    ]


@pytest.mark.parametrize(("library", "path"), [("dagster", DAGSTER), ("mlflow", MLFLOW)])
def test_every_private_name_is_where_it_is_imported_from(library, path):
    found = imports(path, library)
    moved = []
    for module, name in found:
        try:
            getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            moved.append(f"{module}.{name}")

    assert found
    assert not moved, f"This version of {library} has moved {', '.join(moved)}; change {path.name}."


@pytest.mark.parametrize(("library", "path"), [("dagster", DAGSTER), ("mlflow", MLFLOW)])
def test_private_names_are_imported_in_one_module(library, path):
    others = {
        f"{other.relative_to(PACKAGE)}: {module}.{name}"
        for other in PACKAGE.rglob("*.py")
        if other != path
        for module, name in imports(other, library)
        if PRIVATE.search(f"{module}.{name}")
    }

    assert not others, f"Import these in {path.name}: {sorted(others)}"


def test_every_private_name_of_torch_is_where_it_is_used():
    found = set(TORCH_NAME.findall(TORCH.read_text()))
    found |= {f"{module}.{name}" for module, name in imports(TORCH, "torch") if PRIVATE.search(module)}
    moved = []
    for dotted in sorted(found):
        try:
            pkgutil.resolve_name(dotted)
        except (ImportError, AttributeError):
            moved.append(dotted)

    assert len(found) >= 5
    assert not moved, f"This version of torch has moved {', '.join(moved)}; change {TORCH.name}."


def test_private_names_of_torch_are_used_in_one_module():
    others = {
        f"{other.relative_to(PACKAGE)}: {name}"
        for other in PACKAGE.rglob("*.py")
        if other != TORCH
        for name in TORCH_NAME.findall(other.read_text())
    }

    assert not others, f"Use these through {TORCH.name}: {sorted(others)}"
