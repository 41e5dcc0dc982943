"""The two figures that drift checks stand for, on real text: false alarms of unchanged data, and foreign text found.

Measured by `benchmarks/drift.py`, on 200 resamples of articles, all checks taken together.
"""

import importlib.metadata
import re
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.source.articles import concepts_of_text
from lvm_pipeline.source.corpus import docstring_corpus, is_new
from lvm_pipeline.source.encoders.lsa import fit_lsa
from lvm_pipeline_tests.measured import rows_of

NUM_ARTICLES = 240
ARTICLE_CONCEPTS = 10
LICENCES = ("adbc-driver-manager", "grpcio", "matplotlib", "numpy", "pandas", "pillow", "psycopg", "pyarrow")


def licence_articles():
    """Legal text that came with the installed packages, ten concepts an article, repeated text left out."""
    said = set()
    for name in LICENCES:
        for file in sorted(importlib.metadata.files(name) or [], key=str):
            if re.search("LICEN[CS]E|COPYING|NOTICE", file.name) and file.suffix in {"", ".txt", ".md"}:
                text = Path(file.locate()).read_text(encoding="utf-8", errors="replace")
                concepts = [concept for concept in concepts_of_text(text) if is_new(concept, seen=said)]
                for start in range(0, len(concepts) - ARTICLE_CONCEPTS + 1, ARTICLE_CONCEPTS):
                    yield f"{name} {file.name} {start}", concepts[start : start + ARTICLE_CONCEPTS]


def write(path, articles, encoder):
    texts = [concept for _, concepts in articles for concept in concepts]
    ids = [article_id for article_id, concepts in articles for _ in concepts]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(encoder.encode(texts).ravel()), encoder.vector_dim)
    pq.write_table(pa.table({"article_id": ids, "vector": vectors}), path)
    return path


def rates(native, foreign, num_articles):
    options = ("--articles", str(num_articles), "--resamples", "200", "--injections", "20", "--rows", "0")
    rows = rows_of("drift.py", "--data", str(native), "--foreign", str(foreign), *options)
    return {name.partition(",")[0]: row for name, row in rows.items()}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_drift_is_silent_on_unchanged_text_and_finds_a_tenth_of_legal_text(tmp_path):
    native = [(article.article_id, article.concepts) for article in islice(docstring_corpus(), NUM_ARTICLES)]
    encoder = fit_lsa([concept for _, concepts in native for concept in concepts])
    paths = (
        write(tmp_path / "native.parquet", native, encoder),
        write(tmp_path / "foreign.parquet", list(licence_articles()), encoder),
    )

    found = rates(*paths, num_articles=60)

    assert found["false alarms"]["unit"] == "of 200"
    assert found["false alarms"]["ours"] < 0.05
    assert found["false alarms"]["peer"] > 0.5, "tests of single rows take articles for drift"
    assert found["misses of 10 % added"]["ours"] == 0


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_drift_is_silent_on_unchanged_wikipedia_and_finds_half_of_what_is_added(tmp_path, wikipedia_concepts):
    table = pq.read_table(wikipedia_concepts, columns=["article_id", "source", "vector"])
    is_native = pc.starts_with(table["source"], "wikitext")
    pq.write_table(table.filter(is_native), tmp_path / "native.parquet")
    pq.write_table(table.filter(pc.equal(table["source"], "enwiki-gensim")), tmp_path / "foreign.parquet")

    found = rates(tmp_path / "native.parquet", tmp_path / "foreign.parquet", num_articles=50)

    assert found["false alarms"]["ours"] < 0.05
    assert found["misses of 10 % added"]["ours"] <= 0.5, "articles of the same encyclopaedia, five beside fifty"
