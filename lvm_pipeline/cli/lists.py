"""The commands `lvm list ...`: architectures, strategies, options and trials."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.settings import load_settings

app = typer.Typer(help="List architectures, strategies, training options or trials.", no_args_is_help=True)


@app.command(name="architectures")
def list_architectures(as_json: JsonOption = False) -> None:
    """List every architecture and baseline model with its presets and their exact sizes."""
    from lvm_pipeline.architectures._registry import ARCHITECTURES, all_model_names

    _show(
        [
            {
                "name": name,
                "kind": ARCHITECTURES[name].kind,
                "preset": preset_name,
                "num_params": preset.num_params,
                "causal": ARCHITECTURES[name].causal,
            }
            for name in all_model_names()
            for preset_name, preset in ARCHITECTURES[name].presets.items()
        ],
        as_json=as_json,
    )


@app.command(name="strategies")
def list_strategies(as_json: JsonOption = False) -> None:
    """List every training strategy with what it does."""
    from lvm_pipeline.training.strategies import STRATEGIES

    _show([{"name": name, "summary": found.summary} for name, found in STRATEGIES.items()], as_json=as_json)


@app.command(name="options")
def list_options(
    architecture: Annotated[
        str, typer.Option("--architecture", "-a", help="Architecture whose model options are listed too.")
    ] = "lstm",
    as_json: JsonOption = False,
) -> None:
    """List every training option with its default and meaning, those of an architecture's model included."""
    from lvm_pipeline.training.option_table import training_options

    rows = [option.as_row() for option in training_options(architecture)]
    if not as_json:  # a value as `--set` takes it: False and 1e-05, not no and 0.0000
        rows = [row | {"default": "" if row["default"] is None else str(row["default"])} for row in rows]
    _show(rows, as_json=as_json)


@app.command(name="trials")
def list_trials(as_json: JsonOption = False) -> None:
    """List the trained trials with their validation score and whether they were trained on the present data."""
    from lvm_pipeline import lineage

    rows = lineage.trial_rows(load_settings())
    if not as_json:
        rows = [row | {"score": render.four_digits(row["score"])} for row in rows]
    _show(rows, as_json=as_json, if_empty="There is no trained trial yet; train one with `lvm train` or `lvm run`.")


def _show(rows: Sequence[dict[str, Any]], *, as_json: bool, if_empty: str = "Nothing to show.") -> None:
    if as_json:
        render.print_json(rows)
    else:
        render.show_rows(render.plain(), rows, if_empty=if_empty)
