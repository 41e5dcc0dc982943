import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.findings import Severity
from lvm_pipeline.measures import comparing, retrieval
from lvm_pipeline.measures import targets as targets_module
from lvm_pipeline.measures.retrieval import (
    CONTEXT_ROWS,
    EARLIER_ROWS,
    EXCLUSIONS,
    chance_scores,
    num_candidates,
    pool_is_declared_and_clean,
    primary_exclusion,
    ranks_with_each,
    retrieval_scores,
    target_ranks,
)
from lvm_pipeline.measures.scores import given_predictions, score_predictor
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline_tests.measures.processes import process_vectors, targets_of_process, targets_on


def rank_by_hand(prediction, target_row, targets, first_excluded):
    """Sort nothing, share nothing: count the candidates at least as close as the target, itself included."""
    rank = 0
    for row in targets.pool_rows:
        if first_excluded <= row < target_row:
            continue
        closeness = prediction @ targets.vectors[row] / np.linalg.norm(targets.vectors[row])
        own = prediction @ targets.vectors[target_row] / np.linalg.norm(targets.vectors[target_row])
        rank += bool(closeness >= own - 1e-6 * np.linalg.norm(prediction))
    return rank


@given(st.lists(st.integers(1, 14), min_size=5, max_size=10), st.integers(2, 3), st.integers(0, 2**31), st.booleans())
def test_ranks_equal_those_counted_by_hand(lengths, context_length, seed, is_bounded):
    lengths[3], lengths[0] = lengths[3] + context_length, lengths[0] + context_length
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (sum(lengths), 6)).astype(np.float32)  # small whole numbers: many exact ties
    vectors[:, 0] += 5
    targets = targets_on(vectors, lengths, context_length=context_length)
    predictions = rng.integers(-2, 3, (len(targets.scored), 6)).astype(np.float32)
    predictions[:, 1] += 4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "CANDIDATES_IN_A_BLOCK", 5)
        if is_bounded:
            use_leading_directions(patch, step=2)
        ranks = target_ranks(predictions, targets.scored, targets)

    begins = {CONTEXT_ROWS: targets.scored.window_rows, EARLIER_ROWS: targets.scored.article_first_rows}
    for rule in EXCLUSIONS:
        rows = zip(predictions, targets.scored.target_rows, begins[rule], strict=True)
        assert ranks[rule].tolist() == [rank_by_hand(p, row, targets, begin) for p, row, begin in rows]


def use_leading_directions(patch, *, step, share=1 / 32):
    patch.setattr(comparing, "SMALLEST_POOL", (0, 0))
    patch.setattr(comparing, "LEADING_STEP", step)
    patch.setattr(comparing, "DOUBTFUL_SHARE", share)
    patch.setattr(comparing, "_cost", lambda pool, basis: 0.0)


@pytest.mark.parametrize("share", [0, 1 / 32, 1], ids=["lines", "both", "columns"])
@pytest.mark.parametrize("sign", [1, -1], ids=["near", "opposite"])
def test_ranks_by_way_of_leading_directions_are_those_of_the_whole_product(monkeypatch, share, sign):
    vectors = process_vectors("random_walk", lengths=(60,) * 40, vector_dim=64)
    targets = targets_on(vectors, (60,) * 40)
    rng = np.random.default_rng(2)
    own = vectors[targets.scored.target_rows]
    predictions = (sign * own + 0.3 * rng.standard_normal(own.shape)).astype(np.float32)
    penalties = [None, 0.1 * rng.random(len(targets.pool_rows), np.float32)]
    exact = ranks_with_each(predictions, targets.scored, targets, penalties)
    assert targets.pool_leading is None
    use_leading_directions(monkeypatch, step=16, share=share)
    bounded = dataclasses.replace(targets)

    found = ranks_with_each(predictions, targets.scored, bounded, penalties)

    assert bounded.pool_leading is not None
    for one, other in zip(exact, found, strict=True):
        for rule in EXCLUSIONS:
            differences = np.abs(one[rule] - other[rule])
            assert differences.max() <= 1  # float32 itself is not sure of a cosine at the very threshold
            assert (differences > 0).mean() < 0.01


