"""The numbers of a space tell its vectors from those of another one, and say from how many vectors on."""

import dataclasses

import numpy as np
import pytest

from lvm_pipeline.source.space_fingerprint import (
    fingerprint_of,
    kept_path,
    read_fingerprint,
    write_fingerprint,
)
from lvm_pipeline_tests.worded import directed, rotated

ARTICLES = np.repeat(np.arange(60), 20)


@pytest.fixture(scope="module")
def vectors():
    return directed(ARTICLES)


@pytest.fixture(scope="module")
def fingerprint(vectors):
    return fingerprint_of("a space", vectors, ARTICLES)


def test_new_articles_of_the_space_are_of_it(fingerprint):
    new = directed(ARTICLES, seed=2)

    assert fingerprint.fits(new).mean() == pytest.approx(1, abs=0.15)
    assert 0 < fingerprint.min_vectors <= 16
    for start in range(0, len(new), fingerprint.min_vectors):
        some = new[start : start + fingerprint.min_vectors]
        assert fingerprint.why_other(some) is None


@pytest.mark.parametrize(
    "harm",
    [rotated, lambda vectors: np.roll(vectors, 1, axis=1), lambda vectors: vectors[:, ::-1]],
    ids=["rotated", "components moved", "components reversed"],
)
def test_vectors_of_another_space_of_equal_width_are_not(fingerprint, vectors, harm):
    other = np.ascontiguousarray(harm(vectors))

    for start in range(0, len(other), 100):
        assert "no better than random directions do" in fingerprint.why_other(other[start : start + 100])
    assert fingerprint.fits(other).mean() < fingerprint.limit


def test_vectors_that_were_negated_have_not_the_mean(vectors):
    many = np.repeat(np.arange(300), 20)
    fingerprint = fingerprint_of("a space", directed(many), many)

    assert "differs from that of a space, as if they were centred or negated" in fingerprint.why_other(-vectors)
    assert fingerprint.why_other(vectors) is None


def test_other_widths_are_refused_and_too_few_vectors_are_not_judged(fingerprint, vectors):
    assert "63 wide" in fingerprint.why_other(vectors[:, :63])
    assert fingerprint.why_other(rotated(vectors)[: fingerprint.min_vectors - 1]) is None


def test_lengths_do_not_matter_and_a_vector_without_one_is_no_reason(fingerprint, vectors):
    np.testing.assert_allclose(fingerprint.fits(3 * vectors), fingerprint.fits(vectors), rtol=1e-5)
    assert fingerprint.why_other(np.concatenate([vectors[:50], np.zeros((1, vectors.shape[1]), np.float32)])) is None


def test_a_space_without_directions_of_its_own_is_never_judged():
    noise = np.random.default_rng(0).standard_normal((len(ARTICLES), 64)).astype(np.float32)

    found = fingerprint_of("noise", noise, ARTICLES)

    assert found is None or (found.min_vectors == 0 and found.why_other(rotated(noise)) is None)


def test_too_few_concepts_have_no_fingerprint(vectors):
    assert fingerprint_of("few", vectors[:400], ARTICLES[:400]) is None
    assert fingerprint_of("none", vectors[:0], ARTICLES[:0]) is None


def test_what_is_kept_is_read_back_and_damage_is_nothing(fingerprint, tmp_path):
    path = kept_path(tmp_path, "a/space")
    write_fingerprint(path, fingerprint)

    found = read_fingerprint(path)

    for each in dataclasses.fields(fingerprint):
        np.testing.assert_array_equal(getattr(found, each.name), getattr(fingerprint, each.name))
    path.write_bytes(path.read_bytes()[:1000])
    assert read_fingerprint(path) is None
    assert read_fingerprint(tmp_path / "missing.npz") is None
