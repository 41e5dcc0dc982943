"""Promises of restarts: pauses grow, they end after some, and runs of dead processes are failed."""

import dagster as dg

from lvm_pipeline.adapters.service_watch import Restarts
from lvm_pipeline.defs.dagster_internals import GRPC_INFO_TAG
from lvm_pipeline.defs.lost_runs import fail_lost_runs


def test_restarts_pause_longer_each_time_and_end():
    restarts = Restarts()

    assert [restarts.pause_after_death("mlflow", clock=float(second)) for second in range(6)] == [1, 2, 4, 8, 16, None]
    assert restarts.pause_after_death("dagster-daemon", clock=6.0) == 1
    assert restarts.pause_after_death("mlflow", clock=700.0) == 1


def test_only_the_first_death_of_some_minutes_is_an_alert():
    restarts = Restarts()
    told = []
    for second in (0.0, 1.0, 700.0):
        restarts.pause_after_death("mlflow", clock=second)
        told.append(restarts.is_first("mlflow"))

    assert told == [True, False, True]


@dg.job
def nothing():
    pass


def test_runs_that_no_code_server_executes_fail_with_a_reason():
    with dg.instance_for_test() as instance:
        started = dg.DagsterRunStatus.STARTED
        tags = {GRPC_INFO_TAG: "{}"}
        lost, executed = (instance.create_run_for_job(nothing, status=started, tags=tags) for _ in range(2))
        of_a_command = instance.create_run_for_job(nothing, status=started)

        failed = fail_lost_runs(instance, is_executed=lambda run: run.run_id == executed.run_id)

        assert failed == [lost.run_id]
        status = {run.run_id: run.status for run in instance.get_runs()}
        assert status == {
            lost.run_id: dg.DagsterRunStatus.FAILURE,
            executed.run_id: started,
            of_a_command.run_id: started,
        }
        (event,) = [e for e in instance.all_logs(lost.run_id) if e.dagster_event and e.dagster_event.is_run_failure]
        assert "A training resumes from its checkpoint" in event.dagster_event.message
