"""What the trials of a plan say together: order, groups of seeds, Pareto fronts, corrected intervals."""

import csv
import dataclasses
import io
import re

import numpy as np
import pytest

from lvm_pipeline.experiments.study import (
    Study,
    StudyRow,
    best_configs,
    config_groups,
    experiments_csv,
    pareto_front,
    seed_interval,
    with_comparisons,
)
from lvm_pipeline.experiments.study_page import STATUS_MEANINGS, headline, study_html
from lvm_pipeline.experiments.trial_scores import TrialScores
from lvm_pipeline.measures.uncertainty import Interval

NUM_ARTICLES, EACH = 40, 10


def row(name, cosine=None, *, seed=0, group=None, num_params=1000, latency_ms=1.0, **changes):
    values = {
        **{"trial_id": f"{name}-s{seed}", "week": 1, "architecture": name, "preset": "smoke", "strategy": "plain"},
        **{"overrides": {}, "seed": seed, "status": "planned", "is_addition": False, "group": group or name},
    }
    if cosine is not None:
        noise = np.random.default_rng([seed, len(name)]).normal(0, 0.01, NUM_ARTICLES)
        sums = EACH * (cosine + noise - noise.mean())
        scores = TrialScores(
            **{"mode": "articles", "num_params": num_params, "cosine": cosine, "best_baseline": "ridge", "mrr": 0.3},
            **{"r_at_10": 0.5, "exclusion": "earlier_rows_of_article", "latency_ms": latency_ms, "best_epoch": 3},
            gain=Interval(cosine - 0.5, cosine - 0.51, cosine - 0.49),
            training_seconds=2.0,
            cosine_sums=tuple(sums),
            gain_sums=tuple(sums - 0.5 * EACH),
            target_counts=(EACH,) * NUM_ARTICLES,
        )
        values |= {"scores": scores, "status": "done"}
    return StudyRow(**{**values, **changes})


def study(rows):
    compared = with_comparisons(rows)
    groups = config_groups(compared)
    facts = {"preset": "smoke", "dataset_source": "s", "space_id": "x", "fingerprint": "f", "num_targets": 400}
    best = tuple(best_configs(groups))
    return Study(**facts, num_articles=NUM_ARTICLES, rows=tuple(compared), groups=tuple(groups), best_configs=best)


ROWS = [
    row("gru", 0.52, seed=0, group="gru wide"),
    row("gru", 0.54, seed=1, group="gru wide"),
    row("gru", 0.505, seed=2, group="gru thin", num_params=10, latency_ms=0.1),
    row("lstm", 0.60, num_params=5000, latency_ms=3.0),
    row("s4", status="refused", reason="no | such, thing"),
]


def test_trials_are_ranked_and_compared_with_the_best():
    found = study(ROWS)

    assert [each.trial_id for each in found.rows] == ["lstm-s0", "gru-s1", "gru-s0", "gru-s2", "s4-s0"]
    assert [each.is_level_with_best for each in found.done] == [True, False, False, False]
    assert [each.corrected_gain.is_above_zero for each in found.done] == [True, True, True, False]
    assert found.done[0].corrected_gain.low < found.done[0].corrected_gain.mean == pytest.approx(0.1)
    assert headline(found).startswith("3 of 4 trials beat the best baseline")
    assert headline(found).endswith("The best is lstm-s0.")
    level = study([row("gru", 0.5), row("lstm", 0.5)])
    assert headline(level).endswith("1 other trial cannot be distinguished from it.")


def test_seeds_of_one_config_are_one_group_with_an_interval():
    found = study(ROWS)

    assert [group.group for group in found.groups] == ["lstm", "gru wide", "gru thin"]
    wide = found.groups[1]
    assert (wide.seeds, wide.best_trial_id, wide.cosine.mean) == ((0, 1), "gru-s1", pytest.approx(0.53))
    assert wide.cosine.low < 0.52 < 0.54 < wide.cosine.high
    assert seed_interval([0.5]) == Interval(0.5, None, None)
    assert [group.group for group in found.best_configs] == ["lstm", "gru wide"]


def test_best_configs_are_ordered_by_their_best_not_by_their_worst():
    rows = [row("gru", 0.7, group="good"), row("lstm", 0.6), row("gru", 0.1, seed=1, group="bad")]

    assert [group.architecture for group in study(rows).best_configs] == ["gru", "lstm"]


def test_the_front_holds_what_no_cheaper_trial_beats():
    done = [each.scores for each in study(ROWS).done]

    assert [done[i].num_params for i in pareto_front(done, "num_params")] == [10, 1000, 5000]
    assert [done[i].cosine for i in pareto_front(done, "num_params")] == [0.505, 0.54, 0.60]
    assert [each.fronts for each in study(ROWS).done] == [
        ("num_params", "latency_ms", "training_seconds"),
        ("num_params", "latency_ms"),
        (),
        ("num_params", "latency_ms"),
    ]


def test_the_table_of_experiments_has_a_line_for_every_trial():
    lines = list(csv.DictReader(io.StringIO(experiments_csv(study(ROWS)))))

    assert [line["status"] for line in lines] == ["done"] * 4 + ["refused"]
    assert float(lines[0]["corrected_gain_low"]) < float(lines[0]["gain"])
    assert (lines[4]["cosine"], lines[4]["reason"]) == ("", "no | such, thing")


def test_trials_link_to_their_report_or_their_mlflow_run():
    url = "http://127.0.0.1:5000/#/runs/1"
    page = study_html(study([row("gru", 0.5, has_report=True, mlflow_url=url), row("s4", 0.4, mlflow_url=url)]))

    assert '<a href="../trials/gru-s0/report.html">gru-s0</a>' in page
    assert f'<a href="{url}">s4-s0</a>' in page
    assert "<a href" not in study_html(study(ROWS))


def test_the_page_draws_what_there_is():
    page = study_html(study(ROWS))

    assert page.count("<svg") >= 5  # three fronts, parallel coordinates, intervals
    assert "no | such, thing" in page
    assert "<script src" not in page


def test_the_page_says_what_each_status_means_and_has_no_empty_section():
    page = study_html(study(ROWS))

    assert all(STATUS_MEANINGS[each.status] in page for each in ROWS)
    widths = [row("lstm", 0.5 + width / 1000, overrides={"model.hidden_dim": width}) for width in (32, 64)]
    assert "<h2>Sensitivity</h2>" in study_html(study(widths))
    assert "<h2>Sensitivity</h2>" not in study_html(study([row("lstm", 0.5)]))


def test_a_slow_trial_has_plain_figures_on_the_page():
    slow = row("slow", 0.5, latency_ms=1518.6)
    page = study_html(
        study([*ROWS, dataclasses.replace(slow, scores=dataclasses.replace(slow.scores, training_seconds=86_400.0))])
    )

    assert "1519" in page
    assert "86400" in page
    assert not re.search(r"\de\+0\d", page)
