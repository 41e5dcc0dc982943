"""The statistics of drift, held against SciPy's and scikit-learn's for one grouping at a time."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import mahalanobis
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from lvm_pipeline.concepts.drift import statistics
from lvm_pipeline.concepts.drift.articles import ArticleSample, changes_between, read_articles
from lvm_pipeline.concepts.drift.permutation import groupings, permutation_test
from lvm_pipeline.concepts.drift.statistics import Groups
from lvm_pipeline_tests.concepts.drifting import MadeArticle, id_of, make_articles, write_articles
from lvm_pipeline_tests.synthetic import write_synthetic_concepts

ARTICLES = make_articles(30, seed=1) + make_articles(10, name="foreign", seed=2, centre=6.0)
IS_AFTER = groupings(30, 10, num_permutations=3, seed=0)


def pool_of(articles):
    lengths = np.array([len(article.vectors) for article in articles])
    return ArticleSample(
        ids=[article.name for article in articles],
        digests=[article.name.encode() for article in articles],
        lengths=lengths,
        codes=np.concatenate([article.codes for article in articles]).astype(np.int16),
        num_sampled=lengths,
        vectors=np.concatenate([article.vectors for article in articles]),
    )


POOL = pool_of(ARTICLES)
GROUPS = Groups(pool=POOL, is_after=IS_AFTER)
OWNERS = np.repeat(np.arange(40), POOL.lengths)


def test_groupings_move_whole_articles_and_the_true_one_is_first():
    assert IS_AFTER[0].tolist() == [False] * 30 + [True] * 10
    assert IS_AFTER.sum(axis=1).tolist() == [10] * 4
    assert len(np.unique(IS_AFTER, axis=0)) == 4


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_at_most_the_given_rate_of_groupings_fails_any_statistic(rate):
    values = np.random.default_rng(0).standard_normal((500, 4))
    values[:, 3] = values[:, 2] + 0.1 * values[:, 3]

    tests = [permutation_test(np.roll(values, shift, axis=0), false_alarm_rate=rate) for shift in range(500)]

    assert rate / 2 < np.mean([not test.passed.all() for test in tests]) <= rate
    for shift, test in enumerate(tests):
        assert (test.passed == (values[-shift] <= test.limits)).all()
        assert (test.passed == (test.adjusted_p_values > rate)).all()
        np.testing.assert_allclose(test.p_values, (values >= values[-shift]).mean(axis=0))


def test_length_distance_is_scipys():
    expected = [stats.ks_2samp(POOL.lengths[after], POOL.lengths[~after]).statistic for after in IS_AFTER]

    np.testing.assert_allclose(statistics.article_lengths_are_as_before.statistic(GROUPS).values, expected, atol=1e-6)


def column(statistic, name, by=None):
    """One column of a list in the details; sorted by another column where that is named."""
    (records,) = [records for records in statistic.details.values() if isinstance(records, list) and name in records[0]]
    return [each[name] for each in (sorted(records, key=lambda each: each[by]) if by else records)]


def test_dimension_distance_is_scipys_on_values_rounded_to_the_cut_points():
    cuts = np.quantile(POOL.vectors, np.arange(1, 16) / 16, axis=0).astype(np.float32)
    rounded = np.stack([np.searchsorted(cuts[:, d], POOL.vectors[:, d]) for d in range(16)], axis=1)
    expected = np.array(
        [
            [stats.ks_2samp(rounded[after[OWNERS], d], rounded[~after[OWNERS], d]).statistic for d in range(16)]
            for after in IS_AFTER
        ]
    )

    found = statistics.vector_dimensions_are_as_before.statistic(GROUPS)

    np.testing.assert_allclose(column(found, "ks", by="dimension"), expected[0], atol=1e-6)
    assert column(found, "ks") == sorted(column(found, "ks"), reverse=True)
    np.testing.assert_allclose(found.values, expected.max(axis=1), atol=1e-6)


def test_separation_is_that_of_scikit_learns_discriminant(monkeypatch):
    monkeypatch.setattr(statistics, "SHRINKAGE", 0.0)  # scikit-learn shrinks another matrix
    reduced = PCA(16, svd_solver="covariance_eigh").fit_transform(POOL.vectors)
    folds = list(GroupKFold(5, shuffle=True, random_state=statistics.FOLD_SEED).split(reduced, groups=OWNERS))

    found = statistics.vectors_cannot_be_separated.statistic(GROUPS)

    for after, auc in zip(IS_AFTER, found.values, strict=True):
        labels = after[OWNERS]
        won, pairs = 0.0, 0
        for training, held_out in folds:
            if len(np.unique(labels[held_out])) == 2:
                model = LinearDiscriminantAnalysis().fit(reduced[training], labels[training])
                num_pairs = labels[held_out].sum() * (~labels[held_out]).sum()
                won += num_pairs * roc_auc_score(labels[held_out], model.decision_function(reduced[held_out]))
                pairs += num_pairs
        assert auc == pytest.approx(won / pairs, abs=1e-3)
    assert found.values[0] > 0.8
    assert np.mean(column(found, "mean_rank")) > 0.7
    assert set(column(found, "article_id")) == {article.name for article in ARTICLES[30:]}


def test_a_single_article_cannot_be_classified():
    groups = Groups(pool=pool_of(ARTICLES[:9]), is_after=groupings(8, 1, num_permutations=2, seed=0))

    found = statistics.vectors_cannot_be_separated.statistic(groups)

    assert found.values.tolist() == [0.5] * 3
    assert "single article" in found.not_checked


def test_mean_shift_is_scipys_mahalanobis_distance_of_article_means():
    means = np.stack([article.vectors.mean(axis=0) for article in ARTICLES]).astype(np.float64)
    scaled = means / means.std(axis=0)
    inverse = np.linalg.inv(np.corrcoef(means.T) + np.eye(16))
    expected = [mahalanobis(scaled[after].mean(axis=0), scaled[~after].mean(axis=0), inverse) for after in IS_AFTER]
    difference = means[30:].mean(axis=0) - means[:30].mean(axis=0)

    found = statistics.mean_vector_is_as_before.statistic(GROUPS)

    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    np.testing.assert_allclose(column(found, "shift_sd", by="dimension"), difference / means.std(axis=0), atol=1e-5)
    assert found.details["distance"] == pytest.approx(np.linalg.norm(difference), abs=1e-6)
    assert sum(column(found, "share_of_shift")) == pytest.approx(1)


def test_a_shift_across_the_topics_is_found():
    noise = np.random.default_rng(5).standard_normal((88, 32))
    topics = noise + 3 * noise[:, :1]  # all dimensions vary together, and hardly any difference of two
    topics[80:] += 1.2 * np.resize([1, -1], 32)
    made = [MadeArticle(str(n), topic[None].astype(np.float32), np.full((1, 3), -1)) for n, topic in enumerate(topics)]
    groups = Groups(pool=pool_of(made), is_after=groupings(80, 8, num_permutations=199, seed=0))

    values = statistics.mean_vector_is_as_before.statistic(groups).values

    assert (values >= values[0]).mean() <= 0.01


def test_typicality_is_the_mean_cosine_with_the_mean_vector():
    centre = np.stack([article.vectors.mean(axis=0) for article in ARTICLES]).mean(axis=0)
    cosines = np.array([(each.vectors @ centre).mean() / np.linalg.norm(centre) for each in ARTICLES])  # unit vectors
    expected = [abs(cosines[after].mean() - cosines[~after].mean()) for after in IS_AFTER]

    found = statistics.typicality_is_as_before.statistic(GROUPS)

    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert found.details["cosine_after"] == pytest.approx(cosines[30:].mean(), abs=1e-6)
    assert column(found, "article_id")[0] == ARTICLES[30 + int(cosines[30:].argmax())].name
    assert f"new articles have cosine {cosines[30:].mean():.3f} to the mean vector" in found.summary


def test_a_dimension_without_spread_has_not_moved():
    vectors = np.concatenate([POOL.vectors, np.ones((len(POOL.vectors), 1), np.float32)], axis=1)
    groups = Groups(pool=ArticleSample(**{**vars(POOL), "vectors": vectors}), is_after=IS_AFTER)

    assert column(statistics.mean_vector_is_as_before.statistic(groups), "shift_sd", by="dimension")[-1] == 0
    assert column(statistics.vector_dimensions_are_as_before.statistic(groups), "ks", by="dimension")[-1] == 0


def test_stability_index_is_that_of_its_definition():
    codes = np.zeros((len(OWNERS), 3), np.int16)
    codes[OWNERS >= 30, 0] = np.arange((OWNERS >= 30).sum()) % 2
    groups = Groups(pool=ArticleSample(**{**vars(POOL), "codes": codes}), is_after=IS_AFTER)
    num_before, ones = (OWNERS < 30).sum(), codes[:, 0].sum()
    num_after = len(OWNERS) - num_before
    before = np.array([num_before + 0.5, 0.5]) / (num_before + 1)
    after = np.array([num_after - ones + 0.5, ones + 0.5]) / (num_after + 1)

    found = statistics.tmd_mix_is_as_before.statistic(groups)

    assert found.values[0] * found.scale == pytest.approx(((after - before) * np.log(after / before)).sum())
    assert found.details["field"] == "domain"
    np.testing.assert_allclose(column(found, "before", by="code"), before)
    np.testing.assert_allclose(column(found, "after", by="code"), after)
    indices = found.details["population_stability_indices"]
    assert indices["task"] == indices["modifier"] == 0, "one code alone never changes its share"


def test_articles_are_read_with_evenly_spread_concepts(tmp_path):
    path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[3, 10, 1, 7])

    whole, some = read_articles(path, max_sampled=100), read_articles(path, max_sampled=2)

    assert whole.num_sampled.tolist() == whole.lengths.tolist() == [3, 10, 1, 7]
    assert some.num_sampled.tolist() == [2, 2, 1, 2]
    assert some.digests == whole.digests, "all vectors count, not the sampled ones"
    np.testing.assert_array_equal(some.vectors, whole.vectors[[0, 2, 5, 10, 13, 15, 19]])
    assert whole.take([3, 1]).followed_by(whole.take([0])).lengths.tolist() == [7, 10, 3]


def test_an_article_changes_with_its_vectors_or_codes_and_not_with_its_name(tmp_path):
    first, second, third, fourth, fifth = make_articles(5)
    turned = MadeArticle(second.name, -second.vectors, second.codes)
    recoded = MadeArticle(third.name, third.vectors, third.codes + 1)
    renamed = MadeArticle("another name", fourth.vectors, fourth.codes)
    paths = tmp_path / "before.parquet", tmp_path / "present.parquet"
    write_articles(paths[0], [first, second, third, fourth, fifth])
    write_articles(paths[1], [first, turned, recoded, renamed])
    before, present = (read_articles(path, max_sampled=4) for path in paths)

    changes = changes_between(before, present)

    assert {present.ids[article] for article in changes.arrived} == {id_of(turned), id_of(recoded)}
    assert {before.ids[article] for article in changes.kept} == {id_of(first), id_of(fourth)}
    assert {before.ids[article] for article in changes.left} == {id_of(fifth)}
