"""The demo corpus: documentation strings of Python's standard library and of this project's libraries.

Sources are parsed, never imported. A module or a class is an article: its own documentation
string, then those of its functions, in the order of the source. The text depends on nothing but
the versions of Python and of the distributions in `DISTRIBUTIONS`, so machines with the same
constraints get the same corpus.
"""

import ast
import gc
import hashlib
import importlib.metadata
import json
import multiprocessing
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import staged_file
from lvm_pipeline.source.articles import MIN_WORDS, Article, group_sentences, make_article_id
from lvm_pipeline.source.prose import prose_paragraphs

DATASET_SOURCE = "python-docstrings"
CORPUS_VERSION = 1  # raise it when another text comes out of the same sources
MIN_CONCEPTS = 6
MAX_CONCEPTS = 40
MAX_READ = 3 * MAX_CONCEPTS  # repeated ones included
FILES_AT_ONCE = 32
MIN_NEW_FRACTION = 0.5
PHRASE_WORDS = 5
MIN_BYTES = 3_000  # of documentation; a source with less hardly fills an article and is not parsed,
MIN_FRACTION = 0.05  # nor one that is nearly all code

# Distribution and the packages (folders) of it that are read.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "scikit-learn": ("sklearn",),
    "pandas": ("pandas",),
    "matplotlib": ("matplotlib",),
    "networkx": ("networkx",),
    "sympy": ("sympy",),
    "torch": tuple(
        f"torch/{part}" for part in ("autograd", "distributed", "distributions", "fx", "nn", "optim", "utils")
    ),
    "SQLAlchemy": ("sqlalchemy",),
    "dagster": ("dagster",),
    "mlflow": ("mlflow",),
    "Jinja2": ("jinja2",),
    "psycopg": ("psycopg",),
    "pyarrow": ("pyarrow",),
    "filelock": ("filelock",),
}
SKIPPED_FOLDERS = {
    "test",
    "tests",
    "testing",
    "conftest",
    "benchmarks",
    "examples",
    "protos",
    "_generated",
    "__pycache__",
}
SKIPPED_FOLDERS |= {"vendored", "_vendor", "_vendored", "externals", "_external", "array_api_compat", "array_api_extra"}
# What some systems package apart from the standard library, or Python 3.12 removed, and what is no part of it.
SKIPPED_FOLDERS |= {"idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "venv", "distutils", "pydoc_data"}
SKIPPED_FOLDERS |= {"site-packages", "dist-packages", "lib-dynload"}
SKIPPED_MODULES = re.compile(
    r"(?:_sysconfigdata\w*|sitecustomize|usercustomize|antigravity|this|turtle|conftest|test_.*|.*_pb2)$"
)


Reading = tuple[str, list[str]]  # title and concepts


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One Python source and the dotted name it is imported by."""

    path: Path
    module: str


def docstring_corpus(*, num_processes: int = 1) -> Iterator[Article]:
    """Give every article of the corpus, in a fixed order, repeated text left out.

    A concept of which half was said before (by phrases of five words) is dropped; so is an
    article that keeps fewer than 6 concepts. An article ends after its first 40 concepts. More
    processes are faster and change nothing; a script that asks for them guards its main module.

    Raises:
        LvmError: If a distribution of `DISTRIBUTIONS` is not installed.
    """
    said: set[str] = set()
    for title, concepts in _read_sources(num_processes):
        kept = tuple(islice((concept for concept in concepts if is_new(concept, said=said)), MAX_CONCEPTS))
        if len(kept) >= MIN_CONCEPTS:
            yield Article(article_id=make_article_id(DATASET_SOURCE, title), title=title, concepts=kept)


def demo_articles(folder: Path, *, num_processes: int = 1) -> Path:
    """Write the corpus to a JSONL file for `ingest` and return its path; one that is there already is kept.

    The file's name holds the versions of everything that was read, so other versions make another file.
    """
    path = folder / f"{DATASET_SOURCE}-{corpus_key()}.jsonl"
    if not path.exists():
        with staged_file(path) as staged, staged.open("w", encoding="utf-8") as lines:
            for article in docstring_corpus(num_processes=num_processes):
                record = {"article_id": article.article_id, "title": article.title, "concepts": article.concepts}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


def corpus_key() -> str:
    """Return 12 hex digits that stand for the versions of all that the corpus is read from."""
    versions = {name: _distribution(name).version.split("+")[0] for name in DISTRIBUTIONS}
    inputs = [CORPUS_VERSION, ".".join(map(str, sys.version_info[:3])), versions]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:12]


def source_files() -> Iterator[SourceFile]:
    """List the Python sources to read: the standard library, then each distribution, each by name.

    Raises:
        LvmError: If a distribution of `DISTRIBUTIONS` is not installed.
    """
    yield from _files_below(Path(sysconfig.get_paths()["stdlib"]), prefix="")
    for name, packages in DISTRIBUTIONS.items():
        distribution = _distribution(name)
        for package in packages:
            folder = Path(str(distribution.locate_file(package)))
            yield from _files_below(folder, prefix=package.replace("/", ".") + ".")


def read_source(source: SourceFile) -> list[Reading]:
    """Return title and concepts of each article in a source, as many as an article can need."""
    with _garbage_collection_off():
        found = ((title, list(islice(concepts_of_docstrings(texts), MAX_READ))) for title, texts in documented(source))
        return [(title, concepts) for title, concepts in found if len(concepts) >= MIN_CONCEPTS]


def _read_sources(num_processes: int) -> Iterator[Reading]:
    sources = list(source_files())
    if num_processes == 1:
        yield from chain.from_iterable(map(read_source, sources))
        return
    context = multiprocessing.get_context("spawn")  # forking is not safe beside other threads
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        yield from chain.from_iterable(pool.map(read_source, sources, chunksize=FILES_AT_ONCE))


def documented(source: SourceFile) -> Iterator[tuple[str, list[str]]]:
    """Give the title and documentation strings of the module and of each class in it, in source order."""
    text = source.path.read_bytes()
    num_bytes = sum(map(len, text.split(b'"""')[1::2]))
    if num_bytes < max(MIN_BYTES, MIN_FRACTION * len(text)):
        return
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            module = ast.parse(text)
    except (SyntaxError, ValueError):  # a source for another version of Python
        return
    yield from _documented(module, title=source.module)


def concepts_of_docstrings(docstrings: Iterable[str]) -> Iterator[str]:
    """Cut documentation strings to concepts of 20 to 60 words that read as English; none joins two strings."""
    for docstring in docstrings:
        concepts = group_sentences(prose_paragraphs(docstring))
        yield from (concept for concept in concepts if len(concept.split()) >= MIN_WORDS)


def is_new(concept: str, *, said: set[str]) -> bool:
    """Say whether more than half of a concept's phrases are not in `said`; adds those of a new concept to it."""
    words = re.findall(r"\w+", concept.lower())
    phrases = {" ".join(words[i : i + PHRASE_WORDS]) for i in range(max(1, len(words) - PHRASE_WORDS + 1))}
    if len(phrases - said) <= MIN_NEW_FRACTION * len(phrases):
        return False
    said |= phrases
    return True


def _documented(node: ast.Module | ast.ClassDef, *, title: str) -> Iterator[tuple[str, list[str]]]:
    functions = [child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)]
    yield title, [text for part in (node, *functions) if (text := ast.get_docstring(part, clean=False))]
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, title=f"{title}.{child.name}")


def _files_below(folder: Path, *, prefix: str) -> Iterator[SourceFile]:
    """List the sources below a folder in the order of their dotted names, skipped parts left out."""
    entries = sorted(folder.iterdir(), key=lambda entry: (entry.is_dir(), entry.name))
    for entry in entries:
        if entry.is_dir() and entry.name not in SKIPPED_FOLDERS and entry.name.isidentifier():
            yield from _files_below(entry, prefix=f"{prefix}{entry.name}.")
        elif entry.suffix == ".py" and not SKIPPED_MODULES.match(entry.stem):
            name = prefix.removesuffix(".") if entry.stem == "__init__" else prefix + entry.stem
            yield SourceFile(path=entry, module=name)


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise LvmError(
            f"The demo corpus is read from {name}, which is not installed; install this project with its dependencies."
        ) from None


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Switch the cycle collector off: it slows parsing by half and finds nothing there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
