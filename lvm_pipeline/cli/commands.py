"""`lvm`: the same pipeline without Dagster, and the commands that start and stop the services.

Every command is thin: it reads the settings, makes one library call and shows what came back. Heavy
imports (torch, MLflow, Dagster) happen inside the commands, so that `lvm --help` is quick.
"""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from lvm_pipeline.cli import render, services
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings, load_settings
from lvm_pipeline.source.split_hash import Split

app = typer.Typer(
    help="Train latent vector models: from a table of concepts to a champion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)
list_app = typer.Typer(help="List what exists.", no_args_is_help=True)
app.add_typer(list_app, name="list")
app.add_typer(services.app)

ArchitectureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--architecture", "-a", help="Architecture; repeat for more, `all` for every one. Default: lstm, gru."
    ),
]
PresetOption = Annotated[str | None, typer.Option("--preset", "-p", help="Size; see `lvm list architectures`.")]
EpochsOption = Annotated[int | None, typer.Option(help="Passes over the train split, at most.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of weights, order and dropout.")]
BatchOption = Annotated[int | None, typer.Option(help="Targets in one optimiser step, about.")]
ModeOption = Annotated[Literal["auto", "articles", "windows"] | None, typer.Option(help="How training sees the data.")]
ValidationArticlesOption = Annotated[
    Path | None, typer.Option(help="File of article ids, one a line, that are validation; all others are train.")
]
EncoderOption = Annotated[
    str, typer.Option("--encoder", help="lsa-768, gtr-t5-base, a sentence-transformers name or a local folder.")
]

DEFAULT_ARCHITECTURES = ["lstm", "gru"]


def main() -> None:
    """Run the command line; what a person can put right ends in one sentence and exit code 1."""
    _listen_to_ctrl_c()
    try:
        app()
    except LvmError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


def _listen_to_ctrl_c() -> None:
    """Undo what a shell does to background jobs: with SIGINT ignored, Dagster would ignore SIGTERM too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@app.command(short_help="Fill the source table with real text and run everything.")
def demo(
    architecture: ArchitectureOption = None,
    preset: PresetOption = None,
    encoder: EncoderOption = "lsa-768",
) -> None:
    """Fill the source table with real text and take the whole lineage through Dagster."""
    from lvm_pipeline import lineage
    from lvm_pipeline.defs.launch import materialise_lineage

    out = render.plain()
    architectures = _chosen(architecture, _settings(preset=preset))
    with render.progress_bars(out) as bars:
        report = lineage.ingest_demo_corpus(
            _settings(), encoder=encoder, progress=bars.task("Filling cpe_entry with the demo corpus")
        )
        settings = _settings(preset=preset, dataset_source=report.dataset_source)
        materialise_lineage(settings, architectures, on_progress=render.stage_bars(bars))
    render.show_results(out, settings)


@app.command(short_help="Load articles into the source table.")
def ingest(
    file: Annotated[Path, typer.Argument(help="JSONL of articles, or Parquet with vectors.")],
    dataset_source: Annotated[str, typer.Option(help="Value of dataset_source that the rows get.")] = "user_input",
    space: Annotated[str | None, typer.Option(help="Space id of the vectors in a Parquet file.")] = None,
    encoder: EncoderOption = "lsa-768",
    duplicates: Annotated[
        Literal["drop", "fail"], typer.Option(help="Drop all but the first of equal concepts, or fail.")
    ] = "drop",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Load the good lines of a file with bad ones.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Load articles into the source table; a second run of the same file changes nothing."""
    from lvm_pipeline import lineage

    out = render.plain(quiet=as_json)
    with render.progress_bars(out) as bars:
        report = lineage.ingest_file(
            _settings(),
            file,
            dataset_source=dataset_source,
            space_id=space,
            encoder=encoder,
            duplicates=duplicates,
            skip_bad=skip_bad,
            progress=bars.task(f"Loading {file.name}"),
        )
    if as_json:
        render.print_json(report.as_json())
    else:
        render.show_ingest(out, report)


