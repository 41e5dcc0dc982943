"""Automation: equal data trigger nothing, a change triggers once, failed checks stop, training never starts."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from lvm_pipeline import files, lineage
from lvm_pipeline.architectures._registry import architecture_names
from lvm_pipeline.defs.automation import automated, automation_sensor
from lvm_pipeline.defs.checks import SEVERITIES, check_specs
from lvm_pipeline.defs.drift import drift
from lvm_pipeline.defs.launchers import Launcher
from lvm_pipeline.defs.partitions import architecture_partitions
from lvm_pipeline.defs.resources import settings_resource
from lvm_pipeline.findings import Invariant, Severity
from lvm_pipeline.settings import load_settings

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")  # of the stand-in for the table

DRIFT = "article_lengths_are_as_before"

INVARIANTS = {
    "concepts": lineage.INVARIANTS["concepts"],
    "sequences": [Invariant(name="windows_stay_inside_articles", meaning="", remedy="")],
    "trained_model": [Invariant(name="reproduces", meaning="", remedy="")],
    "evaluation_report": [Invariant(name="pool", meaning="", remedy="")],
    "leaderboard": [],
    "champion": [],
}
UPSTREAM = dict(zip(INVARIANTS, ["cpe_entry", *INVARIANTS], strict=False))
INVARIANTS["text_decoder"], UPSTREAM["text_decoder"] = [], "sequences"
PARTITIONED = {"trained_model", "evaluation_report"}


def stand_in(name):
    """An asset with the name, dependency and checks of a real one."""
    partitions_def = architecture_partitions if name in PARTITIONED else None
    specs = check_specs(name, INVARIANTS[name], partitions_def=partitions_def)

    @dg.asset(name=name, deps=[UPSTREAM[name]], partitions_def=partitions_def, check_specs=specs)
    def made(): ...

    return made


@dataclass
class World:
    """A lineage of stand-ins, what happened to them as a test tells it, and what the sensor would ask for then."""

    instance: dg.DagsterInstance
    monkeypatch: pytest.MonkeyPatch
    versions: dict[str, str] = field(default_factory=lambda: dict.fromkeys(["cpe_entry", *INVARIANTS], "1"))
    failing: set[str] = field(default_factory=set)
    cursor: object = None
    now: datetime = datetime(2026, 1, 1, 12, 10, tzinfo=UTC)
    checks_asked: set[str] = field(default_factory=set)

    def set(self, **variables):
        for name, value in variables.items():
            self.monkeypatch.setenv(f"LVM_{name.upper()}", value)

    def definitions(self):
        @dg.multi_observable_source_asset(specs=[dg.AssetSpec("cpe_entry")])
        def cpe_entry(): ...

        settings = load_settings()
        assets = automated([cpe_entry, *map(stand_in, INVARIANTS)], settings)
        return dg.Definitions(
            assets=assets, asset_checks=[drift], sensors=[automation_sensor(settings)],
            resources={"settings": settings_resource, "launcher": Launcher()},
        )  # fmt: skip

    def observe(self):
        """The table was looked at."""
        self._report(dg.AssetObservation("cpe_entry", tags=self._tags("cpe_entry")))

    def make(self, name, partition=None):
        """An asset was made: its checks were looked at, and it was promoted unless a blocking one failed."""
        checks = {each.name: each.severity for each in INVARIANTS[name]}
        drifted = {DRIFT, *self.failing & {"champion_predicts_as_before"}} if name == "concepts" else ()
        checks |= dict.fromkeys(drifted, Severity.WARNING)
        for check, severity in checks.items():
            self._report(
                dg.AssetCheckEvaluation(
                    asset_key=dg.AssetKey(name),
                    check_name=check,
                    passed=check not in self.failing,
                    metadata={},
                    severity=SEVERITIES[severity],
                    partition=partition,
                )
            )
        if not {check for check in self.failing if checks.get(check) is Severity.BLOCKING}:
            self._report(dg.AssetMaterialization(name, partition=partition, tags=self._tags(name)))

    def run(self, name, *, partition=None, crashes=False):
        """A run made an asset, all checks passed; or it was to make it and ended before it looked at anything."""

        partitions_def = architecture_partitions if partition else None
        specs = check_specs(name, INVARIANTS[name], partitions_def=partitions_def)

        @dg.asset(name=name, deps=[UPSTREAM[name]], partitions_def=partitions_def, check_specs=specs)
        def made():
            if crashes:
                raise dg.Failure("the database is away")
            yield dg.MaterializeResult(data_version=dg.DataVersion(self.versions[name]))
            yield from (dg.AssetCheckResult(check_name=each.name, passed=True) for each in INVARIANTS[name])

        run = dg.materialize([made], instance=self.instance, partition_key=partition, raise_on_error=False)
        assert run.success is not crashes

    def look_after(self, **time):
        """What the sensor would ask for some time later."""
        self.now += timedelta(**time)
        return self.look()

    def _report(self, event):
        self.instance.report_runless_asset_event(event)

    def _tags(self, name):
        return {DATA_VERSION_TAG: self.versions[name]}

    def look(self):
        """What the sensor would ask for now, beside the look at the table itself."""
        result = dg.evaluate_automation_conditions(
            self.definitions(), self.instance, cursor=self.cursor, evaluation_time=self.now
        )
        self.cursor = result.cursor
        checks = {
            one.key.name for one in result.results if isinstance(one.key, dg.AssetCheckKey) and one.true_subset.size
        }
        self.checks_asked = checks
        asked = set()
        for one in result.results:
            if isinstance(one.key, dg.AssetCheckKey):
                continue
            name = one.key.to_user_string()
            for partition in result.get_requested_partitions(one.key) if name != "cpe_entry" else ():
                asked.add(name if partition is None else f"{name} {partition}")
        return asked


@pytest.fixture
def world(instance, monkeypatch):
    world = World(instance, monkeypatch)
    world.observe()
    world.make("concepts")
    world.make("sequences")
    world.look()
    return world


def change(world, *names):
    for name in names:
        world.versions[name] += "+"


def test_equal_data_triggers_nothing(world):
    world.observe()
    assert world.look() == set()

    world.make("concepts")
    assert world.look() == set()


def test_a_changed_table_is_refreshed_once_step_by_step(world):
    change(world, "cpe_entry", "concepts", "sequences")

    world.observe()
    assert world.look() == {"concepts"}
    assert world.look() == set()
    world.make("concepts")
    assert world.look() == {"sequences"}
    assert world.look() == set()
    world.make("sequences")
    assert world.look() == set()


def test_a_change_that_leaves_the_concepts_as_they_were_goes_no_further(world):
    change(world, "cpe_entry")
    world.observe()
    assert world.look() == {"concepts"}

    world.make("concepts")

    assert world.look() == set()


def test_a_table_seen_for_the_first_time_is_refreshed(instance, monkeypatch):
    world = World(instance, monkeypatch)
    assert world.look() == set()

    world.observe()

    assert world.look() == {"concepts"}


def test_a_failed_blocking_check_holds_everything_downstream_and_passing_releases_it(world):
    world.set(retrain_on="new_data", retrained_architectures="gru")
    world.look()
    change(world, "cpe_entry", "concepts", "sequences")
    world.failing = {"every_concept_has_a_vector"}
    world.observe()
    assert world.look() == {"concepts"}
    world.make("concepts")
    assert [world.look() for _ in range(3)] == [set()] * 3

    world.failing = set()
    world.make("concepts")

    assert world.look() == {"sequences"}


@pytest.mark.parametrize("name", ["concepts", "sequences"])
def test_failed_data_assets_are_retried_on_schedule(world, name):
    change(world, "cpe_entry", "concepts", "sequences")
    world.observe()
    if name == "sequences":
        world.make("concepts")
    world.look()
    world.run(name, crashes=True)
    assert world.look_after(minutes=5) == set()

    assert world.look_after(minutes=20) == {name}
    assert world.look_after(minutes=5) == set()
    assert world.look_after(minutes=30) == {name}
    world.run(name)
    assert name not in world.look_after(minutes=30)


def test_data_with_a_failed_check_are_not_retried_until_they_change(world):
    change(world, "cpe_entry", "concepts")
    world.observe()
    world.look()
    world.run("concepts", crashes=True)
    world.failing = {"every_concept_has_a_vector"}
    world.make("concepts")
    assert world.look_after(hours=2) == set()

    change(world, "cpe_entry")
    world.observe()

    assert world.look() == {"concepts"}


def test_a_failed_training_is_not_retried(world):
    world.set(retrain_on="new_data", retrained_architectures="gru")
    world.look()
    change(world, "sequences")
    world.make("sequences")
    assert world.look() == {"trained_model gru"}
    world.run("trained_model", partition="gru", crashes=True)

    assert [world.look_after(hours=2) for _ in range(3)] == [set()] * 3


def test_training_is_not_requested_by_default(world):
    world.set(retrained_architectures="all")
    world.look()
    change(world, "sequences")

    world.make("sequences")

    assert world.look() == set()


def test_new_data_trains_what_is_named_and_leads_to_a_champion(world):
    world.set(retrain_on="new_data", retrained_architectures="gru, lstm")
    world.look()
    change(world, "sequences")

    world.make("sequences")
    assert world.look() == {"trained_model gru", "trained_model lstm"}
    assert world.look() == set()
    world.make("trained_model", partition="gru")
    assert world.look() == {"evaluation_report gru"}
    world.make("evaluation_report", partition="gru")
    assert world.look() == {"leaderboard"}
    world.make("leaderboard")
    assert world.look() == {"champion"}
    world.make("champion")
    assert world.look() == set()


def test_a_text_decoder_is_trained_again_with_the_models_once_there_is_one(world):
    change(world, "sequences")
    world.make("sequences")
    world.make("text_decoder")
    assert world.look() == set()  # training is started by a person or the schedule

    world.set(retrain_on="new_data", retrained_architectures="gru")
    world.look()
    change(world, "sequences")
    world.make("sequences")

    assert world.look() == {"trained_model gru", "text_decoder"}
    assert world.look() == set()


def test_a_failed_check_of_the_sequences_holds_training_which_is_not_forgotten(world):
    world.set(retrain_on="new_data", retrained_architectures="gru")
    world.look()
    change(world, "sequences")
    world.make("sequences")
    world.failing = {"windows_stay_inside_articles"}
    world.make("sequences")
    assert world.look() == set()

    world.failing = set()
    world.make("sequences")

    assert world.look() == {"trained_model gru"}


def test_a_model_whose_check_failed_gets_no_report_and_holds_no_other_one(world):
    world.set(retrain_on="new_data", retrained_architectures="gru, lstm")
    world.look()
    change(world, "sequences")
    world.make("sequences")
    world.look()
    world.failing = {"reproduces"}
    world.make("trained_model", partition="gru")
    world.failing = set()
    world.make("trained_model", partition="lstm")

    assert world.look() == {"evaluation_report lstm"}


@pytest.mark.parametrize(
    ("retrain_on", "others", "failing"),
    [
        ("drift", {"tmd_codes_are_assigned"}, DRIFT),
        ("error", {"tmd_codes_are_assigned", DRIFT}, "champion_predicts_as_before"),
    ],
)
def test_new_data_train_when_a_check_of_drift_or_error_fails_and_not_for_others(world, retrain_on, others, failing):
    world.set(retrain_on=retrain_on, retrained_architectures="gru")
    world.failing = others
    world.make("concepts")
    world.look()
    change(world, "concepts", "sequences")
    world.make("concepts")
    world.make("sequences")
    assert world.look() == set()

    world.failing = {failing}
    world.make("concepts")

    assert world.look() == {"trained_model gru"}


def test_new_concepts_are_held_against_the_champions_once(world):
    world.make("concepts")
    world.look()
    assert world.checks_asked == set()
    change(world, "concepts")

    world.make("concepts")

    world.look()
    # The one left out came with the concepts here.
    assert world.checks_asked == {each.name for each in lineage.INVARIANTS["drift"]} - {DRIFT}
    world.look()
    assert world.checks_asked == set()


def test_only_the_champions_architecture_is_trained_by_default(world):
    world.set(retrain_on="new_data")
    world.look()
    change(world, "sequences")
    world.make("sequences")
    assert world.look() == set()

    files.write_json(load_settings().reports_dir / "champion.json", {"name": "gru small"})

    assert world.look() == {"trained_model gru"}


def test_all_architectures_are_trained_where_all_are_named(world):
    world.set(retrain_on="new_data", retrained_architectures="all")
    world.look()
    change(world, "sequences")
    world.make("sequences")

    assert world.look() == {f"trained_model {name}" for name in architecture_names()}


def test_the_table_is_observed_on_schedule_and_the_sensor_runs(world):
    world.set(observation_cron="*/5 * * * *")
    definitions = world.definitions()

    (sensor,) = definitions.sensors
    condition = definitions.resolve_asset_graph().get(dg.AssetKey("cpe_entry")).automation_condition

    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert condition == dg.AutomationCondition.on_cron("*/5 * * * *")
