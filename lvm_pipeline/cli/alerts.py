"""Commands for alerts."""

import time
from typing import Annotated

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import load_settings

app = typer.Typer(
    help="Alerts about failures, recoveries and retrainings. Set LVM_ALERT_URL to an Apprise URL.",
    short_help="List and acknowledge failing checks, test alerts, watch the Dagster daemon.",
    no_args_is_help=True,
)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the checks that fail now, and which of them are acknowledged."""
    from lvm_pipeline.adapters.messages.failing import Quiet
    from lvm_pipeline.defs.failing_checks import failing_now

    settings = load_settings()
    quiet = Quiet(level=settings.alert_level, checks=settings.quiet_checks)
    rows = [
        {
            "check": each.name,
            "severity": each.alert.level,
            "acknowledged": each.is_acknowledged,
            "sent": not each.is_acknowledged and not quiet.hides(each.alert),
            "message": each.alert.message,
        }
        for each in failing_now(settings)
    ]
    if as_json:
        render.print_json(rows)
        return
    out = render.plain()
    for row in rows:  # each name whole on a line, since `lvm alerts ack` takes it
        state = [row["severity"], *["acknowledged"] * row["acknowledged"], *["not sent"] * (not row["sent"])]
        render.say(out, f"{row['check']}: {', '.join(state)}\n    {row['message']}")
    if not rows:
        out.print("No check fails.")


@app.command()
def ack(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CHECK]..."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Acknowledge every failing check.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Withdraw the acknowledgement.")] = False,
) -> None:
    """Acknowledge failing checks: no alert about a CHECK, named as in `lvm alerts list`, until it gets worse."""
    from lvm_pipeline.defs import failing_checks as checks_now

    if not names and not everything:
        raise LvmError("Name the checks to acknowledge, or use --all; `lvm alerts list` shows what fails now.")
    settings = load_settings()
    if remove:
        changed = checks_now.withdraw(settings, names or sorted(checks_now.read_acknowledged(settings)))
    else:
        failing = checks_now.failing_now(settings)
        changed = checks_now.acknowledge(settings, failing, names or [each.name for each in failing])
    verb, none = ("Withdrew the acknowledgement of", "acknowledged") if remove else ("Acknowledged", "failing")
    said = f"{verb} {', '.join(changed)}." if changed else f"No check is {none}."
    render.say(render.plain(), said)


@app.command()
def test() -> None:
    """Send a test alert to LVM_ALERT_URL."""
    from lvm_pipeline.adapters import alerts
    from lvm_pipeline.adapters.messages.alert import Alert

    settings = load_settings()
    now = time.time()
    message = "Sent by `lvm alerts test`. Failed checks, failed runs and a stopped daemon are reported here."
    alerts.send(
        settings, Alert(alert_id=f"test {now:.0f}", happened_at=now, title="Test alert", message=message, level="info")
    )
    render.plain().print("Sent a test alert to LVM_ALERT_URL.")


@app.command()
def watch() -> None:
    """Send an alert when the Dagster daemon stops responding. Runs until Ctrl-C; `lvm ui` does this already."""
    from lvm_pipeline.adapters import alerts
    from lvm_pipeline.defs.daemon_watch import stop_on_signal
    from lvm_pipeline.defs.daemon_watch import watch as watch_daemon
    from lvm_pipeline.defs.launch import open_instance

    settings = load_settings()
    alerts.required_url(settings)
    with open_instance(settings) as instance:
        render.say(render.plain(), "Watching the Dagster daemon; Ctrl-C stops.")
        watch_daemon(instance, settings, is_over=stop_on_signal())
