import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.evaluation.pages import with_code
from lvm_pipeline.evaluation.report_parts import HELD, LINEAR, MODEL, NEAREST, TRUTH, RolloutCurve, RolloutScores
from lvm_pipeline.evaluation.rollout_pages import rollout_cosine
from lvm_pipeline.evaluation.svg import figure, linear_scale, log_scale, text
from lvm_pipeline.measures.uncertainty import Interval


@given(st.floats(-1000, 1000), st.floats(0, 1000), st.integers(2, 8))
def test_linear_scales_cover_their_values_with_a_few_round_ticks(low, span, num_ticks):
    scale = linear_scale(low, low + span, start=0, end=100, num_ticks=num_ticks)

    slack = 1e-6 * max(1, abs(low), span)
    assert scale.low <= low + slack
    assert scale.high >= low + span - slack
    assert 2 <= len(scale.ticks) <= num_ticks + 2
    assert (scale(scale.low), scale(scale.high)) == (0, 100)


@given(st.floats(1e-3, 1e3), st.floats(1.1, 1e4))
def test_log_scales_have_powers_of_ten_inside(low, factor):
    scale = log_scale(low, low * factor, start=0, end=100)

    assert all(scale.low * 0.999 <= tick <= scale.high * 1.001 for tick in scale.ticks)
    assert all(math.log10(tick) == pytest.approx(round(math.log10(tick))) for tick in scale.ticks)
    assert scale(math.sqrt(scale.low * scale.high)) == pytest.approx(50, abs=0.2)


def test_values_outside_stay_at_the_edge():
    scale = linear_scale(0, 1, start=10, end=20)

    assert (scale(-5), scale(5)) == (10, 20)


def test_words_are_escaped():
    assert "&lt;b&gt;" in text(0, 0, "<b>")
    assert "&quot;" in figure([], width=1, height=1, label='"')


def test_the_names_of_rollout_curves_stand_above_the_plot(report):
    drawing = rollout_cosine(replace(report, rollout=rollout_of_many_curves()))

    heights = [float(y) for y in re.findall(r'y="([\d.]+)" class="note', drawing)]
    grid = [float(y) for y in re.findall(r'y1="([\d.]+)"[^>]*class="grid"', drawing)]
    assert len(heights) == 4
    assert max(heights) < min(grid)
    assert "last concept, repeated" in drawing


def rollout_of_many_curves():
    def curve(name):
        return RolloutCurve(name=name, num_articles=2, cosine=(0.4, 0.3), mrr=(0.2, 0.1))

    return RolloutScores(
        steps=(1, 2),
        num_articles=2,
        seed=0,
        curves=tuple(curve(name) for name in (MODEL, NEAREST, LINEAR, TRUTH, HELD)),
        gains=(Interval(0.1, 0.0, 0.2),) * 2,
    )


def test_commands_in_backticks_become_code_and_words_stay_escaped():
    assert with_code("Run `lvm smooth`, not <b>.") == "Run <code>lvm smooth</code>, not &lt;b&gt;."
