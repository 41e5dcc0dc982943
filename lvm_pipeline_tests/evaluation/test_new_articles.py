"""New articles among many: errors on them are tested with the drift checks."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from lvm_pipeline.concepts.store import Articles
from lvm_pipeline.evaluation import new_articles


def test_the_time_to_find_new_articles_does_not_grow_with_the_square_of_their_number(monkeypatch, tmp_path):
    num_articles = 20_000
    ids = [f"article {index}" for index in range(num_articles)]
    ranges = Articles(ids=ids, first_rows=np.arange(num_articles), lengths=np.ones(num_articles, np.int64))
    monkeypatch.setattr(new_articles, "article_ranges", lambda _: ranges)
    monkeypatch.setattr(new_articles, "read_concepts_metadata", lambda _: None)
    reference: Any = SimpleNamespace(context_length=5)
    started = time.process_time()

    found = new_articles._as_validation(reference, tmp_path, ids[::2], vectors_dir=tmp_path)

    assert found is None  # each is too short for a target
    assert time.process_time() - started < 3
