import json

import pytest

from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.concepts.report import as_markdown, verification_report, write_verification_report
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.findings import Finding, Severity
from lvm_pipeline_tests.synthetic import synthetic_table, write_synthetic_concepts, write_table

SEQUENCES = {
    "num_windows": 12,
    "num_expected_windows": 12,
    "context_length": 5,
    "num_articles_without_window": 1,
    "splits": {"train": {"num_articles": 3, "num_concepts": 20, "num_sequences": 12}},
    "is_leaking": True,
    "leak_reason": "windows cross articles",
}


@pytest.fixture
def concepts_path(tmp_path):
    return write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[3, 10, 7, 8, 6, 9, 11])


def test_report_counts_what_is_in_the_file(concepts_path):
    report = verification_report(concepts_path, findings=check_concepts(concepts_path))

    concepts = report["concepts"]
    assert (concepts["num_concepts"], concepts["num_articles"], concepts["num_source_rows"]) == (54, 7, 54)
    assert concepts["article_lengths"] == {"min": 3, "median": 8.0, "mean": pytest.approx(54 / 7), "max": 11}
    assert concepts["vector_coverage_fraction"] == 1.0
    assert concepts["num_concepts_with_tmd_codes"] == 53, "row 0 has 0, 0, 0: assigning failed"
    assert concepts["num_tmd_codes"] == 53
    assert concepts["order_key"] == "document_id, sequence_index"
    assert concepts["space_id"] == "synthetic"
    assert concepts["fingerprint"] == read_concepts_metadata(concepts_path).fingerprint
    assert report["passed"]
    assert [found["outcome"] for found in report["findings"]].count("not checked") == report["num_not_checked"] == 4
    assert [found["outcome"] for found in report["findings"]].count("warning") == report["num_warnings"] == 2


def test_five_sample_articles_show_their_first_texts_in_order(concepts_path):
    samples = verification_report(concepts_path, findings=[])["concepts"]["sample_articles"]

    assert len(samples) == 5
    for sample in samples:
        positions = [concept["position"] for concept in sample["concepts"]]
        assert positions == list(range(min(5, sample["num_concepts"])))
        assert all(concept["text"].startswith("Concept") for concept in sample["concepts"])
    assert samples[0]["num_concepts"] == 3
    assert samples[-1]["num_concepts"] == 11


def test_written_report_is_json_and_readable_markdown(concepts_path, tmp_path):
    findings = [*check_concepts(concepts_path), failure()]
    report = verification_report(concepts_path, findings=findings, sequences=SEQUENCES)

    json_path, markdown_path = write_verification_report(tmp_path / "reports", report)

    assert json.loads(json_path.read_text()) == report
    text = markdown_path.read_text()
    for words in (
        "Verdict: **FAILED** (1 failed,",
        "- failed: `windows_stay_inside_articles`. Materialise sequences again",
        "- not checked: `order_is_unambiguous`, `neighbours_are_close`, `vectors_match_their_space`",
        "| concepts | 54 |",
        "| vector coverage | 100.00% |",
        "12 windows, expected 12",
        "| train | 3 | 20 | 12 |",
        "**Leaking:** windows cross articles",
        "| `windows_stay_inside_articles` | failed | rows 1 \\| 2 |",
        "| `vectors_match_their_space` | not checked |",
        "- 0: Concept 0 of article 0 says 0.",
    ):
        assert words in text


def failure():
    return Finding(
        name="windows_stay_inside_articles",
        remedy="Materialise sequences again.",
        passed=False,
        severity=Severity.BLOCKING,
        message="rows 1 | 2",
        observed=2.0,
    )


def test_a_source_that_gave_no_table_has_a_report_too(tmp_path):
    report = verification_report(None, findings=[failure()])

    _, markdown_path = write_verification_report(tmp_path, report)

    assert not report["passed"]
    assert report["concepts"] is None
    assert "No concept table was written" in markdown_path.read_text()


def test_dropped_duplicates_and_an_accepted_order_are_shown(tmp_path, concepts_path):
    report = verification_report(concepts_path, findings=[])
    report["concepts"] |= {
        "dropped": [{"cpe_id": f"d{n}", "kept_cpe_id": "k", "reason": "same text"} for n in range(102)],
        "num_dropped": 102,
        "order_warning": "accepted, not known",
    }

    text = as_markdown(report)

    assert "| d99 | k | same text |" in text
    assert "and 2 more" in text
    assert "**Warning:** accepted, not known" in text


def test_markup_in_texts_stays_text(tmp_path):
    table = synthetic_table([6])
    texts = ["<script>alert(1)</script> | x", *table["concept_text"].to_pylist()[1:]]
    table = table.set_column(table.schema.get_field_index("concept_text"), table.schema.field("concept_text"), [texts])
    path = write_table(table, tmp_path / "concepts.parquet")

    assert "<script>" not in as_markdown(verification_report(path, findings=[]))


def test_articles_in_two_runs_do_not_stop_the_report(tmp_path):
    table = synthetic_table([6, 6])
    path = write_table(table.take([0, 1, 6, 7, 8, 9, 10, 11, 2, 3, 4, 5]), tmp_path / "concepts.parquet")

    report = verification_report(path, findings=check_concepts(path))

    assert not report["passed"]
    assert report["concepts"]["article_lengths"] is None
    assert "an article is in several pieces" in as_markdown(report)


@pytest.mark.parametrize(
    ("passed", "severity", "was_checked", "word"),
    [
        (True, Severity.BLOCKING, True, "passed"),
        (True, Severity.BLOCKING, False, "not checked"),
        (False, Severity.BLOCKING, True, "failed"),
        (False, Severity.WARNING, True, "warning"),
    ],
)
def test_every_finding_has_one_outcome(passed, severity, was_checked, word):
    assert Finding(name="x", passed=passed, severity=severity, message="", was_checked=was_checked).outcome == word
