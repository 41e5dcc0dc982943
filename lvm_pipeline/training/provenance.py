"""Versions of the code and packages that a result was made with."""

import ast
import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lvm_pipeline.training.trial import names_of_strategies

PACKAGES = ("lvm-pipeline", "torch", "numpy", "safetensors", "pyarrow")
ROOT = Path(__file__).parent.parent
PACKAGE = ROOT.name
TRAINING = f"{PACKAGE}.training.loop"


def training_code_version(architecture: str, strategy: str) -> str:
    """Return the version of the code that trains one architecture with one or several strategies."""
    strategies = [f"{PACKAGE}.training.strategies.{name}" for name in names_of_strategies(strategy)]
    return code_version(TRAINING, f"{PACKAGE}.architectures.{architecture}", *strategies)


@cache
def code_version(module: str, *others: str) -> str:
    """Return the package's version and a hash of one or more modules with everything of this package that they import.

    Comments, docstrings and formatting do not count.
    """
    digest = hashlib.sha256()
    for name in sorted(import_closure((module, *others))):
        digest.update(_code_of(name))
    return f"{_version('lvm-pipeline')}+{digest.hexdigest()[:12]}"


def import_closure(modules: tuple[str, ...]) -> set[str]:
    """Return the given modules and every module of this package that they import, directly or indirectly."""
    found: set[str] = set()
    waiting = [*modules]
    while waiting:
        name = waiting.pop()
        if name not in found and _path_of(name) is not None:
            found.add(name)
            waiting += _imports_of(name)
    return found


@cache
def _code_of(module: str) -> bytes:
    return f"{module}\n{ast.dump(_tree_of(module))}".encode()


@cache
def _tree_of(module: str) -> ast.Module:
    path = _path_of(module)
    assert path is not None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        can_have_docstring = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if can_have_docstring and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return tree


@cache
def _imports_of(module: str) -> tuple[str, ...]:
    """Return the modules of this package that one imports anywhere, except for type checkers."""
    waiting: list[ast.AST] = [_tree_of(module)]
    found: list[str] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif not isinstance(node, ast.expr):  # no expression holds an import
            waiting += ast.iter_child_nodes(node)
    return tuple(found)


@cache
def _path_of(module: str) -> Path | None:
    """Return the file of a module of this package; None for names that are none."""
    first, *rest = module.split(".")
    if first != PACKAGE:
        return None
    candidates = (ROOT.joinpath(*rest).with_suffix(".py"), ROOT.joinpath(*rest) / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter for a result."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
