"""What the tests of faults put in, and the guards that they take out.

Faults: statements on the source table, splits that cut articles, layers, weights and losses of other kinds, diagnostics
that are wrong. Mutations: each replaces one guard by something that sees nothing.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from pgvector import Vector
from pgvector.psycopg import register_vector

from lvm_pipeline.architectures import _registry, lstm
from lvm_pipeline.concepts import ordering
from lvm_pipeline.experiments.champion import corrected_gain
from lvm_pipeline.measures import weighted_means
from lvm_pipeline.measures.baselines import fit_baselines
from lvm_pipeline.sequences import build
from lvm_pipeline.training import objectives
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.trained_model import (
    WEIGHTS_FILE,
    load_tensors,
    read_trained_model_info,
    save_trained_model,
)
from lvm_pipeline_tests.defs.source_table import execute
from lvm_pipeline_tests.faults.runs import LENGTHS, WIDTH

WITHOUT_POSITIONS = "UPDATE cpe_entry SET document_id = NULL, sequence_index = NULL, chunk_position = NULL"


DISTINCT_TIMES = """
    UPDATE cpe_entry
    SET created_at = now() + ('x' || substr(md5(cpe_id::text), 1, 7))::bit(28)::int * interval '1 us'"""
AGAIN = """
    INSERT INTO cpe_entry (cpe_id, concept_text, dataset_source, document_id, sequence_index, batch_id)
    SELECT md5(cpe_id::text)::uuid, {text}, dataset_source, md5(document_id), sequence_index, batch_id
    FROM cpe_entry WHERE document_id IN (SELECT DISTINCT document_id FROM cpe_entry ORDER BY 1 LIMIT 2)"""
VECTORS_AGAIN = """
    INSERT INTO cpe_vectors (cpe_id, concept_vec, space_id)
    SELECT md5(cpe_id::text)::uuid, {vector}, space_id FROM cpe_vectors
    WHERE md5(cpe_id::text)::uuid IN (SELECT cpe_id FROM cpe_entry)"""
TURNED = f"l2_normalize(concept_vec + ('[0.05' || repeat(',0', {WIDTH - 1}) || ']')::vector)"


def harm(url, *statements):
    for statement in statements:
        execute(url, statement)


def store_vectors(url, ids, vectors, space_id):
    with psycopg.connect(url) as connection:
        register_vector(connection)
        connection.cursor().executemany(
            "UPDATE cpe_vectors SET concept_vec = %s, space_id = %s WHERE cpe_id = %s::uuid",
            [(Vector(vector), space_id, cpe_id) for cpe_id, vector in zip(ids, vectors, strict=True)],
        )


def with_splits(monkeypatch, harmed_splits):
    write = build.write_sequences

    def write_harmed(path, rows, *, starts, splits, **others):
        write(path, rows, starts=starts, splits=harmed_splits(splits), **others)

    monkeypatch.setattr(build, "write_sequences", write_harmed)


class Backwards(lstm.LstmLayers):
    """Other layers with the same keys and shapes."""

    def forward(self, states, at=None):
        return super().forward(states.flip(1), at)


Backwards.__module__ = lstm.__name__


def with_model(monkeypatch, **overrides):
    def config_with_overrides(settings, architecture, **_):
        options = {"preset": settings.preset, "epochs": 6, "mode": "windows", "num_threads": 1}
        return TrainingConfig(architecture=architecture, model=overrides, patience=6, **options)

    monkeypatch.setattr("lvm_pipeline.lineage.training_config_of", config_with_overrides)


def off_by_one(vectors, first_context_rows, target_rows, *, decay):
    return weighted_means_as_they_are(vectors, first_context_rows + 1, target_rows + 1, decay=decay)  # reads the target


weighted_means_as_they_are = weighted_means.decayed_means


def half_of_the_directions_keep(vectors):
    """Articles whose vectors share half of their directions and have the other half at random."""
    rng = np.random.default_rng(3)
    lengths = np.array(LENGTHS)
    half = (len(vectors), WIDTH // 2)
    own = 0.3 * rng.standard_normal(half)
    kept = 2 * np.repeat(rng.standard_normal((len(lengths), WIDTH // 2)), lengths, axis=0)
    vectors = np.concatenate([own + kept, 3 * rng.standard_normal(half)], axis=1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def lucky_models(model_dir, folder, *, num):
    """A model that was moved a little at random, so many times; folders by trial id."""
    info, weights = read_trained_model_info(model_dir), load_tensors(model_dir / WEIGHTS_FILE)
    folders = {}
    for seed in range(num):
        moved = dataclasses.replace(info, trial={**info.trial, "seed": seed}, seed=seed)
        rng = torch.Generator().manual_seed(seed)
        noise = {name: 0.005 * torch.randn(tensor.shape, generator=rng) for name, tensor in weights.items()}
        folders[moved.trial_id] = folder / moved.trial_id
        save_trained_model(
            folders[moved.trial_id], {name: tensor + noise[name] for name, tensor in weights.items()}, moved
        )
    return folders


def without_the_linear_forecast(targets, **options):
    return (each for each in fit_baselines(targets, **options) if each.name != "linear_forecast")


def for_one_candidate(challenger, *, against, others, seed):
    return corrected_gain(challenger, against=against, seed=seed)


def telescoped(left, right):
    """A sum of differences that is the first minus the last, whatever lies between."""
    return np.full(len(left), (left[0] - right[-1]).sum(), np.float32)


WRONG_DIAGNOSTICS = {
    "lvm_pipeline.measures.baselines.decayed_means": off_by_one,
    "lvm_pipeline.measures.metrics.cosines": telescoped,
}


def raw_infonce(predictions, targets):
    scores = predictions @ targets.T / objectives.TEMPERATURE
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)))


def raw_mse(predictions, targets):
    return (predictions - targets).square().mean()


def declare(monkeypatch, **changes):
    monkeypatch.setattr(lstm, "ARCHITECTURE", dataclasses.replace(lstm.ARCHITECTURE, **changes))


@dataclass(frozen=True)
class Mutation:
    """A guard by its dotted name (or names), what it is replaced with, and the test that goes red then."""

    guard: str
    test: str
    replacement: Any = None

    def __str__(self):
        return f"{self.test}-{self.guard.rpartition('.')[2]}"

    def neuter(self, monkeypatch):
        for guard in self.guard.split():
            monkeypatch.setattr(guard, self.replacement or passing(guard))


def goes_unseen(fault_test, mutation, request, monkeypatch):
    """Fail if the test of a fault passes without the guard that it needs."""
    arguments = {name: request.getfixturevalue(name) for name in inspect.signature(fault_test).parameters}
    mutation.neuter(monkeypatch)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        fault_test(**arguments)


def passing(guard):
    """The invariant of this dotted name, which passes whatever it is given."""
    check = pkgutil.resolve_name(guard)
    return dataclasses.replace(check, function=lambda *_, **__: check.finding(passed=True, message="not looked at"))


def forgetful(**forgotten):
    """`ordering._failure` with some facts left out."""
    failure = ordering._failure
    return lambda rule, facts: failure(rule, dataclasses.replace(facts, **(forgotten or {"num_keyed": facts.num_rows})))


def any_space(counts, *, wanted):
    return next(iter(counts)), None


def load_whatever(name):
    return importlib.import_module(f"{_registry.PACKAGE}.{name}").ARCHITECTURE


IN_CONCEPTS, IN_SEQUENCES = "lvm_pipeline.concepts", "lvm_pipeline.sequences.invariants"
IN_TRAINING, IN_EVALUATION = "lvm_pipeline.training.invariants", "lvm_pipeline.evaluation.evaluate"
OF_THE_SOURCE = [
    Mutation(
        "lvm_pipeline.concepts.ordering._failure",
        "test_f01_equal_times_inside_an_article_are_no_order",
        forgetful(num_tied=0),
    ),
    Mutation(
        f"{IN_CONCEPTS}.order_invariants.positions_have_no_gap", "test_f01_a_missing_concept_leaves_a_gap_that_is_named"
    ),
    Mutation(f"{IN_SEQUENCES}.windows_stay_inside_articles", "test_f02_windows_across_articles"),
    Mutation(f"{IN_SEQUENCES}.articles_are_in_one_split", "test_f03_windows_split_at_random"),
    Mutation(f"{IN_SEQUENCES}.articles_are_in_one_split", "test_f04_a_split_by_position_straddles_an_article"),
    Mutation(f"{IN_CONCEPTS}.content_invariants.no_duplicate_concepts", "test_f05_a_range_ingested_twice"),
    Mutation(
        f"{IN_SEQUENCES}.no_near_duplicate_across_splits", "test_f05_nearly_the_same_articles_never_lie_in_two_splits"
    ),
    Mutation("lvm_pipeline.concepts.source_findings.choose_space", "test_f06_two_spaces_in_one_table", any_space),
    Mutation(
        "lvm_pipeline.concepts.vector_invariants._canary_cosines",
        "test_f06_another_space_under_the_same_name",
        lambda *_: {},
    ),
    Mutation(
        "lvm_pipeline.concepts.ordering._failure", "test_f07_rows_without_a_batch_are_not_one_article", forgetful()
    ),
    Mutation(
        "lvm_pipeline.concepts.ordering._failure",
        "test_f07_a_page_of_many_articles_is_not_one_article",
        forgetful(num_mixed=0),
    ),
]
OF_MODELS = [
    Mutation(
        f"{IN_TRAINING}.checkpoint_reproduces_its_score",
        "test_f08_weights_that_do_not_give_their_score_are_not_promoted",
    ),
    Mutation(
        "lvm_pipeline.training.trained_model._refuse_other_class",
        "test_f08_another_class_is_not_loaded",
        lambda *_: None,
    ),
    Mutation(
        "lvm_pipeline.evaluation.checked.checkpoint_reproduces_its_score",
        "test_f08_changed_code_under_the_same_name_is_found_by_its_score",
    ),
    Mutation(
        f"{IN_TRAINING}.prediction_is_not_the_mean_vector",
        "test_f09_a_model_that_predicts_the_mean_vector_is_not_promoted",
    ),
    Mutation(
        f"{IN_EVALUATION}.beats_best_baseline",
        "test_f10_a_model_below_the_best_baseline_is_reported_and_not_promoted",
    ),
    Mutation(
        "lvm_pipeline.measures.retrieval._rows_with_equal_vectors",
        "test_f11_duplicates_in_the_pool_are_named",
        lambda vectors, rows: rows[:0],
    ),
    Mutation(f"{IN_EVALUATION}.pool_is_declared_and_clean", "test_f11_context_rows_among_the_candidates_are_named"),
    Mutation(
        "lvm_pipeline.evaluation.leaderboard._why_left_out",
        "test_f11_pools_of_two_sizes_never_stand_in_one_leaderboard",
        lambda *_: None,
    ),
    Mutation(
        "lvm_pipeline_tests.measures.known_answers.Answer.is_right",
        "test_f12_a_wrong_diagnostic_does_not_give_the_known_answers",
        lambda _: True,
    ),
    Mutation(
        "lvm_pipeline.training.predictions.SelectionMetric.is_better",
        "test_f13_the_checkpoint_is_chosen_by_the_metric_and_not_by_the_loss",
        lambda *_: True,
    ),
    Mutation(f"{IN_TRAINING}.no_objective_term_dominates", "test_f14_an_unscaled_contrastive_term_is_a_warning"),
    Mutation(
        "lvm_pipeline.training.loop.preset_has_its_declared_size",
        "test_f15_a_false_size_is_refused_before_it_costs_a_training",
    ),
    Mutation(
        "lvm_pipeline.evaluation.baseline_scores.fit_baselines",
        "test_f20_a_model_without_more_than_the_linear_forecast_has_no_gain",
        without_the_linear_forecast,
    ),
    Mutation(
        "lvm_pipeline.experiments.champion.corrected_gain",
        "test_f21_the_luckiest_of_many_equal_models_is_not_promoted",
        for_one_candidate,
    ),
    Mutation(
        " ".join(f"lvm_pipeline.training.{each}.load_architecture" for each in ("loop", "invariants", "trained_model")),
        "test_f15_a_false_name_is_refused",
        load_whatever,
    ),
]
