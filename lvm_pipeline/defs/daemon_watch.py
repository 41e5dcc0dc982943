"""Watch the heartbeats of the Dagster daemon from a separate process and send an alert when they stop.

    python -m lvm_pipeline.defs.daemon_watch

`lvm ui` runs it beside the services where `LVM_ALERT_URL` is set; the environment names the instance (DAGSTER_HOME).
"""

import logging
import signal
import threading
import time
from types import FrameType

import dagster as dg
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import OperationalError

from lvm_pipeline.adapters import alerts
from lvm_pipeline.adapters.messages.silence import SilenceWatch
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings, load_settings

logger = logging.getLogger(__name__)

MAX_POLL_SECONDS = 30.0


def main() -> None:
    """Watch the daemon of DAGSTER_HOME until Ctrl-C or SIGTERM."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    with dg.DagsterInstance.get() as instance:
        watch(instance, load_settings(), is_over=stop_on_signal())


def stop_on_signal() -> threading.Event:
    """Return an event that is set by Ctrl-C or SIGTERM."""
    is_over = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        is_over.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return is_over


def watch(instance: dg.DagsterInstance, settings: Settings, *, is_over: threading.Event) -> None:
    """Poll the heartbeats until `is_over`; each outage is reported once, with retries until it is delivered."""
    silence_seconds = settings.daemon_silence_seconds
    silence = SilenceWatch(required=instance.get_required_daemon_types(), silence_seconds=silence_seconds)
    logger.info("Watching the daemon; silent after %s s without a heartbeat.", silence_seconds)
    while not is_over.is_set():
        _touch_liveness_file(settings)
        silent = silence.look(_heartbeats(instance), clock=time.monotonic())
        alert = silence.alert(silent, now=time.time(), link=f"{settings.ui_address}/deployment/daemons")
        if alert is not None:
            logger.error("%s: %s", alert.title, alert.message)
            try:
                alerts.send(settings, alert)
            except LvmError as error:
                logger.warning("%s", error)
                if settings.alert_url is None:
                    silence.mark_reported()
            else:
                silence.mark_reported()
        is_over.wait(min(MAX_POLL_SECONDS, silence_seconds / 4))


def _touch_liveness_file(settings: Settings) -> None:
    path = settings.dagster_dir / "daemon-watch"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _heartbeats(instance: dg.DagsterInstance) -> dict[str, float]:
    """Return the time of each daemon's last heartbeat; empty if the storage does not answer."""
    try:
        return {name: beat.timestamp for name, beat in instance.get_daemon_heartbeats().items()}
    except (OperationalError, DagsterPostgresException):
        return {}


if __name__ == "__main__":
    main()
