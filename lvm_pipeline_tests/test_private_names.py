"""Private names of Dagster and MLflow are imported in one module each; an upgrade that moves one fails here."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import lvm_pipeline

PACKAGE = Path(lvm_pipeline.__file__).parent
DAGSTER = PACKAGE / "defs" / "dagster_internals.py"
MLFLOW = PACKAGE / "adapters" / "mlflow_internals.py"
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
