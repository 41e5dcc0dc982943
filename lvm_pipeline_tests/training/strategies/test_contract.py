"""What holds for every strategy, found by scanning: it trains every kind of model, resumes bit for bit, and says so."""

import subprocess
import sys
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lvm_pipeline.concepts.content_kinds import CODES, CONTENT, NEGATIVES, TEXTS
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training import strategies
from lvm_pipeline.training.batches import gather, vectors_on_device
from lvm_pipeline.training.config import TrainingConfig, training_config
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.phases import AddedTerm
from lvm_pipeline.training.rescore import rescore
from lvm_pipeline.training.strategies import STRATEGIES, content_read, staged, strategies_of
from lvm_pipeline.training.strategies._contract import EXCLUSIVE, Strategy, strategy_option
from lvm_pipeline.training.terms import TermModule
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline.training.trial import Trial
from lvm_pipeline_tests.training.test_loop import Recorder

QUICK = {
    "preset": "smoke",
    "model": {"hidden_dim": 16, "num_layers": 1, "dropout": 0.3},
    "batch_size": 40,
    "epochs": 2,
    "patience": 9,
    "num_threads": 1,
    "checkpoint_seconds": 0.0,
    "device": "cpu",
}
OPTIONS = {"progressive": {"sizes": [60, 120], "phase_epochs": 1}}  # what the small data need
NEEDED = {"fine_tune": {"mode": "windows"}}  # other options of a trial with the strategy
JOINED = ["bagging+contrastive+progressive+tmd", "auxiliary_targets+curriculum"]


def config_of(strategy, **changes):
    names = strategy.split("+")
    options = {name: value for each in names for name, value in OPTIONS.get(each, {}).items()}
    needed = {name: value for each in names for name, value in NEEDED.get(each, {}).items()}
    return TrainingConfig(**{**QUICK, "strategy": strategy, "strategy_options": options, **needed, **changes})


def weights_of(trained):
    return load_file(trained.path / "model.safetensors")


def interrupted_and_resumed(config, data, path, *, at_fractions):
    """Train with an interruption at each of the fractions of the whole, and go on each time where it ended."""
    resumptions = []
    for at_fraction in at_fractions:

        def interrupt(report, at_fraction=at_fraction):
            if report.done_fraction > at_fraction:
                raise KeyboardInterrupt

        tracker = Recorder()
        with pytest.raises(KeyboardInterrupt):
            train(config, data, output_dir=path, progress=interrupt, tracker=tracker)
        resumptions.append(tracker.tags["is_resumed"])
    tracker = Recorder()
    resumed = train(config, data, output_dir=path, tracker=tracker)
    assert [*resumptions, tracker.tags["is_resumed"]] == ["false", *["true"] * len(at_fractions)]
    return resumed


def assert_same(one, other):
    expected, found = weights_of(one), weights_of(other)
    assert expected.keys() == found.keys()
    assert all(bool((expected[name] == found[name]).all()) for name in expected)
    for before, after in zip(one.info.history, other.info.history, strict=True):
        assert {**before, "targets_per_second": 0} == {**after, "targets_per_second": 0}


@pytest.mark.parametrize("strategy", [*STRATEGIES, *JOINED])
def test_resumed_inside_or_between_phases_equals_uninterrupted_bit_for_bit(rich_data, tmp_path, strategy):
    config = config_of(strategy, ema_decay=0.9)
    whole = train(config, rich_data, output_dir=tmp_path / "whole")
    resumed = interrupted_and_resumed(config, rich_data, tmp_path / "resumed", at_fractions=(0.15, 0.5, 0.9))
    assert_same(whole, resumed)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_trained_model_loads_and_scores_as_recorded_and_says_how_it_was_staged(
    rich_dir, rich_data, tmp_path, strategy
):
    tracker = Recorder()
    trained = train(config_of(strategy), rich_data, output_dir=tmp_path / "model", tracker=tracker)
    found = rescore(trained.path, rich_dir / "concepts.parquet", rich_dir / "sequences.parquet", rich_dir / "vectors")
    assert found.score == pytest.approx(trained.info.score, abs=1e-6)
    notes = load_trained_model(trained.path)[1].strategy_notes
    assert strategy == "plain" or (notes.keys() == {strategy} and notes[strategy].endswith("."))
    assert {f"strategy.{name}": note for name, note in notes.items()}.items() <= tracker.tags.items()
    assert tracker.tags["strategy"] == strategy


