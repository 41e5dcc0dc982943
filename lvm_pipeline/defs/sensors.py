"""The sensor `alerts`, which reports changes: failures that begin or get worse, their end, and retrainings."""

import time
from functools import partial
from itertools import chain

import dagster as dg

from lvm_pipeline.adapters import alerts
from lvm_pipeline.adapters.acknowledged import read_acknowledged
from lvm_pipeline.adapters.messages.delivery import deliver
from lvm_pipeline.adapters.messages.failing import Failure, Quiet
from lvm_pipeline.adapters.messages.window import Window
from lvm_pipeline.defs.failures import find_changes
from lvm_pipeline.defs.retraining_summary import find_retrainings
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings, load_settings

NO_URL = "LVM_ALERT_URL is not set: no alerts are sent."


def alerts_sensor(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name="alerts",
        description="Sends a message to LVM_ALERT_URL when a check or run begins to fail, gets worse or recovers, and "
        "one for each scheduled retraining. Failed deliveries are retried at the next tick.",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=settings.automation_interval_seconds,
    )
    def send_changes_now(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return send_changes(context, load_settings(), now=time.time())

    return send_changes_now


def send_changes(context: dg.SensorEvaluationContext, settings: Settings, *, now: float) -> dg.SensorResult:
    """Send what changed since the last tick; the first tick, and any tick without a URL, only stores the time."""
    if settings.alert_url is None:
        return dg.SensorResult(skip_reason=NO_URL, cursor=Window(since=now).as_text())
    assert context.repository_def is not None
    window = Window.from_text(context.cursor, now=now)
    checks = context.repository_def.asset_graph.asset_check_keys
    since, ui_address, quiet_checks = window.since, settings.ui_address, settings.quiet_checks
    found = chain(
        find_changes(context.instance, checks, since=since, ui_address=ui_address),
        find_retrainings(context.instance, since=since, now=now, ui_address=ui_address, quiet_checks=quiet_checks),
    )
    quiet = Quiet(level=settings.alert_level, checks=quiet_checks, acknowledged=_acknowledged(context, settings))
    delivery = deliver(found, window, send=partial(alerts.send, settings), now=now, quiet=quiet)
    for problem in delivery.problems:
        context.log.warning(problem)
    return dg.SensorResult(skip_reason=delivery.in_words(), cursor=delivery.window.as_text())


def _acknowledged(context: dg.SensorEvaluationContext, settings: Settings) -> dict[str, Failure]:
    """Return what was acknowledged; with a damaged file, all alerts are sent, and the tick's log says why."""
    try:
        return read_acknowledged(settings)
    except LvmError as error:
        context.log.warning(str(error))
        return {}
