import html.parser
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation import report_page
from lvm_pipeline.evaluation.pages import count, size, with_code
from lvm_pipeline.evaluation.plots import gain_mark, retrieval_curve
from lvm_pipeline.evaluation.report import EvaluationReport, OtherGains, read_report, report_from_json
from lvm_pipeline.evaluation.report_page import cautions, report_html, verdict, write_report
from lvm_pipeline.evaluation.report_parts import LearningCurve
from lvm_pipeline.measures.retrieval import EXCLUSIONS
from lvm_pipeline.measures.uncertainty import Interval

VERSION_1 = Path(__file__).parent / "report_version_1.json"
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


def with_gain(report, gain):
    best = replace(report.best, gain=gain)
    return replace(report, baselines={**report.baselines, report.best_baseline: best})


def numbers_in(value):
    """Every float of a report but those of histories, messages and details, which are evidence and not figures."""
    if isinstance(value, float):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from numbers_in(getattr(value, field.name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from numbers_in(each)
    elif isinstance(value, tuple):
        for each in value:
            yield from numbers_in(each)


def test_each_figure_is_stored_once(report):
    """Cosines and gains of model and baselines, of which no second field may hold a copy."""
    figures = [report.cosine, report.mse, report.gain.mean, report.latency_ms.p50, report.spread.prediction_variance]
    figures += [report.baselines[name].cosine for name in ("context_mean", "ridge", "global_mean")]
    stored = list(numbers_in(replace(report, findings=(), retrieval_curve=None)))

    assert {figure: stored.count(figure) for figure in figures} == dict.fromkeys(figures, 1)


def test_names_of_the_request_stand_at_the_top_of_the_json(report):
    assert report.as_json().keys() >= {"report_version", "name", "trial_id", "cosine", "mse"}
    assert report.as_json()["cosine"] == report.cosine


def test_sections_of_later_stages_are_optional_and_travel(report):
    assert (report.preference, report.strategies) == (None,) * 2

    more = replace(report, strategies={"bleu": 0.25, "by_article": {"a": [1, 2]}, "note": "plain words"})

    assert report_from_json(json.loads(json.dumps(more.as_json()))) == more
    page = report_html(more)
    assert "<dt>bleu</dt><dd><pre>0.25</pre></dd>" in page
    assert "<dt>note</dt><dd>plain words</dd>" in page


def test_a_report_of_version_1_is_read_without_loss():
    """Written by the code before reports were typed; every figure of it has its place now."""
    old = json.loads(VERSION_1.read_text())

    report = read_report(VERSION_1)

    assert isinstance(report, EvaluationReport)
    assert report == report_from_json(report.as_json())
    assert (report.name, report.trial_id, report.report_version) == ("gru smoke", None, 2)
    assert (report.cosine, report.mse) == (old["cosine"], old["mse"])
    gain = old["gain_over_best_baseline"]
    assert (report.best_baseline, report.gain.as_json()) == (gain.pop("baseline"), gain)
    assert report.main_retrieval.mrr == old["retrieval"]["mrr"]
    assert report.main_chance.r_at_10 == old["retrieval"]["chance_r_at_10"]
    assert report.main_chance.mean_candidates == old["retrieval"]["mean_candidates"]
    assert (report.pool.size, report.pool.fingerprint) == (old["counts"]["pool"], old["pool_fingerprint"])
    assert report.spread.cosine_to_mean == old["collapse"]["cosine_to_mean_vector"]
    assert report.training.score == old["training"]["score"]
    assert report.training.training_config["epochs"] == old["training"]["training"]["epochs"]
    assert report.latency_ms.p95 == old["thresholds"]["latency_ms"]["value"]
    assert [finding.name for finding in report.findings] == [finding["name"] for finding in old["findings"]]
    assert [finding.outcome for finding in report.data_findings + report.training_findings] == [
        finding["outcome"] for finding in old["checked_before"]
    ]
    assert WellFormed(report_html(report)).wrong == []


def test_files_appear_and_read_back(report, tmp_path):
    json_path, html_path = write_report(report, tmp_path / "lstm")

    assert read_report(json_path) == report
    assert json.loads(json_path.read_text()) == report.as_json()
    assert html_path.read_text().startswith("<!doctype html>")


def test_page_is_well_formed_and_needs_nothing_from_outside(report):
    page = report_html(report)

    parsed = WellFormed(page)

    assert (parsed.wrong, parsed.open) == ([], [])
    assert parsed.seen.count("svg") >= 4
    assert not {"script", "link", "iframe", "img"} & set(parsed.seen)
    assert not re.search(r"(?:src|href)=|@import|url\(", page)


def test_the_page_shows_what_was_checked_before_and_what_was_not(report):
    first, last = report.findings[0], report.findings[-1]
    changed = replace(
        report,
        data_findings=(replace(first, name="vectors_match_their_space", was_checked=False),),
        training_findings=(replace(last, name="no_objective_term_dominates", passed=False),),
    )

    page = report_html(changed)

    assert WellFormed(page).wrong == []
    for words in ("vectors match their space", "not checked</span>", "no objective term dominates", "warning</span>"):
        assert words in page
    assert "Nothing is recorded" in report_html(report)


def test_the_page_shows_the_gradient_share_of_each_objective_term(report):
    shares = {"objective_share_cosine": 0.25, "objective_share_infonce": 0.75}
    history = [epoch | shares for epoch in report.training.history]
    changed = replace(report, training=replace(report.training, history=history))

    assert "cosine 25%, infonce 75%" in report_html(changed)
    assert "shares of the gradient" not in report_html(report)


def test_page_shows_the_scores_every_baseline_and_what_was_not_checked(report):
    page = report_html(report)

    assert f"{report.cosine:.4f}" in page
    assert all(name in page for name in report.baselines)
    assert all(with_code(sentence) in page for sentence in report.not_checked)
    for name in ("Learning curves", "Cosine by target", "Gain by article", "Retrieval", "Glossary"):
        assert name in page
    assert report.fingerprint in page


def test_numbers_and_nouns_agree_and_a_slow_prediction_has_plain_figures(report):
    one = replace(report.counts, targets=1, articles=1)
    page = report_html(replace(report, counts=one, latency_ms=replace(report.latency_ms, p50=703.0, p95=1518.6)))

    assert "on 1 target of 1 validation article." in page
    assert "1 target in 1 article." in page
    assert "95 % below 1519 ms" in page


def test_the_page_says_what_is_of_a_sample_of_the_targets(report):
    assert report.pool.num_ranked == report.counts.targets
    assert report.samples_in_words == ""

    ranked = replace(report, pool=replace(report.pool, num_ranked=7))
    fitted = replace(report, counts=replace(report.counts, train_targets=60_001))

    assert "Samples: 7 targets, evenly spaced, are ranked, and clusters" in report_html(ranked)
    assert "fitted on about 60,000 train targets." in report_html(fitted)


def test_the_page_says_whether_the_model_has_the_hubness_correction(report):
    model, *baselines = report.ranking.predictors
    by_head = replace(report.ranking, predictors=(replace(model, corrected_mrr=None), *baselines))
    page = " ".join(report_html(replace(report, ranking=by_head)).split())

    assert "for every baseline alike. The model is ranked by its ranking output, without the correction." in page
    assert "for every predictor alike" in report_html(report)
    assert "without the correction" not in report_html(report)


def test_text_of_concepts_cannot_become_markup(report):
    article = replace(report.articles[0], label="<script>alert(1)</script>")
    finding = replace(report.findings[0], message="<b>bold")
    changed = replace(
        report,
        articles=(article, *report.articles[1:]),
        name="<b>bold",
        leak_reason="<b>bold</b>",
        is_leaking=True,
        findings=(finding,),
    )

    page = report_html(changed)

    assert "<script>" not in page
    assert "<b>bold" not in page


def test_leaks_and_other_data_are_shown_at_the_top(report):
    changed = replace(report, is_leaking=True, leak_reason="windows cross articles", is_same_data_as_training=False)

    page = report_html(changed)

    assert "Leaking: windows cross articles" in page
    assert "other data than the model was trained on" in page
    assert "Leaking:" not in report_html(report)


@pytest.mark.parametrize(
    ("low", "high", "kind", "said"),
    [
        (0.001, 0.02, "good", "Better than the best baseline"),
        (-0.02, -0.001, "bad", "Worse than the best baseline"),
        (-0.01, 0.02, "unsure", "Not clearly different from"),
        (None, None, "unsure", "without an interval"),
    ],
)
def test_verdict_follows_the_interval(report, low, high, kind, said):
    found = verdict(with_gain(report, Interval(report.gain.mean, low, high)))

    assert found[0] == kind
    assert said in found[1]


def test_the_first_screen_compares_both_cosines_and_says_what_is_measured(report):
    page = report_html(report)
    best = report.best

    assert f"mean cosine {report.cosine:.4f} against {best.cosine:.4f}, a difference of" in page
    assert f"best baseline {best.cosine:.4f}" in page
    assert "A model reads the concepts of an article and predicts the vector of the next concept." in page


@pytest.mark.parametrize("sign", [1, -1])
def test_a_gain_within_rounding_is_no_gain_anywhere(report, sign):
    gain = Interval(sign * 2e-8, *sorted((sign * 1e-8, sign * 3e-8)))

    assert verdict(with_gain(report, gain))[0] == "unsure"
    assert "dot unsure" in gain_mark(gain, [gain])


@pytest.mark.parametrize(
    ("num_params", "words"),
    [(999, "999"), (999_499, "999 k"), (999_500, "1 M"), (1_648_900_000, "1.65 B"), (999_900_000, "1 B")],
)
def test_sizes_have_three_digits(num_params, words):
    assert size(num_params) == words


def test_counts_look_on_pages_as_they_do_in_sentences():
    assert [count(each) for each in (0, 999, 42_113)] == ["0", "999", "42,113"]


def test_a_gain_that_was_paid_with_retrieval_or_the_shared_direction_says_so(report):
    rule = report.pool.exclusion
    mrr = report.best.retrieval[rule].mrr
    won = replace(
        with_gain(report, Interval(0.02, 0.01, 0.03)),
        centred_cosine=report.best.centred_cosine - 0.1,
        retrieval={**report.retrieval, rule: replace(report.main_retrieval, mrr=mrr + 0.1)},
    )

    won = replace(won, other_gains=other_gains(centred_cosine=Interval(-0.1, -0.12, -0.08)))

    (said,) = cautions(won)

    assert "centred cosine is below" in said
    assert "a difference of -0.1000 [-0.1200, -0.0800]): part of the gain" in said
    assert "centred cosine is below" in report_html(won)
    assert cautions(report) == []  # no gain, nothing to warn of


def other_gains(*, centred_cosine):
    return OtherGains(centred_cosine=centred_cosine, mrr=dict.fromkeys(EXCLUSIONS, Interval(0.1, 0.08, 0.12)))


def test_a_difference_that_may_be_chance_is_no_caution(report):
    won = replace(with_gain(report, Interval(0.02, 0.01, 0.03)), centred_cosine=report.best.centred_cosine - 2e-5)
    level = replace(won, other_gains=other_gains(centred_cosine=Interval(-2e-5, -1e-3, 1e-3)))
    earlier = replace(won, other_gains=None, retrieval=report.best.retrieval)

    assert cautions(level) == []
    assert "is -0.0000 [-0.0010, +0.0010], in MRR +0.1000" in report_html(level)
    assert cautions(replace(earlier, centred_cosine=report.best.centred_cosine)) == []
    assert len(cautions(replace(earlier, centred_cosine=report.best.centred_cosine - 2e-4))) == 1
    assert "In centred cosine" not in report_html(earlier)


def test_earlier_reports_have_the_chance_of_the_mean_number_of_candidates(report):
    def drawn(chance):
        curve = replace(report.retrieval_curve, chance=chance)
        return re.search(
            '<path d="([^"]*)" class="line chance">', retrieval_curve(replace(report, retrieval_curve=curve))
        )[1]

    mean = report.main_chance.mean_candidates
    assert drawn(None) == drawn(tuple(min(1, k / mean) for k in report.retrieval_curve.k))
    assert drawn(None) != drawn(tuple(k / report.pool.size for k in report.retrieval_curve.k))


def test_one_article_neither_beats_the_best_baseline_nor_fails_to(report):
    lone = with_gain(replace(report, cosine=0.62), Interval(0.05, None, None))

    assert lone.verdict == (
        f"Cosine 0.6200; gain over the best baseline, {lone.best_baseline}: +0.0500, without an interval (one article)."
    )
    low = with_gain(lone, Interval(0.05, -0.01, 0.1))
    assert low.verdict.startswith("Cosine 0.6200; does not beat the best baseline")
    assert low.verdict.endswith("(gain +0.0500, 95 % CI -0.0100 to +0.1000).")


def test_a_report_of_one_article_and_no_history_is_still_drawn(report):
    lone = replace(
        report,
        articles=report.articles[:1],
        training=replace(report.training, history=[]),
        baselines={name: replace(found, gain=Interval(0.1, None, None)) for name, found in report.baselines.items()},
        controls=replace(report.controls, order_shuffled=None, wrong_context=None),
    )

    parsed = WellFormed(report_html(lone))

    assert parsed.wrong == []


@pytest.mark.parametrize("name", ["checked_before", "counts", "baselines", "training"])
def test_a_report_of_version_1_with_a_damaged_section_is_reported(tmp_path, name):
    (tmp_path / "report.json").write_text(json.dumps({**json.loads(VERSION_1.read_text()), name: 3}))

    with pytest.raises(LvmError, match="not a readable report"):
        read_report(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no report"),
        ("{", "not a readable report"),
        ("[]", "evaluate the model again"),
        ('{"report_version": 0}', "report version is 0"),
        ('{"report_version": 1}', "'checked_before' is missing"),
        ('{"report_version": 2}', r"(?s)cosine.*evaluate the model again"),
    ],
)
def test_unusable_files_are_reported(tmp_path, content, said):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(LvmError, match=said):
        read_report(path)


def test_sections_that_two_commands_replace_at_once_are_both_in_the_report(report, tmp_path, monkeypatch):
    write_report(report, tmp_path)

    def read_slowly(path):
        found = read_report(path)
        time.sleep(0.3)
        return found

    monkeypatch.setattr(report_page, "read_report", read_slowly)
    curve = LearningCurve(model_fingerprint=report.model_fingerprint, points=())
    with ThreadPoolExecutor() as threads:
        for sections in ({"learning_curve": curve}, {"source": "elsewhere"}):
            threads.submit(report_page.replace_sections, tmp_path, fingerprint=report.model_fingerprint, **sections)

    assert read_report(tmp_path / "report.json") == replace(report, learning_curve=curve, source="elsewhere")