def test_options_have_meanings_and_unique_names_where_strategies_can_be_combined():
    owners = {}
    for name, strategy in STRATEGIES.items():
        for each in fields(strategy.options):
            assert each.metadata["meaning"].endswith("."), (name, each.name)
            others = owners.setdefault(each.name, set())
            assert all(STRATEGIES[o].affects == strategy.affects in EXCLUSIVE for o in others), (name, each.name)
            others.add(name)


@pytest.mark.parametrize(
    ("values", "reads"),
    [
        ({}, ()),
        ({"strategy": "progressive"}, ()),
        ({"strategy": "ranking"}, ()),
        ({"strategy": "tmd"}, (CODES,)),
        ({"model": {"condition_dim": 16}}, (CODES,)),
        ({"strategy": "contrastive+progressive"}, (NEGATIVES,)),
        ({"strategy": "contrastive+tmd"}, (CODES, NEGATIVES)),
        ({"strategy": "decode_in_the_loop"}, ()),
        ({"strategy": "decode_in_the_loop", "strategy_options": {"decoder": "prefix"}}, (TEXTS,)),
    ],
    ids=str,
)
def test_it_is_known_which_trials_read_texts_codes_or_negatives(rich_data, values, reads):
    concepts = replace(rich_data.concepts, content_fingerprints={kind: kind for kind in CONTENT})
    found = content_read(Trial(**values), concepts)
    assert found == concepts.content(reads)
    assert (found is None) == (not reads)
    for kind in CONTENT:
        changed = replace(concepts, content_fingerprints={**concepts.content_fingerprints, kind: "other"})
        assert (content_read(Trial(**values), changed) == found) == (kind not in reads)
    assert content_read(Trial(**values), replace(concepts, content_fingerprints={})) is None


def test_names_are_sorted_joined_and_checked_when_the_trial_is_made():
    assert Trial(strategy="plain+progressive").strategy == "progressive"
    assert Trial(strategy="progressive").trial_id.startswith("lstm-small-progressive-s0-")
    assert Trial().identity() == Trial(strategy="plain").identity() == {}
    with pytest.raises(LvmError, match=r"no strategy 'speedy'; there are .*plain, progressive, .*\+"):
        training_config({"strategy": "speedy"})
    with pytest.raises(LvmError, match=r"progressive has no option 'speed'; its options are: sizes, phase_epochs"):
        training_config({"strategy": "progressive", "strategy_options.speed": 1})
    with pytest.raises(LvmError, match=r"progressive cannot be used: sizes.*valid integer.*'x'"):
        training_config({"strategy": "progressive", "strategy_options": {"sizes": ["x"]}})
    with pytest.raises(LvmError, match="plain has no option 'speed'; its options are: none"):
        strategies_of(Trial(strategy_options={"speed": 1}))


def test_two_strategies_that_decide_the_same_contradict_each_other():
    with pytest.raises(LvmError, match="curriculum and progressive both decide the phases; choose one of them"):
        training_config({"strategy": "progressive+curriculum"})


