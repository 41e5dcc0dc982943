"""Statistics of preference on judgements with known answers, and pairs that hide which text is which."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.not_run import NotRun
from lvm_pipeline.evaluation.preference import (
    Judgement,
    PreferenceScores,
    agreement,
    judgements_needed,
    preference_scores,
    read_preference,
    strengths,
    write_preference,
)
from lvm_pipeline.evaluation.preference_study import (
    ANSWERS,
    FIRST,
    NEITHER,
    SECOND,
    Answer,
    judgement_of,
    make_pairs,
    order_for,
)
from lvm_pipeline.evaluation.report import report_from_json
from lvm_pipeline.evaluation.report_page import report_html
from lvm_pipeline.evaluation.smoothing import SmoothedExample, WrittenText
from lvm_pipeline_tests.evaluation.test_smoothing import passage

KRIPPENDORFF = [  # four observers, twelve units, nominal values: Krippendorff (2011), alpha = 0.743
    "123321412...",
    "1233224125.3",
    ".3332342251.",
    "12332441251.",
]


def judgement(value, *, rater="a", pair=0, article=0, treatment="smoothed", baseline="decoded", **options):
    return Judgement(
        rater=rater,
        pair_id=f"{treatment}-{baseline}-{pair}",
        article_id=f"article {article}",
        treatment=treatment,
        baseline=baseline,
        value=value,
        chose_first=options.pop("chose_first", None),
        **options,
    )


def scores_of(judgements) -> Any:
    return preference_scores(judgements, study_id="s", model_fingerprint="m", seed=0)


def test_win_rates_count_ties_half_and_leave_repeats_out():
    values = [1, 1, 1, 0.5]
    given = [judgement(value, pair=n, article=n) for n, value in enumerate(values)]
    given.append(judgement(0, pair=0, article=0, is_repeat=True))

    (found,) = scores_of(given).comparisons

    assert found.win_rate.mean == 3.5 / 4
    assert (found.num_judgements, found.num_ties, found.num_pairs) == (4, 1, 4)


def test_the_threshold_is_judged_on_the_lower_bound():
    rng = np.random.default_rng(0)

    def study(num, rate):
        wins = rng.random(num) < rate
        return scores_of([judgement(float(win), pair=n, article=n) for n, win in enumerate(wins)]).comparisons[0]

    small, large, perfect = study(14, 1), study(400, 0.9), study(60, 1)
    assert small.win_rate.mean == 1  # resampling alone would see no spread
    assert small.is_above_threshold is False
    assert large.is_above_threshold is True
    assert perfect.is_above_threshold is True
    alone = scores_of([judgement(1.0, pair=n) for n in range(9)]).comparisons[0]
    assert alone.is_above_threshold is None


def test_judgements_of_one_article_count_as_one_article():
    values = [float(n % 10 != 0) for n in range(100)]
    apart = scores_of([judgement(value, pair=n, article=n) for n, value in enumerate(values)]).comparisons[0]
    together = [judgement(float(n // 10 != 0), pair=n, article=n // 10) for n in range(100)]

    assert scores_of(together).comparisons[0].win_rate.low < apart.win_rate.low - 0.05


def test_strengths_recover_a_known_order_and_size():
    rng = np.random.default_rng(1)
    known = {"smoothed": 1.0, "control": 0.0, "decoded": -1.0}
    given = []
    for number in range(1500):
        treatment, baseline = rng.choice(list(known), size=2, replace=False)
        chance = 1 / (1 + np.exp(known[baseline] - known[treatment]))
        given.append(
            judgement(
                float(rng.random() < chance), pair=number, article=number % 60, treatment=treatment, baseline=baseline
            )
        )

    found: Any = strengths(given, seed=0)

    assert [each.arm for each in found] == list(known)
    for each in found:
        assert each.strength.mean == pytest.approx(known[each.arm], abs=0.25)
        assert each.strength.low < known[each.arm] < each.strength.high


def test_an_arm_that_always_wins_has_a_finite_strength():
    best, worst = strengths([judgement(1.0, pair=n, article=n) for n in range(20)], seed=0)

    assert best.strength.mean == pytest.approx(-worst.strength.mean)
    assert 1 < best.strength.mean < 5


def test_agreement_is_the_published_alpha():
    given = [
        judgement(float(value), rater=str(rater), pair=unit)
        for rater, values in enumerate(KRIPPENDORFF)
        for unit, value in enumerate(values)
        if value != "."
    ]

    assert agreement(given) == pytest.approx(0.743, abs=0.001)


def test_agreement_of_one_rater_is_not_known_and_of_equal_ones_is_one():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, size=200).astype(float)
    alone = [judgement(value, pair=n) for n, value in enumerate(values)]
    chance = [judgement(value, rater="b", pair=n) for n, value in enumerate(rng.permutation(values))]

    assert agreement(alone) is None
    assert agreement(alone + [replace(each, rater="b") for each in alone]) == pytest.approx(1)
    assert agreement(alone + chance) == pytest.approx(0, abs=0.15)


def test_a_rater_is_held_against_their_own_repeats_and_sides():
    given = [judgement(1.0, pair=n, article=n, chose_first=n < 6) for n in range(8)]
    given += [judgement(value, pair=n, article=n, is_repeat=True) for n, value in enumerate([1.0, 0.0, 1.0, 1.0])]

    (rater,) = scores_of(given).raters

    assert (rater.num_judgements, rater.num_repeats, rater.self_consistency, rater.first_share) == (8, 4, 0.75, 0.75)


def test_the_number_of_judgements_needed_gives_its_power():
    num, rng = judgements_needed(0.9), np.random.default_rng(0)
    assert num == 100
    studies = [rng.random(num) < 0.9 for _ in range(16)]
    found = [scores_of([judgement(float(win), pair=n, article=n) for n, win in enumerate(wins)]) for wins in studies]

    assert (judgements_needed(0.85), judgements_needed(0.95)) == (454, 40)
    assert 0.5 < np.mean([each.comparisons[0].is_above_threshold for each in found]) < 0.95
    with pytest.raises(ValueError, match="must be between"):
        judgements_needed(0.8)


def example(number, *, smoothed: str | None = "Polished", decoded="Plain", control="Other"):
    texts: Any = {"smoothed": smoothed, "decoded": decoded, "control": control}
    return SmoothedExample(
        passage=passage(number),
        texts={arm: WrittenText(text=text and f"{text} text {number}.") for arm, text in texts.items()},
    )


def test_pairs_are_blinded_drawn_by_the_seed_and_some_are_repeated_with_swapped_sides():
    examples = [example(number) for number in range(40)]
    pairs = make_pairs(examples, num_pairs=20, seed=0)
    first, repeats = [each for each in pairs if not each.is_repeat], [each for each in pairs if each.is_repeat]

    assert pairs == make_pairs(examples, num_pairs=20, seed=0)
    assert pairs != make_pairs(examples, num_pairs=20, seed=1)
    assert [each.baseline for each in first] == ["decoded"] * 20 + ["control"] * 20
    assert 10 < sum(each.is_treatment_first for each in first) < 30
    assert len(repeats) == 4
    for repeat in repeats:
        (original,) = [each for each in first if each.pair_id == repeat.pair_id]
        assert original.shown == {"A": repeat.shown["B"], "B": repeat.shown["A"]}
    assert order_for(9, rater=0, seed=0) != order_for(9, rater=1, seed=0)


def test_failed_answers_and_equal_texts_are_no_pairs():
    examples = [example(0, smoothed=None), example(1, smoothed="Plain", control="Plain"), example(2)]

    assert {each.pair_id for each in make_pairs(examples, num_pairs=9, seed=0)} == {
        "smoothed-decoded-2",
        "smoothed-control-2",
    }
    with pytest.raises(LvmError, match="no two different texts"):
        make_pairs(examples[:2], num_pairs=9, seed=0)


def test_another_trial_is_compared_on_the_same_targets():
    examples, others = [example(n) for n in range(4)], {2: example(2, smoothed="Rival"), 7: example(7)}
    found = [
        each
        for each in make_pairs(examples, against=others, num_pairs=9, seed=0)
        if each.treatment == "challenger" and not each.is_repeat
    ]

    assert [each.texts for each in found] == [{"challenger": "Polished text 2.", "champion": "Rival text 2."}]


@pytest.mark.parametrize("is_first", [True, False])
def test_answers_are_read_with_the_key(is_first):
    pair = replace(make_pairs([example(0)], num_pairs=1, seed=0)[0], is_treatment_first=is_first)
    found: dict[str, Any] = {value: judgement_of(pair, "a", Answer(value=value, is_human=True)) for value in ANSWERS}

    assert found[FIRST].value == float(is_first)
    assert found[SECOND].value == float(not is_first)
    assert (found[NEITHER].value, found[NEITHER].chose_first) == (0.5, None)
    assert judgement_of(pair, "a", Answer(value="Both", is_human=True)) is None


def test_the_report_has_the_section_or_says_what_is_missing(report, tmp_path):
    scores = scores_of([judgement(1.0, rater=rater, pair=n, article=n) for n in range(5) for rater in ("<ann>", "bob")])
    with_section = replace(report, preference=scores)
    without = replace(report, preference=NotRun(not_run="No raters."))

    assert report_from_json(json.loads(json.dumps(with_section.as_json()))) == with_section
    assert report_from_json(without.as_json()) == without
    page = report_html(with_section)
    assert "smoothed over decoded" in page
    assert "&lt;ann&gt;" in page
    assert "not people" not in page
    assert "Not run. No raters." in report_html(without)
    assert "lvm preference create" in report_html(report)
    write_preference(scores, tmp_path)
    assert read_preference(tmp_path, fingerprint="m") == scores
    assert read_preference(tmp_path, fingerprint="other") is None


def test_programs_are_named_as_such(report):
    scores = scores_of([judgement(1.0, pair=n, article=n, is_human=False) for n in range(5)])

    assert scores.has_programs
    blind = "Raters did not know which text was which."
    assert f"{blind} All raters are programs, not people." in report_html(replace(report, preference=scores))
    mixed = scores_of([judgement(1.0, pair=n, rater="ab"[n % 2], is_human=n % 2 == 0) for n in range(5)])
    assert f"{blind} Some raters are programs, not people." in report_html(replace(report, preference=mixed))
    assert TypeAdapter(PreferenceScores).validate_python(asdict(scores)) == scores
