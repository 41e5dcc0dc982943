import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.sequences import cells, near_duplicates
from lvm_pipeline.sequences.near_duplicates import find_near_duplicates, normalised_text


def slow_groups(vectors, texts, articles, min_cosine):
    """The slow twin: compare every pair, then join articles until nothing changes."""
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    groups = np.arange(articles.max(initial=-1) + 1)
    for i in range(len(vectors)):
        for j in range(i):
            words = normalised_text(texts[i] or "")
            same = bool(words) and words == normalised_text(texts[j] or "")
            has_directions = norms[i] > 0 and norms[j] > 0
            if same or (has_directions and vectors[i] @ vectors[j] / (norms[i] * norms[j]) >= min_cosine):
                first, second = sorted((groups[articles[i]], groups[articles[j]]))
                groups[groups == second] = first
    return groups


def unit(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def at_cosine(vectors, cosine, rng):
    """Return unit vectors at the given cosine from `vectors`."""
    other = unit(rng, *vectors.shape)
    other -= np.sum(other * vectors, axis=1, keepdims=True) * vectors
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return (cosine * vectors + np.sqrt(1 - cosine**2) * other).astype(np.float32)


@pytest.mark.parametrize("few_points", [3, 4096])  # many cells, and one
@given(
    st.integers(0, 10**6),
    st.integers(0, 24),
    st.sampled_from([2, 3, 40]),
    st.integers(1, 6),
    st.sampled_from([0.8, 0.99, 1.0]),
)
def test_agrees_with_comparing_every_pair(few_points, seed, num_concepts, vector_dim, num_articles, min_cosine):
    rng = np.random.default_rng(seed)
    centres = unit(rng, 5, vector_dim)
    vectors = centres[rng.integers(0, 5, num_concepts)] + rng.choice([0, 0.02, 0.3], (num_concepts, 1)) * unit(
        rng, num_concepts, vector_dim
    )
    vectors = (vectors * rng.choice([0, 1, 5], (num_concepts, 1), p=[0.1, 0.6, 0.3])).astype(np.float32)
    vectors[rng.random(num_concepts) < 0.02] = np.float32(1)
    texts = rng.choice(["One!", "one", "two", "", "...", None, "three"], num_concepts).tolist()
    if rng.random() < 0.7:
        texts = [f"text {row}" for row in range(num_concepts)]
    articles = rng.integers(0, num_articles, num_concepts)
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        margins = np.abs(cosines / np.outer(norms, norms) - min_cosine)
    if np.nanmin(margins, initial=1) < 1e-12:
        return  # a tie is decided by rounding

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "FEW_POINTS", few_points)
        links = find_near_duplicates(vectors, texts, articles, min_cosine=min_cosine)

    assert links.groups.tolist() == slow_groups(vectors, texts, articles, min_cosine).tolist()
    assert len(links.rows) == len(links.groups) - len(set(links.groups.tolist()))
    assert (articles[links.rows] == links.articles).all()


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_tiles_cover_every_pair_once(num_first, num_second, height, width, is_triangle):
    num_second = num_first if is_triangle else num_second
    seen = set()
    near_duplicates.TILE, before = (height, width), near_duplicates.TILE
    try:
        for tops, sides in near_duplicates._tiles(num_first, num_second, is_triangle=is_triangle):
            pairs = {(i, j) for i in range(tops.start, tops.stop) for j in range(sides.start, sides.stop)}
            assert not pairs & seen
            assert len(pairs) <= height * width
            seen |= pairs
    finally:
        near_duplicates.TILE = before
    assert {(i, j) for i in range(num_first) for j in range(i + 1 if is_triangle else 0, num_second)} <= seen


@pytest.mark.parametrize("vectors", [np.eye(5), np.ones((4, 100)), np.zeros((0, 6)), np.eye(300)])
def test_vectors_are_projected_on_orthonormal_directions(vectors):
    basis = near_duplicates._leading_directions(vectors.astype(np.float32), np.arange(len(vectors)))
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-5)


@pytest.mark.parametrize(("cosine", "is_found"), [(0.9901, True), (0.9899, False), (1.0, True)])
def test_the_threshold_is_met_to_four_digits(cosine, is_found):
    rng = np.random.default_rng(0)
    vectors = unit(rng, 300, 96)
    twins = at_cosine(vectors, cosine, rng)
    articles = np.concatenate([np.zeros(300, int), np.arange(1, 301)])
    texts = [str(row) for row in range(600)]

    links = find_near_duplicates(np.concatenate([vectors, twins]), texts, articles)

    assert len(links.rows) == (300 if is_found else 0)
    if is_found:
        assert sorted(map(tuple, links.rows.tolist())) == [(row, row + 300) for row in range(300)]


def test_saved_links_are_loaded_under_their_key_alone(tmp_path):
    path = tmp_path / "links.json"
    links = find_near_duplicates(np.eye(4, dtype=np.float32), ["a", "b", "a", "c"], np.arange(4))
    near_duplicates.save_links(path, links, key="concepts")

    loaded = near_duplicates.load_links(path, key="concepts")
    for name in ("articles", "rows", "groups"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(links, name), strict=True)
    assert near_duplicates.load_links(path, key="others") is None
    assert near_duplicates.load_links(tmp_path / "none.json", key="concepts") is None
    for damaged in ("", "[]", "{}", path.read_text()[:-20]):
        path.write_text(damaged)
        assert near_duplicates.load_links(path, key="concepts") is None


def test_texts_are_compared_by_their_words():
    assert normalised_text("  The “ﬁrst” CAFÉ,\nagain… ") == "the first café again"
    assert normalised_text("Ｗｉｄｅ x²") == "wide x2"  # noqa: RUF001 - compatibility forms are the point
    texts = ["It is so.", "IT   is—so!", "It is not so.", "!!!", "???", None]
    vectors = np.eye(6, dtype=np.float32)
    links = find_near_duplicates(vectors, texts, np.arange(6))
    assert links.rows.tolist() == [[0, 1]]
    assert links.groups.tolist() == [0, 0, 2, 3, 4, 5]


def test_repeats_inside_one_article_link_nothing():
    vectors = np.ones((4, 8), dtype=np.float32)
    assert not len(find_near_duplicates(vectors, ["a"] * 4, np.zeros(4, dtype=int)).rows)


def test_vectors_without_direction_are_left_out():
    vectors = np.array([[0, 0], [0, 0], [np.nan, 1], [np.inf, 1], [1, 0]], dtype=np.float32)
    assert not len(find_near_duplicates(vectors, list("abcde"), np.arange(5)).rows)


def test_many_articles_that_share_one_concept_stay_one_small_forest():
    vectors = np.ones((2000, 16), dtype=np.float32)
    links = find_near_duplicates(vectors, [str(row) for row in range(2000)], np.arange(2000))
    assert len(links.rows) == 1999
    assert set(links.groups.tolist()) == {0}


def test_ten_thousand_concepts_take_little_memory():
    rng = np.random.default_rng(0)
    articles = np.repeat(np.arange(250), 40)
    topics = rng.standard_normal((250, 768)).astype(np.float32)
    vectors = topics[articles] + rng.standard_normal((10_000, 768), dtype=np.float32)
    texts = [f"Concept number {row} says something that no other concept says." for row in range(10_000)]

    tracemalloc.start()
    links = find_near_duplicates(vectors, texts, articles)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert not len(links.rows)
    assert peak_bytes < 100e6


@given(st.text(st.characters(max_codepoint=127)))
def test_a_text_has_the_same_words_beside_another_alphabet(text):
    assert normalised_text(f"{text} é") == f"{normalised_text(text)} é".strip()
