"""Options that several commands share, and the settings that they change."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings, load_settings, with_options
from lvm_pipeline.training.config import TrainingConfig


def training_option(name: str, *flags: str) -> Any:
    """Return the command-line option of a training option, with its declared meaning."""
    return typer.Option(*flags, help=TrainingConfig.model_fields[name].description)


ValidationArticlesOption = Annotated[
    Path | None, typer.Option(help="File of article ids, one per line, for the validation split; all others are train.")
]
PresetOption = Annotated[str | None, training_option("preset", "--preset", "-p")]
TrialOption = Annotated[str | None, typer.Option("--trial", help="Trial id, or the beginning of one.")]
LatestOption = Annotated[str, typer.Option("--architecture", "-a", help="Use its latest trial.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set any other training option, such as --set patience=2 or --set model.dropout=0.1; repeat for several. "
        "`lvm list options` lists them.",
    ),
]


def settings_of(*, set_options: Sequence[str] | None = None, **options: Any) -> Settings:
    """Return the settings of the environment with the options of a command in them."""
    return with_options(load_settings(), {**options, **dict(map(_named_value, set_options or ()))})


def _named_value(text: str) -> tuple[str, str]:
    name, is_given, value = text.partition("=")
    if not is_given:
        raise LvmError(f"--set takes NAME=VALUE, such as --set patience=2; got {text!r}.")
    return name.strip(), value.strip()