def test_leading_directions_are_taken_where_they_decide_and_not_where_they_do_not():
    rng = np.random.default_rng(0)
    topics = np.repeat(rng.standard_normal((250, 256)), 20, axis=0) * (1 + np.arange(256)) ** -1.0
    near = unit_length((topics + 0.02 * rng.standard_normal((5000, 256))).astype(np.float32))
    noise = unit_length(rng.standard_normal((5000, 256)).astype(np.float32))

    assert comparing.leading(near) is not None
    assert comparing.leading(noise) is None
    assert comparing.leading(near[:1000]) is None


def test_of_many_targets_a_sample_is_ranked_and_its_ranks_are_those_among_all(monkeypatch):
    targets = targets_of_process("random_walk")
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((len(targets.scored), 16)).astype(np.float32)
    predict = given_predictions(targets.vectors[targets.scored.target_rows] + noise, targets)
    penalties = rng.random(len(targets.pool_rows)).astype(np.float32)

    def scores():
        return score_predictor(predict, dataclasses.replace(targets), penalties=penalties)

    of_all = scores()
    monkeypatch.setattr(targets_module, "MAX_RANKED_TARGETS", 50)
    of_sample = scores()

    num = len(targets.scored)
    assert num > 50
    sampled = [number * num // 50 for number in range(50)]
    assert len(of_sample.closeness.cosine) == len(targets.scored)
    for rule in EXCLUSIONS:
        assert of_sample.ranks[rule].tolist() == of_all.ranks[rule][sampled].tolist()
        assert of_sample.corrected_ranks[rule].tolist() == of_all.corrected_ranks[rule][sampled].tolist()
        assert len(num_candidates(dataclasses.replace(targets), rule)) == len(of_sample.ranks[rule])


def test_equal_predictions_are_ranked_as_any_others():
    targets = targets_of_process("noise")
    same = np.repeat(targets.vectors[:1], len(targets.scored), axis=0)
    slightly_other = same.copy()
    slightly_other[-1, 0] += 1e-3

    found = target_ranks(same, targets.scored, targets)[EARLIER_ROWS]

    assert found[:-1].tolist() == target_ranks(slightly_other, targets.scored, targets)[EARLIER_ROWS][:-1].tolist()


def test_a_prediction_that_says_nothing_comes_last():
    targets = targets_of_process("noise")

    ranks = target_ranks(np.zeros((len(targets.scored), 16), np.float32), targets.scored, targets)

    assert all((ranks[rule] == num_candidates(targets, rule)).all() for rule in EXCLUSIONS)


def test_perfect_predictions_are_found_first():
    targets = targets_of_process("noise")

    ranks = target_ranks(targets.vectors[targets.scored.target_rows], targets.scored, targets)

    assert (ranks[CONTEXT_ROWS] == 1).all()


def test_noise_is_found_as_often_as_chance_says():
    targets = targets_of_process("noise", lengths=(40,) * 100)
    predictions = np.random.default_rng(9).standard_normal((len(targets.scored), 16)).astype(np.float32)

    found = retrieval_scores(target_ranks(predictions, targets.scored, targets)[EARLIER_ROWS])
    chance = chance_scores(num_candidates(targets, EARLIER_ROWS))

    assert found.r_at_10 == pytest.approx(chance.r_at_10, abs=0.01)
    assert found.mrr == pytest.approx(chance.mrr, abs=0.01)
    assert found.median_rank == pytest.approx(chance.median_rank, rel=0.15)


def test_copying_the_last_concept_is_hopeless_when_the_context_stays_in_the_pool(monkeypatch):
    """With context rows among the candidates, the last one always wins."""
    targets = targets_of_process("random_walk")
    last = targets.vectors[targets.scored.target_rows - 1]
    honest = target_ranks(last, targets.scored, targets)[CONTEXT_ROWS]

    monkeypatch.setattr(retrieval, "first_excluded_rows", lambda contexts, _: contexts.target_rows)
    faulty = target_ranks(last, targets.scored, targets)[CONTEXT_ROWS]

    assert (faulty >= 2).all()
    assert (honest == 1).mean() > 0.1


def test_pool_is_every_concept_of_the_split_without_what_the_rule_leaves_out():
    lengths = (9, 9, 9, 8, 9, 9, 9, 9, 3, 9)
    targets = targets_on(process_vectors("noise", lengths=lengths), lengths)

    assert len(targets.scored) == 3  # positions 5, 6 and 7; the article of three concepts has none
    assert len(targets.pool_rows) == 8 + 3
    assert num_candidates(targets, CONTEXT_ROWS).tolist() == [6, 6, 6]
    assert num_candidates(targets, EARLIER_ROWS).tolist() == [6, 5, 4]


def test_summary_of_known_ranks():
    found = retrieval_scores(np.array([1, 2, 6, 4]))
    chance = chance_scores(np.full(4, 4))

    assert (found.r_at_1, found.r_at_5, found.r_at_10) == (0.25, 0.75, 1.0)
    assert found.mrr == pytest.approx((1 + 1 / 2 + 1 / 6 + 1 / 4) / 4)
    assert found.median_rank == 3.0
    assert chance.r_at_1 == pytest.approx(1 / 4)
    assert chance.mrr == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


@pytest.mark.parametrize(("mode", "rule"), [("windows", CONTEXT_ROWS), ("articles", EARLIER_ROWS)])
def test_the_primary_rule_leaves_exactly_the_context_out(mode, rule):
    targets = targets_of_process("noise", context_mode=mode)

    assert primary_exclusion(targets) == rule
    assert (retrieval.first_excluded_rows(targets.scored, rule) == targets.scored.first_rows).all()


def test_predictions_that_are_not_finite_are_refused():
    targets = targets_of_process("noise")
    predictions = np.full((len(targets.scored), 16), np.nan, np.float32)

    with pytest.raises(ValueError, match="not finite"):
        target_ranks(predictions, targets.scored, targets)


class TestPoolIsDeclaredAndClean:
    def test_passes_a_clean_pool_and_declares_it(self):
        targets = targets_of_process("noise")

        finding = pool_is_declared_and_clean(targets, exclusion=CONTEXT_ROWS)

        assert finding.passed
        assert finding.severity is Severity.BLOCKING
        assert f"{len(targets.pool_rows)} concepts" in finding.message
        assert CONTEXT_ROWS in finding.message

    def test_names_rows_whose_vector_is_there_twice(self):
        targets = targets_of_process("noise")
        targets.vectors[targets.pool_rows[7]] = targets.vectors[targets.pool_rows[2]]

        finding = pool_is_declared_and_clean(targets, exclusion=CONTEXT_ROWS)

        assert not finding.passed
        assert finding.observed == 1
        assert str(targets.pool_rows[7]) in finding.message

    def test_vectors_that_only_begin_alike_are_not_the_same(self):
        targets = targets_of_process("noise")
        first, second, third = targets.pool_rows[[2, 7, 9]]
        targets.vectors[second] = targets.vectors[first]
        targets.vectors[second, -1] += 1
        targets.vectors[third] = targets.vectors[second]

        finding = pool_is_declared_and_clean(targets, exclusion=CONTEXT_ROWS)

        assert finding.details["rows whose vector is in the pool before"] == [third]

    def test_names_targets_with_context_rows_among_their_candidates(self):
        targets = targets_of_process("noise", context_mode="articles")

        finding = pool_is_declared_and_clean(targets, exclusion=CONTEXT_ROWS)

        assert not finding.passed
        assert "context row among their candidates" in finding.message

    def test_names_missing_and_repeated_rows(self):
        targets = targets_of_process("noise")
        rows = targets.pool_rows
        broken = dataclasses.replace(
            targets, pool_rows=np.sort(np.append(rows[rows != targets.scored.target_rows[0]], rows[0]))
        )

        finding = pool_is_declared_and_clean(broken, exclusion=CONTEXT_ROWS)

        assert not finding.passed
        assert "missing from the pool" in finding.message
        assert "listed twice" in finding.message


def test_the_pool_fingerprint_changes_with_rows_and_with_vectors():
    targets = targets_of_process("noise")
    fingerprint = targets.pool_fingerprint()
    smaller = dataclasses.replace(targets, pool_rows=targets.pool_rows[1:])
    other = dataclasses.replace(targets, vectors=targets.vectors + np.float32(0.1))

    assert len({fingerprint, smaller.pool_fingerprint(), other.pool_fingerprint()}) == 3
    assert targets_of_process("noise").pool_fingerprint() == fingerprint
