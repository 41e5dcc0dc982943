"""The command `lvm smooth`."""

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.options import LatestOption, TrialOption
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import load_settings

app = typer.Typer()


@app.command(short_help="Rewrite decoded predictions as fluent text with a language model.")
def smooth(
    trial: TrialOption = None,
    architecture: LatestOption = "lstm",
    targets: Annotated[int, typer.Option(min=1, help="Number of validation targets, drawn at random.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    decoder: Annotated[
        Literal["nearest", "prefix", "lm", "vec2text"],
        typer.Option(
            help="What decodes the predictions: the nearest train concept, a trained text decoder (`lvm decoder "
            "train`, prefix or lm), or vec2text (GTR-T5 vectors)."
        ),
    ] = "nearest",
    as_json: JsonOption = False,
) -> None:
    """Rewrite the decoded predictions of a trial as fluent text, and write scores and texts into the trial's folder.

    Set LVM_CHAT_URL and LVM_CHAT_MODEL to an OpenAI-compatible server (Ollama, llama.cpp, vLLM). Each target is asked
    twice: with the decoded prediction, and without it as a control. Answers are cached. Exit code 1 if the language
    model gave no answer at all.
    """  # noqa: DOC501 - the docstring is the help
    from lvm_pipeline import lineage
    from lvm_pipeline.evaluation.smoothing_tables import smoothing_sentences, smoothing_table

    settings, out = load_settings(), render.plain(quiet=as_json)
    folder = lineage.named_trial(settings, trial) if trial else lineage.latest_trial(settings, architecture)
    with out.status("Asking the language model"):
        scores = lineage.smooth_trial(settings, folder, num_targets=targets, seed=seed, decoder=decoder)
    if as_json:
        render.print_json(asdict(scores))
    else:
        render.show_table(out, smoothing_table(scores), title=f"Smoothed predictions of {folder.trial_id}")
        render.say(out, " ".join(smoothing_sentences(scores)))
    if scores.why_no_answers is not None:
        raise LvmError(
            f"The language model {scores.language_model} gave no answer: {scores.why_no_answers}; see whether its "
            "server runs and has this model."
        )
