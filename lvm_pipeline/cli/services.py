"""Commands for services, settings and diagnosis."""

from dataclasses import asdict
from typing import Annotated

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.settings import Settings, load_settings, variable_of

app = typer.Typer()

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command(short_help="List all settings.")
def settings(as_json: JsonOption = False) -> None:
    """List all settings with their environment variable, value and meaning. Secrets are hidden."""
    values = load_settings()
    rows = [
        {
            "variable": variable_of((name,)),
            "value": _printable(getattr(values, name)),
            "meaning": field.description or "",
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        render.print_json(rows)
    else:
        render.show_rows(render.plain(), rows)


@app.command(short_help="Print the environment variables for Dagster's own commands.")
def env() -> None:
    """Print the variables that Dagster's own commands need, without secrets: eval "$(lvm env)"."""
    import shlex

    from lvm_pipeline.adapters.dagster_home import shell_environment

    for name, value in shell_environment(load_settings()).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command(short_help="Diagnose problems.")
def doctor(as_json: JsonOption = False) -> None:
    """Check services, storage, source and settings, and print a fix for each problem. Exit code 1 if there is one."""
    from lvm_pipeline import doctor

    out = render.plain(quiet=as_json)
    with out.status("Checking"):
        diagnoses = list(doctor.examine())
    if as_json:
        render.print_json([asdict(diagnosis) for diagnosis in diagnoses])
    else:
        render.show_diagnoses(out, diagnoses)
    if any(diagnosis.state is doctor.State.PROBLEM for diagnosis in diagnoses):
        raise typer.Exit(1)


@app.command(short_help="Start the Dagster and MLflow web UIs.")
def ui() -> None:
    """Start the Dagster web UI and daemon, the MLflow UI and the report server. Ctrl-C stops them."""
    from lvm_pipeline import lineage
    from lvm_pipeline.adapters import services
    from lvm_pipeline.serving.host_names import own_names

    settings = load_settings()
    lineage.refuse_unknown_names(settings)  # or each tick of schedules and automation would fail
    own_names(settings.reports_url, variable="LVM_REPORTS_URL")  # or the report server would not start
    services.run_services(settings)


@app.command(short_help="Stop the services and the built-in Postgres.")
def down(
    force: Annotated[bool, typer.Option("--force", help="Cancel running Dagster runs and commands first.")] = False,
) -> None:
    """Stop the services of `lvm ui` and the built-in Postgres. Refused while a run or another command is under way."""
    from lvm_pipeline.adapters.shutdown import stop_home

    stopped = stop_home(load_settings(), force=force)
    render.plain().print(f"Stopped {' and '.join(stopped)}." if stopped else "Nothing was running.")


def _printable(value: object) -> str:
    """Return a setting as text, URLs without their password."""
    from lvm_pipeline.adapters import databases

    return databases.shown(str(value)) if "://" in str(value) else str(value)
