"""The demo corpus: documentation strings of Python's standard library and of this project's libraries.

Sources are parsed, never imported. Each module and each class is an article: its own documentation
string, then those of its functions, in source order. The text depends only on the versions of Python
and of the distributions in `DISTRIBUTIONS`, so the same lock file gives the same corpus on every machine.
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
CORPUS_VERSION = 1  # increase it if the same sources give another text
MIN_CONCEPTS = 6
MAX_CONCEPTS = 40
MAX_READ = 3 * MAX_CONCEPTS  # including repeated ones
FILES_AT_ONCE = 32
MIN_NEW_FRACTION = 0.5
PHRASE_WORDS = 5
MIN_BYTES = 3_000  # of documentation; a source with less is not parsed
MIN_FRACTION = 0.05  # of documentation in a source

# The packages (folders) that are read of each distribution.
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
SKIPPED_FOLDERS = """
    test tests testing conftest benchmarks examples protos _generated __pycache__
    vendored _vendor _vendored externals _external array_api_compat array_api_extra
    idlelib tkinter turtledemo lib2to3 ensurepip venv distutils pydoc_data
    site-packages dist-packages lib-dynload
""".split()  # noqa: SIM905 - read as a list of words
SKIPPED_MODULES = re.compile(
    r"(?:_sysconfigdata\w*|sitecustomize|usercustomize|antigravity|this|turtle|conftest|test_.*|.*_pb2)$"
)


TitledConcepts = tuple[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A Python source file and its dotted module name."""

    path: Path
    module: str


def docstring_corpus(*, num_processes: int = 1) -> Iterator[Article]:
    """Yield every article of the corpus, in a fixed order, without repeated text.

    A concept is dropped if at least half of its phrases of five words appeared before, and an article if it keeps
    fewer than 6 concepts. An article ends after its first 40 concepts. The number of processes does not change the
    result; a script that uses more than one must guard its main module.

    Raises:
        LvmError: If a distribution of `DISTRIBUTIONS` is not installed.
    """
    seen: set[str] = set()
    for title, concepts in _read_sources(num_processes):
        kept = tuple(islice((concept for concept in concepts if is_new(concept, seen=seen)), MAX_CONCEPTS))
        if len(kept) >= MIN_CONCEPTS:
            yield Article(article_id=make_article_id(DATASET_SOURCE, title), title=title, concepts=kept)


def demo_articles(folder: Path, *, num_processes: int = 1) -> Path:
    """Write the corpus to a JSONL file for `ingest`, unless it exists, and return its path.

    The file name contains a hash of the versions of everything that was read.
    """
    path = folder / f"{DATASET_SOURCE}-{corpus_key()}.jsonl"
    if not path.exists():
        with staged_file(path) as staged, staged.open("w", encoding="utf-8") as lines:
            for article in docstring_corpus(num_processes=num_processes):
                record = {"article_id": article.article_id, "title": article.title, "concepts": article.concepts}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


def corpus_key() -> str:
    """Return 12 hex digits, a hash of the versions of everything the corpus is read from."""
    versions = {name: _distribution(name).version.split("+")[0] for name in DISTRIBUTIONS}
    inputs = [CORPUS_VERSION, ".".join(map(str, sys.version_info[:3])), versions]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:12]


def source_files() -> Iterator[SourceFile]:
    """Yield the Python sources to read: the standard library, then each distribution, sorted by name.

    Raises:
        LvmError: If a distribution of `DISTRIBUTIONS` is not installed.
    """
    yield from _files_below(Path(sysconfig.get_paths()["stdlib"]), prefix="")
    for name, packages in DISTRIBUTIONS.items():
        distribution = _distribution(name)
        for package in packages:
            folder = Path(str(distribution.locate_file(package)))
            yield from _files_below(folder, prefix=package.replace("/", ".") + ".")


def read_source(source: SourceFile) -> list[TitledConcepts]:
    """Return title and concepts of each article in a source, at most `MAX_READ` concepts of each."""
    with _garbage_collection_off():
        found = ((title, list(islice(concepts_of_docstrings(texts), MAX_READ))) for title, texts in documented(source))
        return [(title, concepts) for title, concepts in found if len(concepts) >= MIN_CONCEPTS]


def _read_sources(num_processes: int) -> Iterator[TitledConcepts]:
    sources = list(source_files())
    if num_processes == 1:
        yield from chain.from_iterable(map(read_source, sources))
        return
    context = multiprocessing.get_context("spawn")  # forking is not safe with other threads
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        yield from chain.from_iterable(pool.map(read_source, sources, chunksize=FILES_AT_ONCE))


def documented(source: SourceFile) -> Iterator[tuple[str, list[str]]]:
    """Yield title and documentation strings of the module and of each class in it, in source order."""
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
    """Cut documentation strings into concepts of 20 to 60 words of English prose; no concept spans two strings."""
    for docstring in docstrings:
        concepts = group_sentences(prose_paragraphs(docstring))
        yield from (concept for concept in concepts if len(concept.split()) >= MIN_WORDS)


def is_new(concept: str, *, seen: set[str]) -> bool:
    """Return whether more than half of a concept's phrases are not in `seen`, and if so, add them."""
    words = re.findall(r"\w+", concept.lower())
    phrases = {" ".join(words[i : i + PHRASE_WORDS]) for i in range(max(1, len(words) - PHRASE_WORDS + 1))}
    if len(phrases - seen) <= MIN_NEW_FRACTION * len(phrases):
        return False
    seen |= phrases
    return True


def _documented(node: ast.Module | ast.ClassDef, *, title: str) -> Iterator[tuple[str, list[str]]]:
    functions = [child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)]
    yield title, [text for part in (node, *functions) if (text := ast.get_docstring(part, clean=False))]
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, title=f"{title}.{child.name}")


def _files_below(folder: Path, *, prefix: str) -> Iterator[SourceFile]:
    """Yield the sources in a folder and its subfolders in the order of their dotted names."""
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
            f"The demo corpus needs {name}, which is not installed; install this project with its dependencies."
        ) from None


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Disable the cyclic garbage collector, which slows parsing by half and finds nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
