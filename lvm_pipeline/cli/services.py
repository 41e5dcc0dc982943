"""The commands around the pipeline: services, settings, what is wrong, and alerts."""

import time
from typing import Annotated

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.settings import Settings, load_settings

app = typer.Typer()
alerts_app = typer.Typer(
    help="Tell people of failures: set LVM_ALERT_URL to an apprise URL.",
    short_help="Try the alerts, and watch the daemon.",
    no_args_is_help=True,
)
app.add_typer(alerts_app, name="alerts")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command(short_help="Show every setting, its value and what it means.")
def settings(as_json: JsonOption = False) -> None:
    """Show every setting: its variable, its value and what it means. Secrets are not shown."""
    values = load_settings()
    rows = [
        {
            "variable": f"LVM_{name.upper()}",
            "value": _printable(getattr(values, name)),
            "meaning": field.description or "",
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        render.print_json(rows)
    else:
        render.show_rows(render.plain(), rows)


@app.command(short_help="Look for what is wrong, and name the fix.")
def doctor(as_json: JsonOption = False) -> None:
    """Look for what is wrong around the pipeline, and name the fix for it; exit code 1 where there is a problem."""
    from lvm_pipeline import doctor

    out = render.plain(quiet=as_json)
    with out.status("Looking"):
        diagnoses = list(doctor.examine())
    if as_json:
        render.print_json([diagnosis.as_json() for diagnosis in diagnoses])
    else:
        render.show_diagnoses(out, [diagnosis.as_json() for diagnosis in diagnoses])
    if any(diagnosis.state is doctor.State.PROBLEM for diagnosis in diagnoses):
        raise typer.Exit(1)


@app.command(short_help="Start the Dagster and MLflow web UIs.")
def ui() -> None:
    """Start the Dagster web UI, its daemon and the MLflow UI; Ctrl-C stops them all."""
    from lvm_pipeline.adapters import services

    services.run_services(load_settings())


@app.command()
def down() -> None:
    """Stop the embedded Postgres server."""
    from lvm_pipeline.adapters import embedded_postgres

    was_running = embedded_postgres.stop(load_settings().postgres_dir)
    render.plain().print("Stopped the embedded Postgres." if was_running else "The embedded Postgres was not running.")


@alerts_app.command()
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
    render.plain().print("Sent a test alert to LVM_ALERT_URL.")


@alerts_app.command()
def watch() -> None:
    """Tell when Dagster's daemon is silent, until Ctrl-C; `lvm ui` does this by itself."""
    from lvm_pipeline.defs.daemon_watch import told_to_end
    from lvm_pipeline.defs.daemon_watch import watch as watch_daemon
    from lvm_pipeline.defs.launch import open_instance

    settings = load_settings()
    with open_instance(settings) as instance:
        watch_daemon(instance, settings, is_over=told_to_end())


def _printable(value: object) -> str:
    """Return a setting as text, an address without the password in it."""
    from lvm_pipeline.adapters import databases

    return databases.shown(str(value)) if "://" in str(value) else str(value)
