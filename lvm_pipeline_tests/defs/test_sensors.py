"""The sensor `alerts` with real runs, on both storages: changes are sent once, to a real receiver."""

import re
import time

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.tags import AUTOMATION_CONDITION_TAG, SCHEDULE_NAME_TAG

from lvm_pipeline.adapters.messages.window import Window
from lvm_pipeline.defs.checks import check_result, check_specs
from lvm_pipeline.defs.failing_checks import acknowledge, failing_checks, withdraw
from lvm_pipeline.defs.failures import find_changes
from lvm_pipeline.defs.schedules import NUM_RUNS_TAG, RETRAINING, RETRAINING_TAG
from lvm_pipeline.defs.sensors import NO_URL, alerts_sensor
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Invariant, Severity
from lvm_pipeline.settings import Settings, load_settings, settings_environment

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
PARTITIONS = dg.StaticPartitionsDefinition(["gru", "lstm"])
INVARIANTS = [
    Invariant(name="vectors_are_there", meaning="There are vectors.", remedy="Encode the concepts."),
    Invariant(name="codes_are_assigned", severity=Severity.WARNING, meaning="There are codes.", remedy="Add them."),
]


class World:
    """Two assets with checks that a test makes fail or crash, and the sensor that looks at them."""

    def __init__(self, instance):
        self.instance = instance
        self.failing, self.crashing, self.unchecked, self.share = set(), set(), set(), 0.75
        self.cursor = None
        self.definitions = dg.Definitions(
            assets=[self._asset("concepts", None), self._asset("models", PARTITIONS)],
            sensors=[alerts_sensor(load_settings())],
            executor=dg.in_process_executor,
        )

    def _asset(self, name, partitions_def):
        @dg.multi_asset(
            name=name, specs=[dg.AssetSpec(name)], partitions_def=partitions_def, can_subset=True,
            check_specs=check_specs(name, INVARIANTS, partitions_def=partitions_def),
        )  # fmt: skip
        def made():
            if name in self.crashing:
                raise OSError("disk full at postgresql://me:hush-hush@host/db")
            for invariant in INVARIANTS:
                if invariant.name in self.unchecked:
                    continue
                passed, message = invariant.name not in self.failing, "2 of 8 vectors are missing."
                yield check_result(invariant.finding(passed=passed, message=message, observed=self.share, allowed=1.0))
            if "vectors_are_there" in self.failing:
                raise dg.Failure("vectors_are_there: 2 of 8 vectors are missing.")
            yield dg.MaterializeResult(asset_key=name)

        return made

    def make(self, name, partition=None, tags=None):
        job = self.definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=self.instance, asset_selection=[dg.AssetKey(name)], partition_key=partition,
            raise_on_error=False, run_config=QUIET, tags=tags,
        )  # fmt: skip
        return result.run_id

    def look(self):
        """One tick of the sensor; returns its words."""
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, definitions=self.definitions, sensor_name="alerts"
        )
        (sensor,) = self.definitions.sensors
        result = sensor(context)
        self.cursor = result.cursor
        return result.skip_reason.skip_message


def postgres_overrides(url):
    return {"storage": {"postgres": {"postgres_url": url.replace("postgresql:", "postgresql+psycopg2:")}}}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def world(request, tmp_path, receiver, monkeypatch):
    settings = Settings(home=tmp_path / "home", alert_url=receiver.url, dagster_url="https://dagster.example.org/")
    for name, value in settings_environment(settings).items():
        monkeypatch.setenv(name, value)
    on_postgres = request.param == "postgres"
    overrides = postgres_overrides(request.getfixturevalue("postgres_url")) if on_postgres else {}
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path / "dagster"), overrides=overrides)) as instance:
        yield World(instance)


