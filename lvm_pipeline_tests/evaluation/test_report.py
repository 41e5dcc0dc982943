import copy
import html.parser
import json
import re

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.report import cautions, read_report, report_html, verdict, write_report

VOID = {"meta", "br", "hr", "img", "link", "input", "line", "rect", "circle"}


class WellFormed(html.parser.HTMLParser):
    """Collects tags that were closed in another order than opened."""

    def __init__(self, page):
        super().__init__()
        self.open, self.wrong, self.seen = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.wrong.append(tag)
        else:
            self.open.pop()


def test_files_appear_and_read_back(report, tmp_path):
    json_path, html_path = write_report(report, tmp_path / "lstm")

    assert read_report(json_path) == json.loads(json_path.read_text()) == report
    assert html_path.read_text().startswith("<!doctype html>")


def test_page_is_well_formed_and_needs_nothing_from_outside(report):
    page = report_html(report)

    parsed = WellFormed(page)

    assert (parsed.wrong, parsed.open) == ([], [])
    assert parsed.seen.count("svg") >= 4
    assert not {"script", "link", "iframe", "img"} & set(parsed.seen)
    assert not re.search(r"(?:src|href)=|@import|url\(", page)


def test_the_page_shows_what_was_checked_before_and_what_was_not(report):
    changed = copy.deepcopy(report)
    changed["checked_before"] = [
        {"stage": "data", "outcome": "not checked", **changed["findings"][0], "name": "vectors_match_their_space"},
        {"stage": "training", "outcome": "warning", **changed["findings"][0], "name": "no_objective_term_dominates"},
    ]

    page = report_html(changed)

    assert WellFormed(page).wrong == []
    for words in ("vectors match their space", "not checked</span>", "no objective term dominates", "warning</span>"):
        assert words in page
    assert "Nothing is on record" in report_html(report)


def test_the_page_tells_how_the_terms_of_an_objective_shared_the_gradient(report):
    changed = copy.deepcopy(report)
    for epoch in changed["training"]["history"]:
        epoch |= {"objective_share_cosine": 0.25, "objective_share_infonce": 0.75}

    assert "cosine 25%, infonce 75%" in report_html(changed)
    assert "shares of the gradient" not in report_html(report)


def test_page_shows_the_scores_every_baseline_and_what_was_not_checked(report):
    page = report_html(report)

    assert f"{report['cosine']:.4f}" in page
    assert all(name in page for name in report["baselines"])
    assert all(sentence in page for sentence in report["not_checked"])
    for name in ("Learning curves", "Cosine by target", "Gain by article", "Retrieval", "What the columns mean"):
        assert name in page
    assert report["fingerprint"] in page


def test_text_of_concepts_cannot_become_markup(report):
    changed = copy.deepcopy(report)
    changed["articles"][0]["label"] = "<script>alert(1)</script>"
    changed["leak_reason"], changed["is_leaking"] = "<b>bold</b>", True

    page = report_html(changed)

    assert "<script>" not in page
    assert "<b>bold" not in page


def test_leaks_and_other_data_are_shown_at_the_top(report):
    changed = {**report, "is_leaking": True, "leak_reason": "windows cross articles", "is_same_data_as_training": False}

    page = report_html(changed)

    assert "Leaking: windows cross articles" in page
    assert "other data than the model was trained on" in page
    assert "Leaking:" not in report_html(report)


@pytest.mark.parametrize(
    ("low", "high", "kind", "said"),
    [
        (0.001, 0.02, "good", "Beats the best baseline"),
        (-0.02, -0.001, "bad", "Loses to the best baseline"),
        (-0.01, 0.02, "unsure", "Cannot be told from"),
        (None, None, "unsure", "no interval"),
    ],
)
def test_verdict_follows_the_interval(report, low, high, kind, said):
    gain = {**report["gain_over_best_baseline"], "low": low, "high": high}

    found = verdict({**report, "gain_over_best_baseline": gain})

    assert found[0] == kind
    assert said in found[1]


def test_a_gain_that_was_paid_with_retrieval_or_the_shared_direction_says_so(report):
    best = report["gain_over_best_baseline"]["baseline"]
    won = copy.deepcopy(report)
    won["gain_over_best_baseline"] |= {"mean": 0.02, "low": 0.01, "high": 0.03}
    won["centred_cosine"] = won["baselines"][best]["centred_cosine"] - 0.1
    won["retrieval"]["mrr"] = won["baselines"][best]["retrieval"]["mrr"] + 0.1

    (said,) = cautions(won)

    assert "centred cosine is below" in said
    assert "centred cosine is below" in report_html(won)
    assert cautions(report) == []  # no gain, nothing to warn of


def test_a_report_of_one_article_and_no_history_is_still_drawn(report):
    lone = copy.deepcopy(report)
    lone["articles"] = lone["articles"][:1]
    lone["training"]["history"] = []
    for gain in (lone["gain_over_best_baseline"], *(found["gain"] for found in lone["baselines"].values())):
        gain["low"] = gain["high"] = None
    lone["controls"]["wrong_context"] = None

    parsed = WellFormed(report_html(lone))

    assert parsed.wrong == []


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no report"), ("{", "cannot be read"), ("[]", "not a report"), ('{"report_version": 0}', "not a report")],
)
def test_unusable_files_are_told(tmp_path, content, said):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(LvmError, match=said):
        read_report(path)
