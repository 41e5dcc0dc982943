"""Drift on articles with known answers: what moved is found and named, what did not move raises no alarm."""

import numpy as np
import pytest

from lvm_pipeline.concepts.drift.compare import compare_concepts, drift_invariants, not_compared
from lvm_pipeline.concepts.drift.report import write_drift_report
from lvm_pipeline.findings import Severity
from lvm_pipeline_tests.concepts.drifting import MadeArticle, id_of, make_articles, without_codes, write_articles

REFERENCE = make_articles(80, seed=1)
SAME_KIND = make_articles(20, name="later", seed=2)
FOREIGN = make_articles(8, name="foreign", seed=3, centre=4.0)


@pytest.fixture
def compare(tmp_path):
    """Write a reference and a present table and compare them."""

    def run(present, *, reference=REFERENCE, space_id="synthetic"):
        paths = tmp_path / "reference.parquet", tmp_path / "present.parquet"
        write_articles(paths[0], reference)
        write_articles(paths[1], present, space_id=space_id)
        return compare_concepts(*paths)

    return run


@pytest.fixture(scope="module")
def injected(tmp_path_factory):
    """The comparison of the reference with itself and a tenth of foreign articles."""
    folder = tmp_path_factory.mktemp("injected")
    paths = folder / "reference.parquet", folder / "present.parquet"
    write_articles(paths[0], REFERENCE)
    write_articles(paths[1], REFERENCE + FOREIGN)
    return compare_concepts(*paths)


def failed(drift):
    return {finding.name for finding in drift.findings if not finding.passed}


def found(drift, name):
    return next(finding for finding in drift.findings if finding.name == name)


def test_equal_concepts_have_not_drifted(compare):
    drift = compare(REFERENCE)

    assert not drift.has_drifted
    assert [finding.name for finding in drift.findings] == [each.name for each in drift_invariants()]
    assert all(finding.was_checked for finding in drift.findings)
    assert (drift.num_arrived, drift.num_kept, drift.num_left) == (0, 80, 0)


def test_articles_of_the_same_kind_are_no_drift(compare):
    drift = compare(REFERENCE + SAME_KIND)

    assert not drift.has_drifted
    assert (drift.num_arrived, drift.num_kept, drift.num_left) == (20, 80, 0)
    for finding in drift.findings:
        assert finding.severity is Severity.WARNING
        assert finding.was_checked
        assert finding.observed <= finding.allowed


def test_other_articles_of_the_same_kind_are_no_drift(compare):
    drift = compare(make_articles(80, name="other", seed=4))

    assert not drift.has_drifted
    assert (drift.num_arrived, drift.num_kept, drift.num_left) == (80, 0, 80)


def test_a_tenth_of_foreign_articles_is_found_and_named(injected):
    drift = injected

    assert failed(drift) == {
        "mean_vector_is_as_before",
        "topic_mix_is_as_before",
        "typicality_is_as_before",
        "vector_dimensions_are_as_before",
        "vectors_cannot_be_separated",
    }
    for name in failed(drift):
        finding = found(drift, name)
        assert finding.observed > finding.allowed
        assert finding.details["p_value"] <= 2 / 2000
    foreign_ids = {id_of(article) for article in FOREIGN}
    mean, dimensions = found(drift, "mean_vector_is_as_before"), found(drift, "vector_dimensions_are_as_before")
    assert {each["article_id"] for each in mean.details["articles"]} == foreign_ids
    assert any(article_id in mean.message for article_id in foreign_ids)
    typicality = found(drift, "typicality_is_as_before")
    assert any(article_id in typicality.message for article_id in foreign_ids)
    assert mean.details["dimensions"][0]["dimension"] == dimensions.details["dimensions"][0]["dimension"] == 0
    assert "dimensions 0," in dimensions.message
    auc = found(drift, "vectors_cannot_be_separated")
    assert auc.observed > 0.9
    assert auc.details["articles"][0]["article_id"] in foreign_ids


def test_foreign_articles_are_found_among_many_others_that_arrived(compare):
    other = make_articles(72, name="other", seed=5)

    assert not compare(other).has_drifted
    assert compare(other + make_articles(30, name="strange", seed=9, centre=6.0)).has_drifted


def test_longer_articles_are_found_by_their_length_alone(compare):
    drift = compare(REFERENCE + make_articles(15, name="long", seed=6, lengths=(12, 20)))

    assert failed(drift) == {"article_lengths_are_as_before"}
    finding = found(drift, "article_lengths_are_as_before")
    assert finding.details["lengths_after"]["min"] >= 12
    assert "the median length of new articles is" in finding.message


