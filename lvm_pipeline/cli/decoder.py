"""The commands `lvm decoder ...`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import load_settings

app = typer.Typer(help="Train the text decoder, and decode vectors to text.", no_args_is_help=True)

KindOption = Annotated[
    Literal["prefix", "lm"],
    typer.Option(
        help="prefix: a small language model, trained here; lm: soft tokens, trained here, for a frozen language model."
    ),
]


@app.command(name="train")
def train(
    kind: KindOption = "prefix",
    language_model: Annotated[
        str | None, typer.Option(help="For lm: folder, GGUF file or hub name. Default: LVM_DECODER_LANGUAGE_MODEL.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps. Default: LVM_DECODER_STEPS; for lm, 400.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after this many seconds; the weights then depend on the machine.")
    ] = None,
    noise: Annotated[float, typer.Option(help="Noise added to the vectors, relative to their spread.")] = 0.0,
    soft_tokens: Annotated[int, typer.Option(help="For lm: number of soft tokens made from a vector.")] = 8,
    seed: Annotated[int | None, typer.Option(help="Seed. Default: LVM_SEED.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Train even if nothing has changed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a text decoder on the train articles of the promoted data; it writes a text for a vector of their space.

    A decoder that was trained before with the same data, code and options is not trained again.
    """
    from lvm_pipeline import lineage
    from lvm_pipeline.decoding.lm import LmOptions
    from lvm_pipeline.decoding.prefix_training import PrefixOptions

    settings, out = load_settings(), render.plain(quiet=as_json)
    seed = settings.seed if seed is None else seed
    common = {"seconds": seconds, "noise": noise, "seed": seed}
    if kind == "lm":
        given = {} if steps is None else {"steps": steps}
        options = LmOptions(**common, **given, num_soft_tokens=soft_tokens)
    else:
        options = PrefixOptions(**common, steps=settings.decoder_steps if steps is None else steps)
    with render.progress_bars(out) as bars:
        bar = bars.task("Training the text decoder")
        decoder = lineage.train_text_decoder(
            settings,
            kind=kind,
            options=options,
            language_model=language_model,
            again=again,
            progress=lambda done, total, loss: bar(done, total, f"{loss:.3f}"),
        )
    if as_json:
        render.print_json(asdict(decoder.info))
    else:
        render.show_text_decoder(out, decoder)


@app.command(name="decode")
def decode(
    file: Annotated[Path | None, typer.Argument()] = None,
    kind: KindOption = "prefix",
    candidates: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Texts to write per vector; of several, the encoder keeps the closest. Default: LVM_TEXT_CANDIDATES.",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Sampling temperature with several candidates. Default: LVM_TEXT_TEMPERATURE."),
    ] = None,
    spread: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Noise added to the vector for each candidate, relative to the spread of vectors. Default: "
            "LVM_TEXT_SPREAD.",
        ),
    ] = None,
    beam: Annotated[int | None, typer.Option(min=1, help="Beam width; 1 is greedy. Default: LVM_TEXT_BEAM.")] = None,
    corrections: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Correction rounds: each adds the error of the last text's vector and decodes again. Default: "
            "LVM_TEXT_CORRECTIONS.",
        ),
    ] = None,
) -> None:
    """Decode vectors to text: one JSON line each, with the text and its round-trip cosine if the encoder is available.

    FILE holds lines as `lvm predict` reads or prints them; without it, stdin is read. The round-trip cosine compares
    the vector with the vector of the text: the higher, the more the text can be trusted.
    """
    from lvm_pipeline import lineage

    settings = load_settings()
    given = {"beam": beam, "candidates": candidates, "corrections": corrections}
    search = lineage.search_of(settings, **given, temperature=temperature, spread=spread)
    if file is None or str(file) == "-":
        render.write_lines(lineage.decode_lines(settings, sys.stdin.buffer, kind=kind, search=search))
        return
    with _opened(file) as lines:
        render.write_lines(lineage.decode_lines(settings, lines, kind=kind, search=search))


def _opened(file: Path) -> BinaryIO:
    """Open a file of lines. Raises LvmError if it cannot be read."""
    try:
        return file.open("rb")
    except OSError as error:
        raise LvmError(f"{file} cannot be read ({error.strerror or error}); check the path.") from None
