import re
from collections import Counter

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source import corpus
from lvm_pipeline.source.corpus import SourceFile, demo_articles, docstring_corpus, documented, is_new, read_source
from lvm_pipeline.source.jsonl import read_jsonl

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
COLOURS = ["red", "green", "blue", "black", "white", "grey", "brown", "pink", "orange", "purple"]


def docstring(name, number):
    """Two sentences that share few phrases with any other."""
    first, second = NUMBERS[number], COLOURS[number % 10]
    return (
        f"The {name} {first} begins where the {second} {name} is at its {first} end, and {first} is {name} to all. "
        f"With {second} in {first} the {name} goes to {name} {first}, which is {second} by its {first} {name}."
    )


def module_text(name, num_functions=8):
    functions = [f'def f{i}():\n    """{docstring(name, i)}"""\n' for i in range(num_functions)]
    methods = [f'    def m{i}(self):\n        """{docstring(name + "ness", i)}"""\n' for i in range(num_functions)]
    lines = [f'"""{docstring(name, 11)}"""', *functions, "class Thing:", f'    """{docstring(name, 12)}"""', *methods]
    return "\n".join(lines) + '\nraise SystemExit("this source was imported")\n'


@pytest.fixture
def small_sources(tmp_path, monkeypatch):
    """Two modules instead of what is installed."""
    sources = []
    for name in ("apple", "pear"):
        path = tmp_path / f"{name}.py"
        path.write_text(module_text(name))
        sources.append(SourceFile(path=path, module=f"fruit.{name}"))
    monkeypatch.setattr(corpus, "source_files", lambda: iter(sources))
    monkeypatch.setattr(corpus, "MIN_BYTES", 0)
    return sources


def test_a_module_and_a_class_are_articles_in_source_order(small_sources):
    titles = dict(documented(small_sources[0]))
    assert list(titles) == ["fruit.apple", "fruit.apple.Thing"]
    assert titles["fruit.apple"] == [docstring("apple", 11), *(docstring("apple", i) for i in range(8))]


def test_sources_are_parsed_and_never_run(small_sources):
    assert [article.title for article in docstring_corpus()] == [
        "fruit.apple",
        "fruit.apple.Thing",
        "fruit.pear",
        "fruit.pear.Thing",
    ]


def test_repeated_text_is_left_out(small_sources):
    small_sources.append(small_sources[0])
    titles = [article.title for article in docstring_corpus()]
    assert titles == ["fruit.apple", "fruit.apple.Thing", "fruit.pear", "fruit.pear.Thing"]


def test_a_concept_is_new_unless_half_of_it_was_said():
    said = set()
    text = "one two three four five six seven eight nine ten"
    assert is_new(text, seen=said)
    assert not is_new(text.upper() + "!", seen=said)
    assert not is_new("zero one two three four five six seven eight", seen=said)
    assert is_new("one two three four five and then something quite other", seen=said)


def test_a_source_of_another_python_is_skipped(tmp_path):
    path = tmp_path / "future.py"
    path.write_text('match x with:\n"""' + "Words that are many. " * 500 + '"""')
    assert read_source(SourceFile(path=path, module="future")) == []


def test_demo_articles_are_what_ingest_reads_and_are_written_once(small_sources, tmp_path):
    path = demo_articles(tmp_path / "corpus")
    records = read_jsonl(path, dataset_source=corpus.DATASET_SOURCE)
    articles = list(docstring_corpus())
    assert not records.bad_rows
    assert [concept.text for concept in records.concepts] == [text for article in articles for text in article.concepts]
    assert {concept.article_id for concept in records.concepts} == {article.article_id for article in articles}

    written = path.stat().st_mtime_ns
    assert demo_articles(tmp_path / "corpus") == path
    assert path.stat().st_mtime_ns == written


def test_a_missing_distribution_is_named(monkeypatch):
    monkeypatch.setattr(corpus, "DISTRIBUTIONS", {"no-such-distribution": ("x",)})
    with pytest.raises(LvmError, match="no-such-distribution"):
        list(docstring_corpus())


def test_tests_and_vendored_code_are_not_read():
    names = [source.module for source in corpus.source_files()]
    assert len(names) == len(set(names))
    assert not [name for name in names if re.search(r"(^|\.)(tests?|_vendor|externals|idlelib)\.", name)]
    assert {"asyncio.events", "numpy.ma.core", "sklearn.cluster._kmeans", "torch.nn.modules.module"} <= set(names)


@pytest.mark.slow
@pytest.mark.long
def test_the_whole_corpus_is_large_clean_and_the_same_in_two_processes(tmp_path):
    articles = list(docstring_corpus())
    texts = [text for article in articles for text in article.concepts]
    lengths = [len(text.split()) for text in texts]

    assert len(articles) >= 1_000
    assert 10_000 <= len(texts) <= 16_000
    assert all(corpus.MIN_CONCEPTS <= len(article.concepts) <= corpus.MAX_CONCEPTS for article in articles)
    assert min(lengths) >= 20
    assert max(lengths) <= 60
    assert max(Counter(texts).values()) == 1
    assert len({article.article_id for article in articles}) == len(articles)
    assert list(docstring_corpus(num_processes=2)) == articles