def test_checking_a_trial_does_not_import_torch():
    """One process for all: the first strategy whose check imports it is named."""
    code = "import sys; from lvm_pipeline.training.trial import Trial\n"
    code += "for name in sys.argv[1:]: Trial(strategy=name, mode='windows'); 'torch' in sys.modules and sys.exit(name)"
    done = subprocess.run([sys.executable, "-c", code, *STRATEGIES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True, kw_only=True)
class Width:
    width: int = strategy_option(3, "Width.")


class PullToRows(TermModule):
    """Reads rows, states and predictions, and learns a projection."""

    reads_states = True

    def __init__(self, sources):
        super().__init__()
        self.vectors = sources.vectors
        self.head = nn.Linear(sources.model.config.hidden_dim, sources.vectors.shape[1])

    def forward(self, predictions, batch, states):
        rows = batch.rows[batch.is_target]
        assert torch.equal(self.vectors[rows], batch.chosen_targets())
        assert len(rows) == len(states) == len(predictions)
        earlier = self.vectors[rows - 1]
        return (self.head(states.float()) - earlier).square().mean() + torch.rand(()) * 0.01


def extended(model, options):
    model.add_module("further", nn.Linear(options.width, 1))
    return model


def everything(staging, config, data, options):
    """Two phases: drawn spans with a term, then some targets only, in order."""
    (phase,) = staging.phases
    counted = np.arange(len(data.vectors)) % 3 == 0
    term = AddedTerm(name="earlier", weight=0.5, make=PullToRows)
    first = replace(phase, name="drawn", draw=lambda rng: rng.integers(0, len(phase.spans), 9), terms=(term,))
    return replace(
        staging,
        phases=(first, replace(phase, name="thirds", counted=counted, terms=(term,), is_shuffled=False)),
        model={"condition_dim": 16},
        measures=(lambda predictions, targets: {"validation_first": float(predictions[0] @ targets[0])},),
        notes={"everything": "All of it."},
    )


@pytest.fixture
def everything_strategy(monkeypatch):
    found = Strategy(
        name="everything",
        summary="All that a strategy can do",
        affects="phases",
        stage=everything,
        options=Width,
        extend=extended,
        condition=lambda data, options: data.condition(16) * 2,
        refused=lambda trial, options: "mse is not allowed" if trial.objective == "mse" else None,
    )
    monkeypatch.setattr(strategies, "load_strategy", lambda name: found)


@pytest.mark.usefixtures("everything_strategy")
def test_a_strategy_may_draw_mask_add_terms_extend_the_model_measure_and_give_the_condition(
    rich_dir, rich_data, tmp_path
):
    config = TrainingConfig(**QUICK, strategy="everything", strategy_options={"width": 5}, mode="articles")
    tracker = Recorder()
    whole = train(config, rich_data, output_dir=tmp_path / "model", tracker=tracker)
    assert weights_of(whole)["further.weight"].shape == (1, 5)
    assert not any(name.startswith("terms") for name in weights_of(whole))
    assert whole.info.config["condition_dim"] == 16
    assert all("validation_first" in row for row in whole.info.history)
    assert all("train_loss_earlier" in metrics for metrics in tracker.metrics[1:])
    found = rescore(whole.path, rich_dir / "concepts.parquet", rich_dir / "sequences.parquet", rich_dir / "vectors")
    assert found.score == pytest.approx(whole.info.score, abs=1e-6)
    resumed = interrupted_and_resumed(config, rich_data, tmp_path / "resumed", at_fractions=(0.2, 0.7))
    assert_same(whole, resumed)


@pytest.mark.usefixtures("everything_strategy")
def test_a_contradiction_is_refused_when_the_trial_is_made():
    with pytest.raises(LvmError, match="everything cannot be used like this: mse is not allowed"):
        training_config({"strategy": "everything", "objective": "mse"})


@pytest.mark.usefixtures("everything_strategy")
@pytest.mark.parametrize("architecture", ["linformer", "distilgpt2", "lcm_two_tower"])
def test_terms_read_the_states_of_every_kind_of_architecture(rich_data, tmp_path, architecture):
    changes = {"epochs": 1, "model": {"hidden_dim": 48, "num_layers": 1}, "architecture": architecture}
    train(TrainingConfig(**{**QUICK, **changes}, strategy="everything"), rich_data, output_dir=tmp_path / "model")


def test_only_counted_targets_are_in_a_batch_and_no_span_is_without(rich_data):
    config = config_of("plain").with_options(mode="articles", learning_rate=0.01)
    (phase,) = staged(config, rich_data).phases
    counted = np.zeros(len(rich_data.vectors), bool)
    counted[phase.spans.target_rows()[::17]] = True
    phase = replace(phase, counted=counted)
    spans = phase.for_model(4, rng=np.random.default_rng(0))
    assert phase.num_counted(spans).min() > 0
    assert phase.num_counted(spans).sum() == counted.sum()
    assert [int(counted[spans.take(np.array([i])).target_rows()].sum()) for i in range(len(spans))] == [
        *phase.num_counted(spans)
    ]
    batch = gather(vectors_on_device(rich_data.vectors, "cpu"), spans, counted=counted)
    assert sorted(batch.rows[batch.is_target].tolist()) == np.flatnonzero(counted).tolist()
