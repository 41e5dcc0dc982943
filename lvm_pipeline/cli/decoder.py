"""The commands `lvm decoder ...`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.settings import load_settings

app = typer.Typer(help="Train the text decoder, and decode vectors to text.", no_args_is_help=True)


@app.command(name="train")
def train(
    steps: Annotated[int | None, typer.Option(help="Optimiser steps. Default: LVM_DECODER_STEPS.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after so many seconds; the weights then depend on the machine.")
    ] = None,
    noise: Annotated[float, typer.Option(help="Noise added to the vectors, relative to their spread.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Seed. Default: LVM_SEED.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Train even if nothing has changed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the text decoder on the train articles of the promoted data; it writes a text for a vector of their space.

    A decoder that was trained before with the same data, code and options is not trained again.
    """
    from lvm_pipeline import lineage
    from lvm_pipeline.decoding.prefix_training import PrefixOptions

    settings, out = load_settings(), render.plain(quiet=as_json)
    options = PrefixOptions(
        steps=settings.decoder_steps if steps is None else steps,
        seconds=seconds,
        noise=noise,
        seed=settings.seed if seed is None else seed,
    )
    with render.progress_bars(out) as bars:
        bar = bars.task("Training the text decoder")
        decoder = lineage.train_text_decoder(
            settings, options=options, again=again, progress=lambda done, total, loss: bar(done, total, f"{loss:.3f}")
        )
    if as_json:
        render.print_json(asdict(decoder.info))
    else:
        render.show_text_decoder(out, decoder)


@app.command(name="decode")
def decode(
    file: Annotated[Path | None, typer.Argument(help="Lines as `lvm predict` reads or prints. Default: stdin.")] = None,
    candidates: Annotated[
        int, typer.Option(min=1, help="Texts to write per vector; of several, the encoder keeps the closest.")
    ] = 1,
) -> None:
    """Decode vectors to text: one JSON line each, with the text and its round-trip cosine if the encoder is here.

    The round-trip cosine is that of the vector and the encoded text: how much the text can be trusted.
    """
    from lvm_pipeline import lineage

    settings = load_settings()
    if file is None or str(file) == "-":
        render.write_lines(lineage.decode_lines(settings, sys.stdin.buffer, num_candidates=candidates))
        return
    with file.open("rb") as lines:
        render.write_lines(lineage.decode_lines(settings, lines, num_candidates=candidates))