def test_another_mix_of_codes_is_found_by_field_and_code(compare):
    drift = compare(REFERENCE + make_articles(15, name="coded", seed=7, domains=(1, 9)))

    assert failed(drift) == {"tmd_mix_is_as_before"}
    finding = found(drift, "tmd_mix_is_as_before")
    assert finding.details["field"] == "domain"
    assert finding.details["codes"][0]["code"] == 9
    assert "code 9 from 0." in finding.message
    assert finding.observed == pytest.approx(finding.details["population_stability_indices"]["domain"])


def test_codes_that_were_assigned_anew_are_found_though_vectors_are_equal(compare):
    recoded = [MadeArticle(each.name, each.vectors, each.codes + np.array([4, 0, 0])) for each in REFERENCE]

    drift = compare(recoded)

    assert failed(drift) == {"tmd_mix_is_as_before"}
    assert (drift.num_arrived, drift.num_kept, drift.num_left) == (80, 0, 0), "changed, not replaced"


def test_a_kind_of_article_that_vanished_is_found(compare):
    drift = compare(REFERENCE, reference=REFERENCE + FOREIGN)

    assert "mean_vector_is_as_before" in failed(drift)
    finding = found(drift, "mean_vector_is_as_before")
    assert finding.details["compared"] == "removed articles with remaining articles"
    assert (drift.num_arrived, drift.num_kept, drift.num_left) == (0, 80, 8)


def test_foreign_articles_are_found_while_others_left(compare):
    drift = compare(REFERENCE[5:] + FOREIGN)

    assert "mean_vector_is_as_before" in failed(drift)
    assert found(drift, "mean_vector_is_as_before").details["num_articles_after"] == 8


@pytest.mark.parametrize(("num_kept", "passed"), [(76, True), (55, False)])
def test_a_table_may_shrink_by_a_tenth(compare, num_kept, passed):
    finding = found(compare(REFERENCE[:num_kept]), "num_concepts_is_as_before")

    assert finding.passed == passed
    assert finding.allowed == pytest.approx(0.9)
    assert finding.observed == pytest.approx(num_kept / 80, abs=0.05)
    assert f"in {num_kept} articles" in finding.message


@pytest.mark.parametrize(("num_arrived", "passed"), [(65, True), (110, False)])
def test_a_table_may_double(compare, num_arrived, passed):
    drift = compare(REFERENCE + make_articles(num_arrived, name="more", seed=8))

    assert failed(drift) == (set() if passed else {"num_concepts_is_as_before"})


def test_articles_with_other_ids_are_the_same_articles(compare):
    drift = compare([MadeArticle(f"renamed {each.name}", each.vectors, each.codes) for each in REFERENCE])

    assert not drift.has_drifted
    assert (drift.num_arrived, drift.num_kept, drift.num_left) == (0, 80, 0)


def test_another_space_is_not_compared(compare):
    drift = compare(REFERENCE + FOREIGN, space_id="another")

    assert not drift.has_drifted
    assert not any(finding.was_checked for finding in drift.findings)
    assert "of space synthetic, the present ones are of another" in drift.findings[0].message


def test_too_few_articles_are_not_judged(compare):
    drift = compare([*REFERENCE[:20], FOREIGN[0]], reference=REFERENCE[:20])

    assert {finding.name for finding in drift.findings if finding.was_checked} == {"num_concepts_is_as_before"}
    assert "too few to tell" in found(drift, "mean_vector_is_as_before").message


def test_concepts_without_codes_have_no_mix(compare):
    drift = compare(without_codes(REFERENCE + FOREIGN), reference=without_codes(REFERENCE))

    assert not found(drift, "tmd_mix_is_as_before").was_checked
    assert "mean_vector_is_as_before" in failed(drift)


def test_equal_seeds_give_equal_findings(compare, injected):
    assert compare(REFERENCE + FOREIGN) == injected


def test_the_report_says_what_moved(injected, tmp_path):
    json_path, markdown_path = write_drift_report(tmp_path / "reports", injected)

    text = markdown_path.read_text()
    assert "Result: **the concepts have drifted**." in text
    assert "Articles: 8 new or changed, 80 unchanged, 0 removed." in text
    assert "| `mean_vector_is_as_before` | warning |" in text
    assert '"has_drifted": true' in json_path.read_text()


def test_without_a_reference_nothing_fails_and_the_reason_is_given(tmp_path):
    path = write_articles(tmp_path / "present.parquet", SAME_KIND)

    drift = not_compared(path, "there is no champion")

    assert not drift.has_drifted
    assert {finding.message for finding in drift.findings} == {"there is no champion"}
    assert "not checked" in write_drift_report(tmp_path, drift)[1].read_text()
