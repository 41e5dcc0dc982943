"""What Dagster loads: the graph, its partitions and checks, and a code server that stays small."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.snap import JobSnap
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap

from lvm_pipeline import files
from lvm_pipeline.architectures._registry import architecture_names
from lvm_pipeline.definitions import defs
from lvm_pipeline.defs.launchpad import PresetChoice, TrainingOptions, settings_with
from lvm_pipeline.defs.schedules import retraining
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings, load_settings, settings_environment

LINEAGE = ["cpe_entry", "concepts", "sequences", "trained_model", "evaluation_report", "leaderboard"]
BEHIND_IT = {
    "ensemble": {"leaderboard"},
    "champion": {"leaderboard", "ensemble"},
    "trial": {"sequences"},
    "text_decoder": {"sequences"},
}
PARTITIONED = {"trained_model", "evaluation_report"}

# DESIGN section 4.
BLOCKING = {
    "concepts": {
        "order_is_unambiguous",
        "articles_are_contiguous",
        "positions_have_no_gap",
        "every_concept_has_a_vector",
        "vectors_are_finite_and_of_one_width",
        "vectors_match_their_space",
        "cpe_ids_are_unique",
        "no_duplicate_concepts",
        "texts_are_not_empty",
    },
    "sequences": {
        "windows_stay_inside_articles",
        "window_count_is_exact",
        "articles_are_in_one_split",
        "no_near_duplicate_across_splits",
    },
    "trained_model": {
        "checkpoint_reproduces_its_score",
        "prediction_is_not_the_mean_vector",
        "preset_has_its_declared_size",
    },
    "evaluation_report": {"pool_is_declared_and_clean", "checkpoint_reproduces_its_score"},
}
WARNINGS = {
    "concepts": {"tmd_codes_are_assigned", "tmd_packing_is_known", "articles_are_long_enough"},
    "trained_model": {"no_objective_term_dominates"},
    "evaluation_report": {"beats_best_baseline"},
}


@pytest.fixture(scope="module", autouse=True)
def stored():
    """An instance on disk; definitions that are loaded keep using the one that is open then."""
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture(scope="module")
def graph():
    return defs().resolve_asset_graph()


def test_definitions_can_be_loaded():
    dg.Definitions.validate_loadable(defs())


def test_lineage_is_one_line_from_the_table_to_the_leaderboard_and_the_ensemble_joins_before_the_champion(graph):
    parents = {node.key.to_user_string(): {p.to_user_string() for p in node.parent_keys} for node in graph.asset_nodes}

    assert parents == {name: set(LINEAGE[max(0, i - 1) : i]) for i, name in enumerate(LINEAGE)} | BEHIND_IT


def test_architectures_are_the_partitions(graph):
    partitioned = {
        node.key.to_user_string(): node.partitions_def.get_partition_keys()
        for node in graph.asset_nodes
        if node.partitions_def is not None and node.key != dg.AssetKey("trial")
    }

    assert partitioned == dict.fromkeys(PARTITIONED, architecture_names())
    assert {"lstm", "gru"} <= set(architecture_names())


@pytest.mark.parametrize("asset", BLOCKING)
def test_every_blocking_invariant_is_a_blocking_check(graph, asset):
    specs = {key.name: graph.get_check_spec(key) for key in graph.get_check_keys_for_assets({dg.AssetKey(asset)})}

    assert {name for name, spec in specs.items() if spec.blocking} >= BLOCKING[asset]
    assert {name for name, spec in specs.items() if not spec.blocking} >= WARNINGS.get(asset, set())


def test_trainings_share_the_gpu_one_at_a_time(graph):
    assert graph.get(dg.AssetKey("trained_model")).pools == {"gpu"}
    assert graph.get(dg.AssetKey("trial")).pools == {"gpu"}


def test_concepts_and_sequences_are_made_one_at_a_time(graph):
    for asset in ("concepts", "sequences"):
        assert graph.get(dg.AssetKey(asset)).pools == {"data"}


def test_every_week_of_the_plan_is_a_job_that_queues_with_the_trainings():
    jobs = {name: defs().resolve_job_def(name) for name in (f"plan_week_{week}" for week in range(1, 6))}

    assert all(
        job.description and job.description.startswith(f"Week {name[-1]} of the plan") for name, job in jobs.items()
    )
    assert {node.definition.pool for job in jobs.values() for node in job.nodes} == {"gpu"}


LEFT_OUT = ("torch", "mlflow", "sklearn", "transformers", "sentence_transformers", "matplotlib")


def test_code_server_never_imports_what_only_trainings_need():
    program = f"import sys, lvm_pipeline.definitions; print([name for name in {LEFT_OUT} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"


def requested(schedule, day):
    moment = datetime(2026, 11, day, 3, tzinfo=UTC)
    context = dg.build_schedule_context(instance=dg.DagsterInstance.get(), scheduled_execution_time=moment)
    return {request.run_key: request.partition_key for request in schedule(context)}


def test_every_architecture_is_trained_once_a_week_where_all_are_named(monkeypatch):
    monkeypatch.setenv("LVM_RETRAINED_ARCHITECTURES", "all")
    schedule = retraining(load_settings())

    requests = requested(schedule, 1) | requested(schedule, 8)

    assert schedule.cron_schedule == "0 3 * * 0"
    assert sorted(requests.values()) == sorted(2 * architecture_names())


def test_only_the_champions_architecture_is_trained_where_nothing_is_named():
    settings = load_settings()
    schedule = retraining(settings)
    moment = datetime(2026, 11, 1, 3, tzinfo=UTC)
    (skipped,) = schedule(dg.build_schedule_context(instance=dg.DagsterInstance.get(), scheduled_execution_time=moment))
    assert "no champion yet" in skipped.skip_message

    files.write_json(settings.reports_dir / "champion.json", {"name": "gru small"})

    assert list(requested(schedule, 1).values()) == ["gru"]


def test_schedules_and_sensors_are_on_by_default_and_described(monkeypatch):
    monkeypatch.setenv("LVM_RETRAINING_CRON", "30 4 * * *")
    schedules, (sensor, *_) = {each.name: each for each in defs().schedules}, defs().sensors

    assert schedules.keys() == {"retraining", "verification", "model_verification", "ensemble_verification"}
    assert schedules["retraining"].cron_schedule == "30 4 * * *"
    assert {each.default_status for each in schedules.values()} == {dg.DefaultScheduleStatus.RUNNING}
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert all(each.description for each in schedules.values())
    assert all(each.description for each in defs().sensors)


def test_an_architecture_that_does_not_exist_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("LVM_RETRAINED_ARCHITECTURES", "gru, lst")

    with pytest.raises(dg.Failure, match="no architecture lst"):
        requested(retraining(load_settings()), 1)


def test_every_check_can_be_executed_without_its_asset(graph):
    sets = {key: graph.get_execution_set_asset_and_check_keys(key) for key in graph.asset_check_keys}

    assert {key for key, together in sets.items() if together != {key}} == set()


def test_training_options_replace_settings():
    settings = Settings(home=Path("/nowhere"), epochs=3, preset="small")

    changed = settings_with(settings, TrainingOptions(preset=PresetChoice("smoke"), seed=7), {"preset", "seed"})

    assert (changed.preset, changed.seed, changed.epochs, changed.home) == ("smoke", 7, 3, Path("/nowhere"))
    assert settings_with(settings, TrainingOptions(), set()) == settings
    with pytest.raises(LvmError, match=r"epochs: input should be .* 1, got 0\. Correct the field in the launchpad\."):
        settings_with(settings, TrainingOptions(epochs=0), {"epochs"})


def launch_problems(**config):
    """Return what Dagster says of a launchpad's config before it starts a run."""
    job = defs().resolve_job_def("train_architecture")
    try:
        dg.validate_run_config(job, {"ops": {"trained_model": {"config": config}}})
    except dg.DagsterInvalidConfigError as error:
        return str(error)
    return ""