@app.command(short_help="Run every invariant and write the verification report.")
def verify(
    products: Annotated[bool, typer.Option("--products", help="Check the promoted files, not the source.")] = False,
    validation_articles: ValidationArticlesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run every invariant on source, concepts and sequences, and write the verification report."""
    from lvm_pipeline import lineage

    settings = _settings(validation_articles=validation_articles)
    out = render.plain(quiet=as_json)
    with render.progress_bars(out) as bars:
        if products:
            verification = lineage.verify_products(settings)
        else:
            verification = lineage.verify_source(settings, progress=bars.task("Reading the source"))
    if as_json:
        render.print_json(verification.as_json())
    else:
        render.show_verification(out, verification)
    if not verification.passed:
        raise typer.Exit(1)


@app.command(short_help="Compare the concepts with those of the champion.")
def drift(
    fail: Annotated[bool, typer.Option("--fail", help="Exit with code 1 when there is drift.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the promoted concepts with those that the champion was trained on, and write the drift report."""
    from lvm_pipeline import lineage

    out = render.plain(quiet=as_json)
    with out.status("Comparing"):
        found, report_path = lineage.check_drift(_settings())
    if as_json:
        render.print_json(found.as_json())
    else:
        render.show_drift(out, found, report_path)
    if fail and found.has_drifted:
        raise typer.Exit(1)


@app.command(short_help="Take the whole lineage without Dagster.")
def run(
    architecture: ArchitectureOption = None,
    preset: PresetOption = None,
    validation_articles: ValidationArticlesOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
) -> None:
    """Take the whole lineage without Dagster: the same library calls, the same numbers."""
    from lvm_pipeline import lineage

    settings = _settings(preset=preset, validation_articles=validation_articles, epochs=epochs, seed=seed)
    out = render.plain()
    with render.progress_bars(out) as bars:
        lineage.run(settings, _chosen(architecture, settings), task=bars.task)
    render.show_results(out, settings)


@app.command(short_help="Train one model and keep it in a folder.")
def train(
    architecture: Annotated[str, typer.Option("--architecture", "-a", help="What to train.")] = "lstm",
    preset: PresetOption = None,
    data: Annotated[
        Path | None, typer.Option(help="Concept table (Parquet), or sequences (NPZ). Default: the promoted products.")
    ] = None,
    hidden_dim: Annotated[int | None, typer.Option(help="Hidden width, instead of the preset's.")] = None,
    num_layers: Annotated[int | None, typer.Option(help="Layers, instead of the preset's.")] = None,
    batch_size: BatchOption = None,
    epochs: EpochsOption = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    objective: Annotated[str | None, typer.Option(help="A sum such as `cosine + 0.1 mse`; also infonce.")] = None,
    mode: ModeOption = None,
    seed: SeedOption = None,
    validation_articles: ValidationArticlesOption = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the trained model. Default: in LVM_HOME.")] = None,
) -> None:
    """Train one model and keep it in a folder: safetensors weights and their provenance."""
    from lvm_pipeline.lineage import from_files

    settings = _settings(
        preset=preset,
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=learning_rate,
        objective=objective,
        training_mode=mode,
        seed=seed,
        validation_articles=validation_articles,
    )
    model = {"hidden_dim": hidden_dim, "num_layers": num_layers}
    out = render.plain()
    with render.progress_bars(out) as bars:
        trained = from_files.train_on(
            settings,
            architecture,
            data=data,
            output=output,
            model_overrides={name: value for name, value in model.items() if value is not None},
            progress=render.training_bar(bars.task(f"Training {architecture}")),
        )
    render.show_trained(out, trained)


@app.command(short_help="Score a trained model beside the baselines.")
def evaluate(
    model: Annotated[
        Path | None, typer.Option(help="Folder of a trained model. Default: the one of --architecture.")
    ] = None,
    architecture: Annotated[str, typer.Option("--architecture", "-a", help="Which of the pipeline's models.")] = "lstm",
    test_data: Annotated[
        Path | None, typer.Option(help="Concept table (Parquet), or sequences (NPZ). Default: the promoted products.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Which articles to score.")] = "validation",
    validation_articles: ValidationArticlesOption = None,
    output: Annotated[Path | None, typer.Option(help="Where the report goes, as JSON; HTML beside it.")] = None,
) -> None:
    """Score a trained model beside the baselines on the same rows."""
    from lvm_pipeline.lineage import from_files

    settings = _settings(validation_articles=validation_articles)
    out = render.plain()
    with out.status("Scoring"):
        report = from_files.evaluate_on(
            settings, model or settings.models_dir / architecture, data=test_data, split=split, output=output
        )
    render.show_report(out, report)


@app.command(short_help="Predict the next concept after each that is read.")
def predict(
    file: Annotated[
        Path | None, typer.Argument(help="JSONL, text or Parquet. Default, and `-`: what is piped in.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a trained model. Default: the champion.")] = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", "-a", help="One of the pipeline's models instead.")
    ] = None,
    nearest: Annotated[int, typer.Option(min=0, help="Name so many of the promoted concepts that lie nearest.")] = 0,
    space: Annotated[
        str | None, typer.Option(help="Space id of the vectors; refused where the model has another.")
    ] = None,
    vectors: Annotated[bool, typer.Option(help="Write the predicted vectors.")] = True,
) -> None:
    """Predict the next concept after each that is read: a JSON line for each, written at once.

    A line is {"article_id": ..., "vector": [...]}, {"article_id": ..., "text": ...} or plain text; a new article_id
    begins an article. Texts are encoded by the encoder of the model's space.
    """
    from lvm_pipeline.lineage import from_files

    settings, told = _settings(), Console(stderr=True, highlight=False)
    source = sys.stdin.buffer if file is None or str(file) == "-" else file
    folder = from_files.model_folder(settings, model=model, architecture=architecture)
    predictions = from_files.predict_on(
        settings, folder, source, space_id=space, num_nearest=nearest, warn=lambda text: told.print(escape(text))
    )
    render.write_lines(prediction.as_json(has_vector=vectors) for prediction in predictions)


