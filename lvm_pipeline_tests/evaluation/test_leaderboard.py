import re
from dataclasses import replace

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.leaderboard import LeftOut, cautions, headline, leaderboard, read_leaderboard
from lvm_pipeline.evaluation.leaderboard_page import leaderboard_table, thresholds_table, write_leaderboard
from lvm_pipeline.evaluation.leaderboard_plot import models_beside_baselines
from lvm_pipeline.evaluation.pages import with_code
from lvm_pipeline.measures.baselines import BASELINES
from lvm_pipeline.measures.retrieval import EXCLUSIONS
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline_tests.evaluation.test_report import WellFormed, with_gain


@pytest.fixture
def reports(report, articles_report):
    return [report, articles_report]


def cells(table):
    return [[column.text(row) for column in table.columns] for row in table.rows]


def names(board, kind):
    return [row.name for row in board.rows if row.kind == kind]


def test_models_stand_beside_the_baselines_by_falling_cosine(reports):
    board = leaderboard(reports)

    cosines = [row.cosine for row in board.rows]
    assert cosines == sorted(cosines, reverse=True)
    assert set(names(board, "model")) == {report.name for report in reports}
    by_mode = {"linear_forecast (windows)", "linear_forecast (articles)"}  # it reads as much as the model
    assert set(names(board, "baseline")) == set(BASELINES) - {"linear_forecast"} | by_mode
    assert len(names(board, "baseline")) == len(BASELINES) + 1
    assert set(names(leaderboard(reports[1:]), "baseline")) == set(BASELINES)


def test_the_picture_has_the_best_model_of_each_architecture_beside_its_baseline(reports):
    worse = replace(reports[0], name="worse", trial_id="worse", cosine=reports[0].cosine - 0.1)
    board = leaderboard([*reports, worse])

    drawing = models_beside_baselines(board)

    assert WellFormed(drawing).wrong == []
    assert all(f"note {kind}" in drawing for kind in ("good", "unsure", "bad")), "the legend explains each colour"
    titles = re.findall("<title>(.*?)</title>", drawing)
    best = {row.architecture: row for row in reversed(board.models)}
    assert sorted(titles) == sorted(
        title
        for row in best.values()
        for title in (
            f"{row.best_baseline}: {row.cosine - row.gain.mean:.4f}",
            f"{row.name}: {row.cosine:.4f}, gain {row.gain.mean:+.4f}",
        )
    )


def test_every_row_has_retrieval_under_one_rule(reports):
    mixed, windows = leaderboard(reports), leaderboard(reports[:1])

    assert (mixed.exclusion, windows.exclusion) == ("earlier_rows_of_article", "context_rows")
    for board in (mixed, windows):
        shown = [row[1] for row in cells(leaderboard_table(board).only("predictor", "MRR"))]
        assert shown == [f"{row.retrieval[board.exclusion].mrr:.3f}" for row in board.rows]


def test_reports_of_other_data_are_left_out_by_name(reports):
    reports[1] = replace(reports[1], fingerprint="f" * 64)

    board = leaderboard(reports, fingerprint=reports[0].fingerprint)

    assert names(board, "model") == [reports[0].name]
    assert board.left_out == (LeftOut(name=reports[1].name, reason="scored on other sequences (ffffffffffff)"),)


def test_reports_of_another_split_are_left_out(reports):
    third = replace(reports[0], split="test", name="tested")

    board = leaderboard([*reports, third])

    assert board.split == "validation"
    assert board.left_out == (LeftOut(name="tested", reason="scored on the test split"),)


def test_pools_are_never_mixed(reports):
    """Recall among fewer candidates is higher: a fault of the original project that looked like scaling."""
    pool = replace(reports[0].pool, size=12, fingerprint="d" * 64)
    third = replace(reports[0], name="shrunk", pool=pool)

    board = leaderboard([third, *reports])

    assert set(names(board, "model")) == {report.name for report in reports}
    assert board.pool_fingerprint == reports[0].pool.fingerprint
    assert board.left_out == (LeftOut(name="shrunk", reason="scored with another pool (12 concepts, dddddddddddd)"),)


def test_the_page_lists_warnings_and_checks_that_did_not_run(reports, tmp_path):
    finding = replace(reports[0].findings[-1], name="codes_are_odd", passed=False)
    reports[0] = replace(reports[0], data_findings=(finding,))

    board = leaderboard(reports)
    page = write_leaderboard(board, tmp_path)[1].read_text()

    row = next(row for row in board.models if row.name == reports[0].name)
    assert "codes_are_odd" in row.warnings
    assert "codes are odd" in page
    assert row.not_checked == reports[0].not_checked
    assert all(with_code(sentence) in page for sentence in row.not_checked)