def test_the_launchpad_refuses_choices_that_do_not_exist_before_the_run_starts():
    assert launch_problems(preset="smoke", strategy=["tmd", "progressive"], mode="windows", epochs=2) == ""
    assert "not in enum type Preset got smok" in launch_problems(preset="smok")
    assert "trained_model:config:strategy" in launch_problems(strategy=["tmt"])
    assert "epochs" in launch_problems(epochs="many")
    assert "epoch" in launch_problems(epoch=3)


def test_the_scaffolded_config_is_useful_and_nothing_pickles():
    snapshot = JobSnap.from_job_def(defs().resolve_job_def("train_architecture"))
    schema, (mode,) = snapshot.config_schema_snapshot, snapshot.mode_def_snaps
    text = default_values_yaml_from_type_snap(schema, schema.get_config_snap(mode.root_config_key))

    assert "epochs: 8" in text
    assert "preset: small" in text
    assert "objective: cosine" in text
    values = yaml.safe_load(text)["ops"]["trained_model"]["config"]
    assert launch_problems(**values) == ""
    assert not [each.name for each in mode.resource_def_snaps if "pickl" in (each.description or "")]


def test_a_child_reads_the_same_settings(monkeypatch, tmp_path):
    settings = Settings(
        home=tmp_path,
        database_url="postgresql://me:secret@host/db",  # pyright: ignore[reportArgumentType]
        accept_table_order=True,
        batch_size=64,
        learning_rate=0.25,
        validation_articles=tmp_path / "ids.txt",
    )
    for name, value in settings_environment(settings).items():
        monkeypatch.setenv(name, value)

    assert load_settings() == settings