def test_failures_are_sent_once_with_all_details(world, receiver):
    world.failing = {"vectors_are_there"}
    world.make("concepts")
    assert world.look() == "Nothing new.", "the first tick sends nothing from the past"
    assert receiver.messages == []

    run_id = world.make("models", "gru")

    assert world.look() == "Sent 1 alert."
    assert world.look() == "Nothing new."
    (message,) = receiver.messages
    assert message["title"] == "models [gru]: vectors_are_there failed"
    assert message["type"] == "failure"
    assert message["message"].splitlines()[:8] == [
        "2 of 8 vectors are missing.",
        "What to do: Encode the concepts.",
        "",
        "asset: models",
        "partition: gru",
        "check: vectors_are_there",
        "observed: 0.75",
        "allowed: 1",
    ]
    assert f"Dagster run: {run_id}" in message["message"]
    page = "https://dagster.example.org/assets/models?view=checks&checkDetail=vectors_are_there"
    assert f"link: {page}" in message["message"]

    what_fails_as_before_is_not_sent_again(world, receiver)
    warns_without_failing(world, receiver)
    a_crash_is_sent_with_the_checks_that_did_not_run(world, receiver)
    what_is_refused_is_sent_later(world, receiver)


def what_fails_as_before_is_not_sent_again(world, receiver):
    world.make("models", "gru")
    assert world.look() == "Nothing new."
    world.share = 0.5
    world.make("models", "gru")
    assert world.look() == "Sent 1 alert.", "it is worse"
    world.failing, world.share = set(), 0.75
    world.make("models", "gru")
    assert world.look() == "Sent 1 alert."
    assert receiver.messages[-1]["title"] == "models [gru]: vectors_are_there passes again"
    assert receiver.messages[-1]["type"] == "info"
    world.make("models", "gru")
    assert world.look() == "Nothing new."


def warns_without_failing(world, receiver):
    world.failing = {"codes_are_assigned"}
    world.make("concepts")
    world.look()
    assert receiver.messages[-1]["title"] == "concepts: codes_are_assigned warns"
    assert receiver.messages[-1]["type"] == "warning"
    world.failing = set()
    world.make("concepts")
    world.look()


def a_crash_is_sent_with_the_checks_that_did_not_run(world, receiver):
    world.failing, world.crashing = set(), {"concepts"}
    run_id = world.make("concepts")
    world.look()
    message = receiver.messages[-1]
    assert message["title"] == "concepts: the Dagster run failed"
    assert message["message"].startswith("concepts: OSError: disk full at postgresql://me:***@host/db")
    assert "check: codes_are_assigned (did not run), vectors_are_there (did not run)" in message["message"]
    assert f"link: https://dagster.example.org/runs/{run_id}" in message["message"]
    world.crashing = set()
    world.make("concepts")
    world.look()
    assert receiver.messages[-1]["title"] == "concepts: the Dagster run succeeds again"


def what_is_refused_is_sent_later(world, receiver):
    num_before = len(receiver.messages)
    world.failing = {"vectors_are_there", "codes_are_assigned"}
    world.make("concepts")
    receiver.num_refusals = 1
    assert world.look().startswith("Sent 1 alert; 1 alert will be tried again: An alert could not be delivered")
    assert world.look() == "Sent 1 alert."
    assert world.look() == "Nothing new."
    titles = [message["title"] for message in receiver.messages[num_before:]]
    assert sorted(titles) == ["concepts: codes_are_assigned warns", "concepts: vectors_are_there failed"]


def test_a_killed_run_is_sent(world, receiver):
    world.look()
    run = world.instance.create_run_for_job(
        world.definitions.resolve_implicit_global_asset_job_def(), asset_selection=frozenset({dg.AssetKey("concepts")})
    )
    world.instance.report_run_failed(run, "The run worker is gone.")

    world.look()

    (message,) = receiver.messages
    assert message["message"].startswith("The run worker is gone.")


def test_scheduled_runs_that_fail_for_one_reason_are_sent_once(world, receiver):
    world.look()
    job = world.definitions.resolve_implicit_global_asset_job_def()
    for _ in range(2):
        run = world.instance.create_run_for_job(
            job, asset_selection=frozenset({dg.AssetKey("concepts")}), tags={AUTOMATION_CONDITION_TAG: "true"}
        )
        world.instance.report_run_failed(run, "The database is away.")
        world.look()

    assert [message["message"].splitlines()[0] for message in receiver.messages] == ["The database is away."]