def test_an_empty_leaderboard_is_an_error(reports):
    with pytest.raises(LvmError, match="no report"):
        leaderboard([])
    with pytest.raises(LvmError, match="no report on sequences aaaa"):
        leaderboard(reports, fingerprint="a" * 64)


def test_the_champion_and_leaks_are_marked(reports, tmp_path):
    reports[0] = replace(reports[0], is_leaking=True, leak_reason="windows cross articles")
    champion = reports[1].model_fingerprint

    board = leaderboard(reports, champion_fingerprint=champion, decision_reason="It gained enough.")
    page = write_leaderboard(board, tmp_path)[1].read_text()

    assert board.champion == reports[1].name
    assert [row.name for row in board.models if row.is_champion] == [reports[1].name]
    assert "Leaking: windows cross articles" in page
    assert "Last decision on the champion:</strong> It gained enough." in page
    assert page.count('class="pill champion"') == 1  # in its row


def test_page_is_well_formed_and_links_the_reports(reports, tmp_path):
    board = leaderboard(reports)
    links = {reports[0].model_fingerprint: "lstm/report.html"}

    json_path, html_path = write_leaderboard(board, tmp_path, links=links)
    page = html_path.read_text()

    parsed = WellFormed(page)
    assert (parsed.wrong, parsed.open) == ([], [])
    assert 'href="lstm/report.html"' in page
    assert read_leaderboard(json_path) == board
    assert "0 of 2 models beat the best baseline" in page


def test_the_first_screen_says_what_is_measured_and_where_the_winners_are_worse(reports, tmp_path):
    won = [with_gain(worse_at_ranking(report), Interval(0.02, 0.01, 0.03)) for report in reports]

    board = leaderboard(won)
    page = write_leaderboard(board, tmp_path)[1].read_text()

    assert "A model reads the concepts of an article and predicts the vector of the next concept." in page
    assert "2 of 2 models beat the best baseline in cosine on" in page
    assert "2 of 2 are below that baseline in MRR: predictions are worse at finding the true concept" in page
    assert cautions(leaderboard(reports)) == []  # nobody gains, so there is nothing to warn of


def test_the_headline_says_that_one_article_gives_no_intervals(reports):
    lone = with_gain(reports[0], Interval(0.05, None, None))

    assert headline(leaderboard([lone])).endswith(". One article gives no intervals.")
    assert "no intervals" not in headline(leaderboard(reports))


def test_the_thresholds_of_text_accuracy_are_shown(report):
    found = [
        replace(each, was_checked=True, observed=0.6, allowed=allowed, passed=passed)
        for name, allowed, passed in (("minimum_viable", 0.5, True), ("production", 0.75, False))
        for each in report.findings
        if each.name == f"text_accuracy_is_above_{name}"
    ]
    table = thresholds_table(leaderboard([replace(report, findings=(*report.findings, *found))]))

    titles = [column.title for column in table.columns]
    shown = dict(zip(titles, cells(table)[0], strict=True))
    assert shown["text accuracy, minimum viable: above 0.5"] == "0.6"
    assert shown["text accuracy, production: above 0.75"] == "0.6"
    assert not any("text accuracy" in each.title for each in thresholds_table(leaderboard([report])).columns)


def worse_at_ranking(report):
    lower = Interval(-0.2, -0.3, -0.1)
    gains = replace(report.other_gains, centred_cosine=Interval(0, -0.1, 0.1), mrr=dict.fromkeys(EXCLUSIONS, lower))
    return replace(
        report,
        other_gains=gains,
        retrieval={rule: replace(scores, mrr=0.0) for rule, scores in report.retrieval.items()},
    )


def test_a_winner_is_worse_in_another_measure_only_beyond_chance(reports):
    level = Interval(-0.01, -0.03, 0.01)
    gains = replace(reports[0].other_gains, centred_cosine=level, mrr=dict.fromkeys(EXCLUSIONS, level))
    won = with_gain(replace(reports[0], other_gains=gains, centred_cosine=-1.0), Interval(0.02, 0.01, 0.03))

    assert cautions(leaderboard([won])) == []
    (said,) = cautions(leaderboard([replace(won, other_gains=None, retrieval=won.best.retrieval)]))
    assert "1 of 1 is below that baseline in centred cosine" in said


def test_a_trial_is_named_beside_its_row_only_if_the_row_has_another_name(reports, tmp_path):
    named = replace(reports[1], name="best of week 1")
    page = write_leaderboard(leaderboard([reports[0], named]), tmp_path)[1].read_text()

    assert f"{named.trial_id}, " in page
    assert f"{reports[0].trial_id}, " not in page