@app.command(short_help="Show models and baselines in one table.")
def leaderboard(as_json: JsonOption = False) -> None:
    """Show the models and the baselines of the present data in one table."""
    from lvm_pipeline import lineage

    settings = _settings()
    board = lineage.build_leaderboard(settings)
    if as_json:
        render.print_json(board.as_json())
    else:
        render.show_leaderboard(render.plain(), board)


@app.command(name="export", short_help="Write concepts and sequences as NPZ exchange files.")
def export_(folder: Annotated[Path, typer.Argument(help="Folder that gets the NPZ exchange files.")]) -> None:
    """Write the promoted concepts and sequences as NPZ files that load without pickle."""
    from lvm_pipeline.lineage import from_files

    for path in from_files.export_npz(_settings(), folder):
        render.plain().print(f"Wrote {path}", soft_wrap=True)


@app.command(name="import", short_help="Take an NPZ exchange file.")
def import_(
    file: Annotated[Path, typer.Argument(help="NPZ exchange file: ordered concepts, or sequences.")],
    validation_articles: ValidationArticlesOption = None,
) -> None:
    """Take an NPZ exchange file for concepts and sequences, checked like any other source."""
    from lvm_pipeline.lineage import from_files

    verification = from_files.import_npz(_settings(validation_articles=validation_articles), file)
    render.show_verification(render.plain(), verification)
    if not verification.passed:
        raise typer.Exit(1)


@list_app.command(name="architectures")
def list_architectures(as_json: JsonOption = False) -> None:
    """List every architecture with its presets and their exact sizes."""
    from lvm_pipeline.architectures._registry import ARCHITECTURES

    rows = [
        {"name": name, "preset": preset_name, "num_params": preset.num_params, "causal": architecture.causal}
        for name, architecture in ARCHITECTURES.items()
        for preset_name, preset in architecture.presets.items()
    ]
    if as_json:
        render.print_json(rows)
    else:
        render.show_rows(render.plain(), rows)


def _settings(**options: Any) -> Settings:
    return load_settings(**{name: value for name, value in options.items() if value is not None})


def _chosen(names: list[str] | None, settings: Settings) -> list[str]:
    """Return the architectures that the options name; `all` is every one, and a word may hold several.

    Raises:
        LvmError: If one is not there, or has no such preset: now, and not when the data is made.
    """
    from lvm_pipeline.architectures._registry import architectures_named, load_architecture

    chosen = architectures_named(" ".join(names or DEFAULT_ARCHITECTURES))
    if "preset" in settings.model_fields_set:  # every architecture has the default one; to look takes seconds
        for name in chosen:
            load_architecture(name).preset(settings.preset)
    return chosen
