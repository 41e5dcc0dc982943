"""The sensor `alerts`, which sends alerts for failures."""

import time
from functools import partial

import dagster as dg

from lvm_pipeline.adapters import alerts
from lvm_pipeline.adapters.messages.delivery import deliver
from lvm_pipeline.adapters.messages.window import Window
from lvm_pipeline.defs.failures import find_failures
from lvm_pipeline.settings import Settings, load_settings

NO_URL = "LVM_ALERT_URL is not set: no alerts are sent."


def alerts_sensor(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name="alerts",
        description="Sends failed asset checks (warnings too) and failed runs to LVM_ALERT_URL, each once. "
        "Failed deliveries are retried at the next tick.",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=settings.automation_interval_seconds,
    )
    def send_failures_now(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return send_failures(context, load_settings(), now=time.time())

    return send_failures_now


def send_failures(context: dg.SensorEvaluationContext, settings: Settings, *, now: float) -> dg.SensorResult:
    """Send failures since the last tick; the first tick, and any tick without a URL, only stores the time."""
    if settings.alert_url is None:
        return dg.SensorResult(skip_reason=NO_URL, cursor=Window(since=now).as_text())
    assert context.repository_def is not None
    window = Window.from_text(context.cursor, now=now)
    found = find_failures(
        context.instance,
        context.repository_def.asset_graph.asset_check_keys,
        since=window.since,
        ui_address=settings.ui_address,
    )
    delivery = deliver(found, window, send=partial(alerts.send, settings), now=now)
    for problem in delivery.problems:
        context.log.warning(problem)
    return dg.SensorResult(skip_reason=delivery.in_words(), cursor=delivery.window.as_text())
