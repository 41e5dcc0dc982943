"""`lvm alerts`: try the way that alerts go, and watch the daemon from outside."""

import time

import typer
from rich.console import Console

from lvm_pipeline.settings import load_settings

app = typer.Typer(help="Tell people of failures: set LVM_ALERT_URL to an apprise URL.", no_args_is_help=True)


@app.command()
def test() -> None:
    """Send one alert to LVM_ALERT_URL, to see that it arrives."""
    from lvm_pipeline.adapters import alerts
    from lvm_pipeline.alerts.alert import Alert

    settings = load_settings()
    now = time.time()
    message = "`lvm alerts test` sent this: failed checks, failed runs and a silent daemon will be told here."
    alerts.send(
        settings,
        Alert(alert_id=f"test {now:.0f}", happened_at=now, title="A test", message=message, is_warning=True),
    )
    Console(highlight=False).print("Sent a test alert to LVM_ALERT_URL.")


@app.command()
def watch() -> None:
    """Tell when Dagster's daemon is silent, until Ctrl-C; `lvm ui` does this by itself."""
    from lvm_pipeline.defs.daemon_watch import told_to_end
    from lvm_pipeline.defs.daemon_watch import watch as watch_daemon
    from lvm_pipeline.defs.launch import open_instance

    settings = load_settings()
    with open_instance(settings) as instance:
        watch_daemon(instance, settings, is_over=told_to_end())
