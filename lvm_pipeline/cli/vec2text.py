"""The commands `lvm vec2text ...`."""

from typing import Annotated, Literal

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.settings import load_settings

app = typer.Typer(help="Install vec2text, a decoder of GTR-T5 vectors.", no_args_is_help=True)


@app.callback()
def _several() -> None:
    """Keep `install` a command of its own."""


@app.command()
def install(
    weights: Annotated[
        Literal["ielab", "jxe"] | None,
        typer.Option(
            help="Also download weights: ielab for sentence-transformers GTR-T5 vectors (unit length), jxe for those "
            "of the T5 encoder alone (not normalised)."
        ),
    ] = None,
) -> None:
    """Install vec2text in a separate environment, LVM_HOME/vec2text, as it needs an older version of transformers.

    This takes minutes and several gigabytes. Without a network, copy the weights to LVM_HOME/vec2text/ielab or jxe: the
    folders inversion, corrector, base (T5 config and tokenizer) and embedder.
    """
    from lvm_pipeline.adapters import vec2text_environment

    folder, out = load_settings().vec2text_dir, render.plain()
    with out.status("Installing vec2text"):
        vec2text_environment.install_environment(folder)
        if weights is not None:
            vec2text_environment.install_weights(folder, weights)
    render.say(out, f"vec2text is installed in {folder}.")
