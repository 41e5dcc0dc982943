"""The plan as data: how many trials, of what, and that every one can be built at every preset."""

from collections import Counter

import pytest

from lvm_pipeline.architectures._contract import config_with
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.errors import LvmError
from lvm_pipeline.experiments.plan import (
    NUM_ENSEMBLES,
    NUM_REFINEMENTS,
    SHARES,
    axis_values,
    check_week,
    planned_trials,
    sweep_configs,
)
from lvm_pipeline.experiments.week_five import (
    ENSEMBLES,
    Scored,
    best_of,
    ensembles,
    from_identity,
    refined_options,
    refinement,
)
from lvm_pipeline.training.config import TrainingConfig

PRESETS = ("smoke", "small", "full")


def plan(preset="smoke", **options):
    return planned_trials(TrainingConfig(preset=preset, **options), shares=SHARES)


def test_the_plan_has_the_100_trials_that_were_asked_for_and_five_more():
    counts = Counter(trial.week for trial in plan() if not trial.is_addition)

    assert counts == {1: 15, 2: 30, 3: 20, 4: 20}
    assert counts.total() + NUM_ENSEMBLES + NUM_REFINEMENTS == 100
    assert [trial.config.architecture for trial in plan() if trial.is_addition] == ["rwkv"] * 5
    assert Counter(trial.config.architecture for trial in plan()) == {
        **{"lstm": 10, "gru": 5, "mamba2": 15, "hybrid": 10, "s4": 5, "distilgpt2": 10, "linformer": 5},
        **{"performer": 5, "hyena": 7, "retnet": 8, "lcm": 5, "rwkv": 5},
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_every_trial_is_different_and_can_be_built(preset):
    trials = plan(preset)

    assert len({trial.trial_id for trial in trials}) == len(trials)
    for trial in trials:
        config_with(load_architecture(trial.config.architecture).preset(preset).config, trial.config.model)


def values(architecture, preset, name):
    config = load_architecture(architecture).preset(preset).config
    own = [trial.config for trial in plan(preset) if trial.config.architecture == architecture]
    return sorted({each.model.get(name, getattr(config, name)) for each in own})


def test_the_axes_are_those_that_were_asked_for():
    assert set(values("lstm", "full", "hidden_dim")) >= {256, 512, 1024, 2048}
    assert values("gru", "full", "num_layers") == [1, 2, 3]
    assert values("mamba2", "full", "hidden_dim") == [768, 1024]  # 130M and 370M with 34 and 56 layers
    assert values("hybrid", "full", "mamba_per_attention") == [1, 2, 3, 4, 5]
    assert values("distilgpt2", "full", "num_heads") == [4, 8, 12]


def test_sizes_shrink_with_the_preset_and_stay_different():
    lstm, mamba2, lcm = map(load_architecture, ("lstm", "mamba2", "lcm"))

    assert axis_values(lstm, "smoke", "hidden_dim") == (32, 64, 128, 256)
    assert axis_values(lstm, "small", "hidden_dim") == (256, 512, 1024, 2048)  # they cover the preset's 512
    assert axis_values(mamba2, "smoke", "hidden_dim") == (64, 96)
    assert axis_values(lcm, "smoke", "num_layers") == (1, 2, 3, 4)
    assert axis_values(load_architecture("performer"), "smoke", "kernel") == ("softmax", "relu")


def test_configs_are_repeated_with_further_seeds_and_seeds_of_a_config_share_a_group():
    heads = [trial for trial in plan(seed=10) if trial.config.architecture == "distilgpt2"]

    assert sorted(trial.config.seed for trial in heads) == [10, 10, 10, 11, 11, 11, 12, 12, 12, 13]
    assert len({trial.group for trial in heads}) == 3
    assert len({trial.group for trial in plan()}) == len({str((t.config.architecture, t.overrides)) for t in plan()})


def test_a_grid_that_is_too_large_varies_one_field_at_a_time():
    configs = sweep_configs(load_architecture("performer"), "full", count=5)

    assert all(len(config) <= 1 for config in configs)
    assert {name for config in configs for name in config} == {"num_features", "kernel", "redraw_steps"}
    assert len(sweep_configs(load_architecture("hybrid"), "full", count=10)) == 10


def test_options_of_the_base_reach_every_trial():
    for trial in plan(epochs=3, model={"dropout": 0.1}):
        assert (trial.config.epochs, trial.config.model["dropout"]) == (3, 0.1)


def test_an_unknown_week_lists_the_weeks():
    check_week(None)
    with pytest.raises(LvmError, match=r"no week 6; its weeks are 1 \(baselines\)"):
        check_week(6)


OPTIONS = {"learning_rate": 2e-3, "correction_learning_rate_factor": 0.3, "model.dropout": 0.25}


def scored():
    trials = plan()
    chosen = [trial for trial in trials if trial.config.architecture in ("lstm", "gru", "s4", "retnet", "hyena")]
    return [Scored(trial=trial, cosine=0.5 + 0.001 * number) for number, trial in enumerate(chosen)]


def test_the_best_config_is_the_one_with_the_best_mean_over_its_seeds():
    first, second = list(dict.fromkeys(trial.group for trial in plan()))[:2]
    one, other = ([trial for trial in plan() if trial.group == group] for group in (first, second))
    lucky = [Scored(trial=one[0], cosine=0.9), Scored(trial=one[1], cosine=0.5)]
    steady = [Scored(trial=other[0], cosine=0.75), Scored(trial=other[1], cosine=0.74)]

    assert best_of([*lucky, *steady]).trial is other[0]


def test_week_5_combines_the_best_and_refines_the_best():
    found = scored()
    combined, best = ensembles(found, TrainingConfig(preset="smoke")), best_of(found)
    refined = [refinement(best.trial, OPTIONS | {"weight_decay": number / 100}) for number in range(1, 4)]

    assert len(combined) == len(ENSEMBLES) == NUM_ENSEMBLES
    top = {each.trial.trial_id for each in sorted(found, key=lambda each: -each.cosine)[:3]}
    assert set(combined[0].config.model["members"]) == top
    heads = [{member.split("-")[0] for member in each.config.model["members"]} for each in combined]
    assert [len(each) for each in heads[2:]] == [3, 3, 5]
    assert {trial.config.architecture for trial in refined} == {best.trial.config.architecture}
    assert len({trial.trial_id for trial in refined}) == 3
    assert refined_options(refined[1]) == OPTIONS | {"weight_decay": 0.02}
    for trial in (*combined, *refined):
        assert from_identity(trial.config.trial.identity(), TrainingConfig(num_threads=1)).trial == trial.config.trial