def test_an_acknowledged_check_is_quiet_until_it_gets_worse(world, receiver):
    world.look()
    world.failing = {"codes_are_assigned"}
    world.make("concepts")
    settings, checks = load_settings(), sorted(world.definitions.resolve_asset_graph().asset_check_keys)

    assert acknowledge(settings, failing_checks(world.instance, settings, checks), ["codes_are_assigned"]) == [
        "concepts:codes_are_assigned"
    ]
    assert [each.is_acknowledged for each in failing_checks(world.instance, settings, checks)] == [True]
    assert world.look() == "Nothing new."
    world.share = 0.25
    world.make("concepts")
    assert world.look() == "Sent 1 alert."

    with pytest.raises(LvmError, match="no failing check 'codes'"):
        acknowledge(settings, failing_checks(world.instance, settings, checks), ["codes"])
    assert withdraw(settings, ["codes_are_assigned"]) == ["concepts:codes_are_assigned"]


def test_a_damaged_file_of_acknowledgements_stops_no_alert(world, receiver):
    world.look()
    (load_settings().dagster_dir).mkdir(parents=True, exist_ok=True)
    (load_settings().dagster_dir / "acknowledged_alerts.json").write_text("{")
    world.failing = {"codes_are_assigned"}
    world.make("concepts")

    assert world.look() == "Sent 1 alert."


def test_a_check_that_could_not_be_made_changes_nothing(world, receiver):
    world.look()
    world.failing = {"codes_are_assigned"}
    world.make("concepts")
    world.look()
    world.failing, world.unchecked = set(), {"codes_are_assigned"}
    world.make("concepts")

    assert world.look() == "Nothing new."
    assert len(receiver.messages) == 1


def retrain(world, partition, scheduled="2026-11-29T03:00"):
    tags = {SCHEDULE_NAME_TAG: RETRAINING, RETRAINING_TAG: scheduled, NUM_RUNS_TAG: "2"}
    return world.make("models", partition, tags=tags)


def test_a_retraining_is_one_message(world, receiver):
    world.look()
    world.failing = {"codes_are_assigned"}
    retrain(world, "gru")
    assert world.look() == "Nothing new.", "it goes on"
    world.failing = {"vectors_are_there"}
    retrain(world, "lstm")

    assert world.look() == "Sent 1 alert."
    assert world.look() == "Nothing new."
    (message,) = receiver.messages
    assert message["title"] == "Retraining of gru, lstm: 1 of 2 failed"
    assert message["type"] == "failure"
    lines = message["message"].splitlines()
    assert re.fullmatch(r"gru trained in \d+ s \(\)\. Warnings: codes_are_assigned\.", lines[0])
    assert lines[1] == "lstm failed: vectors_are_there: 2 of 8 vectors are missing."
    assert lines[2] == "Champion: the runs did not get as far as choosing one."
    assert "link: https://dagster.example.org/runs?q%5B0%5D=tag%3Alvm%2Fretraining%3D2026-11-29T03%3A00" in lines


def test_a_retraining_that_goes_on_sums_its_checks_up_however_long_ago_it_began():
    found = []

    @dg.multi_asset(specs=[dg.AssetSpec("models")], check_specs=check_specs("models", INVARIANTS[1:]))
    def models():
        since = time.time()
        yield check_result(INVARIANTS[1].finding(passed=False, message="No codes."))
        checks = [dg.AssetCheckKey(dg.AssetKey("models"), "codes_are_assigned")]
        found.extend(find_changes(instance, checks, since=since, ui_address=""))
        yield dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([models], instance=instance, tags={SCHEDULE_NAME_TAG: RETRAINING}, run_config=QUIET)

    assert [alert.is_summed_up for alert in found] == [True]


def test_without_a_url_it_says_so_and_remembers_the_time(monkeypatch):
    with dg.DagsterInstance.ephemeral() as instance:
        world = World(instance)
        world.failing = {"vectors_are_there"}
        world.make("concepts")

        assert world.look() == NO_URL

    assert time.time() - Window.from_text(world.cursor, now=time.time()).since < 60
