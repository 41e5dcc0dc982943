"""The commands of `lvm`: each reads the settings, makes one library call and prints what came back.

Heavy imports (torch, MLflow, Dagster) happen inside the commands, so that `lvm --help` is quick.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.markup import escape

from lvm_pipeline.cli import (
    alerts,
    champion,
    checking,
    curve,
    decoder,
    ensembles,
    lists,
    npz,
    plan,
    preference,
    render,
    services,
    serving,
    smooth,
    tmd,
    vec2text,
)
from lvm_pipeline.cli.interruption import handle_signals
from lvm_pipeline.cli.options import (
    PresetOption,
    SetOption,
    TrialOption,
    ValidationArticlesOption,
    settings_of,
    training_option,
)
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings, with_options
from lvm_pipeline.source.split_hash import Split
from lvm_pipeline.training.trial import Mode

app = typer.Typer(
    help="Train latent vector models on a table of concepts, evaluate them and choose a champion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    suggest_commands=False,  # click does, too
)
app.add_typer(npz.app)
app.add_typer(checking.app)
app.add_typer(lists.app, name="list")
app.add_typer(curve.app)
app.add_typer(decoder.app, name="decoder")
app.add_typer(ensembles.app)
app.add_typer(plan.app, name="plan")
app.add_typer(smooth.app)
app.add_typer(preference.app, name="preference")
app.add_typer(tmd.app, name="tmd")
app.add_typer(vec2text.app, name="vec2text")
app.add_typer(services.app)
app.add_typer(alerts.app, name="alerts")
app.add_typer(champion.app)
app.add_typer(serving.app)


ArchitecturesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--architecture", "-a", help="Architecture; repeat for several, `all` for every one. Default: lstm and gru."
    ),
]
EpochsOption = Annotated[int | None, training_option("epochs")]
SeedOption = Annotated[int | None, training_option("seed")]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Train even if nothing has changed, or if a checkpoint cannot be resumed.")
]
EncoderOption = Annotated[
    str,
    typer.Option(
        "--encoder",
        help="Encoder of texts without vectors: lsa-768, gtr-t5-base, any sentence-transformers model or its path.",
    ),
]

DEFAULT_ARCHITECTURES = ["lstm", "gru"]
INTERRUPTED = 130  # typer's exit code after Ctrl-C, of which it says nothing
RESUMABLE = {"demo", "run", "train", "plan"}  # commands whose trainings leave a checkpoint


def main() -> None:
    """Run the command line. Errors that a user can fix end in one sentence and exit code 1."""
    handle_signals()
    try:
        app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED and set(sys.argv[1:2]) & RESUMABLE:
            typer.echo("Interrupted. Run the same command again to resume.", err=True)
        raise
    except LvmError as error:
        _end_with(error)
    except Exception as error:
        from lvm_pipeline.adapters.limits import limit_met

        if (limit := limit_met(error)) is None:
            raise
        _end_with(limit)


def _end_with(error: LvmError) -> NoReturn:
    render.plain(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
    sys.exit(1)


@app.command(short_help="Load the demo corpus and run the whole pipeline.")
def demo(
    architecture: ArchitecturesOption = None,
    preset: PresetOption = None,
    encoder: EncoderOption = "lsa-768",
    set_: SetOption = None,
) -> None:
    """Load the demo corpus into the source table and materialize every asset with Dagster.

    Also run the first trials of the plan, train one architecture with a strategy, and combine trials into an ensemble.
    Without --preset, models are of preset `smoke` and trained for 5 epochs (the plan's for 2), as the corpus is small.
    """
    from lvm_pipeline import lineage
    from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
    from lvm_pipeline.defs.launch import materialise_lineage
    from lvm_pipeline.lineage.demo import DemoExperiments, sized_for_demo
    from lvm_pipeline.training.rescore import RescoringProcess

    out = render.plain()
    settings = sized_for_demo(settings_of(preset=preset, set_options=set_))
    architectures = _chosen(architecture, settings)
    with render.progress_bars(out) as bars:
        report = lineage.ingest_demo_corpus(
            settings, encoder=encoder, progress=bars.task("Loading the demo corpus into cpe_entry")
        )
        settings = with_options(settings, {"dataset_source": report.dataset_source, **_one_process(settings)})
        experiments = DemoExperiments(
            settings,
            architectures,
            bars.task,
            lambda week: MlflowTracker(settings) if week is None else lineage.plan_tracker(settings, week),
        )
        with RescoringProcess():
            materialise_lineage(
                settings,
                architectures,
                on_progress=render.stage_bars(bars),
                before_training=experiments.before_training,
                before_choice=experiments.before_choice,
            )
    render.show_results(out, settings)
    render.say(out, f"Study report of the plan: {experiments.study_page}")


def _one_process(settings: Settings) -> dict[str, str]:
    """Let Dagster train in this process, which has imported torch and MLflow, unless a launcher is set."""
    return {} if "launcher" in settings.model_fields_set else {"launcher": "inprocess"}


@app.command(short_help="Load articles into the source table.")
def ingest(
    file: Path,
    dataset_source: Annotated[
        str | None,
        typer.Option(
            help="Value of dataset_source for the new rows.", show_default="LVM_DATASET_SOURCE, else user_input"
        ),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Space id of the vectors in a Parquet file; it names their encoder.")
    ] = None,
    encoder: EncoderOption = "lsa-768",
    duplicates: Annotated[
        Literal["drop", "fail"],
        typer.Option(help="What to do with concepts that repeat a text or vector: keep the first, or fail."),
    ] = "drop",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip lines or rows that cannot be read, and close the gaps.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace articles that have changed. Their TMD codes are removed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Load articles into the source table. Loading the same file again changes nothing.

    FILE holds articles, as JSON lines, Parquet or Arrow, or concepts, as Parquet or Arrow; `-` is stdin. An article is
    {"title": ..., "text": ...} or {"title": ..., "concepts": [...]}. Columns of a concept: article_id, position,
    concept_text, and vector if it is encoded already.
    """
    from lvm_pipeline import lineage

    settings, out = settings_of(), render.plain(quiet=as_json)
    with render.progress_bars(out) as bars:
        report = lineage.ingest_file(
            settings,
            file,
            dataset_source=dataset_source or settings.dataset_source or "user_input",
            space_id=space,
            encoder=encoder,
            duplicates=duplicates,
            skip_bad=skip_bad,
            replace_changed=replace,
            progress=bars.task(f"Loading {file.name}"),
        )
    if as_json:
        render.print_json(asdict(report))
    else:
        render.show_ingest(out, report)


@app.command(short_help="Run all stages in this process, without Dagster.")
def run(
    architecture: ArchitecturesOption = None,
    preset: PresetOption = None,
    validation_articles: ValidationArticlesOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    again: AgainOption = False,
) -> None:
    """Run all stages in this process, without Dagster: from the source table to the champion."""
    from lvm_pipeline import lineage

    settings = settings_of(
        preset=preset, validation_articles=validation_articles, epochs=epochs, seed=seed, set_options=set_
    )
    out = render.plain()
    with render.progress_bars(out) as bars:
        lineage.run(settings, _chosen(architecture, settings), task=bars.task, again=again)
    render.show_results(out, settings)


@app.command(short_help="Train one trial.")
def train(
    architecture: Annotated[str | None, training_option("architecture", "--architecture", "-a")] = None,
    preset: PresetOption = None,
    data: Annotated[
        Path | None, typer.Option(help="Parquet file of concepts, or NPZ file. Default: the promoted data.")
    ] = None,
    hidden_dim: Annotated[int | None, typer.Option(help="Hidden width, instead of the preset's.")] = None,
    num_layers: Annotated[int | None, typer.Option(help="Number of layers, instead of the preset's.")] = None,
    batch_size: Annotated[int | None, training_option("batch_size")] = None,
    epochs: EpochsOption = None,
    learning_rate: Annotated[float | None, training_option("learning_rate")] = None,
    objective: Annotated[str | None, training_option("objective")] = None,
    mode: Annotated[Mode | None, training_option("mode")] = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    again: AgainOption = False,
    validation_articles: ValidationArticlesOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for a copy of the model. With --data: the model's folder.")
    ] = None,
) -> None:
    """Train one trial, check the result and keep it under its trial id.

    A trial that was trained before with the same data, code and options is not trained again.
    """
    settings = settings_of(
        architecture=architecture,
        preset=preset,
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=learning_rate,
        objective=objective,
        mode=mode,
        seed=seed,
        validation_articles=validation_articles,
        set_options=[*_model_options(hidden_dim=hidden_dim, num_layers=num_layers), *(set_ or ())],
    )
    _train(settings, data=data, output=output, again=again)


def _model_options(**sizes: int | None) -> list[str]:
    return [f"model.{name}={value}" for name, value in sizes.items() if value is not None]


def _train(settings: Settings, *, data: Path | None, output: Path | None, again: bool) -> None:
    from lvm_pipeline import lineage
    from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
    from lvm_pipeline.lineage import from_files
    from lvm_pipeline.lineage.whole import training_shown

    if output is not None:
        from_files.refuse_other_output(output)
    out = render.plain()
    with render.progress_bars(out) as bars:
        bar = bars.task(f"Training {settings.trial_id}")
        progress = training_shown(bar)
        if data is not None:
            trained = from_files.train_on(settings, data, output=output, progress=progress, again=again)
            bar(1, 1)
            render.show_trained(out, trained.info, path=trained.path, problem=trained.tracking_problem)
            return
        config = lineage.training_config_of(settings)
        trial = lineage.train_launched(
            settings, config, tracker=MlflowTracker(settings), progress=progress, again=again
        )
        bar(1, 1)
    path = trial.folder.model_dir
    if output is not None:
        path = from_files.copy_model(path, output)
    render.show_trained(out, trial.info, path=path, problem=trial.tracking_problem, was_trained=trial.was_trained)


@app.command(short_help="Score a trained model beside the baselines.")
def evaluate(
    model: Annotated[
        Path | None, typer.Option(help="Folder of a trained model. Default: the latest of --architecture.")
    ] = None,
    trial: TrialOption = None,
    architecture: Annotated[str, typer.Option("--architecture", "-a", help="Evaluate its latest trial.")] = "lstm",
    test_data: Annotated[
        Path | None, typer.Option(help="Parquet file of concepts, or NPZ file. Default: the promoted data.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Split to score.")] = "validation",
    validation_articles: ValidationArticlesOption = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the report, with an HTML page beside it.")] = None,
) -> None:
    """Score a trained model and the baselines on the same targets, and write the report."""
    from lvm_pipeline.lineage import from_files
    from lvm_pipeline.lineage.prediction import model_folder

    settings = settings_of(validation_articles=validation_articles)
    out = render.plain()
    with out.status("Scoring"):
        folder = model_folder(settings, model=model, trial=trial, architecture=architecture)
        report = from_files.evaluate_on(settings, folder, data=test_data, split=split, output=output)
    render.show_report(out, report)


@app.command(short_help="Stream predictions: one per input concept.")
def predict(
    file: Annotated[Path | None, typer.Argument()] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a trained model. Default: the champion.")] = None,
    trial: TrialOption = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", "-a", help="Use the latest trial of an architecture.")
    ] = None,
    nearest: Annotated[
        int, typer.Option(min=0, help="Also print the N nearest concepts not yet read.", metavar="N")
    ] = 0,
    space: Annotated[str | None, typer.Option(help="Space id of the input vectors; must be the model's.")] = None,
    vectors: Annotated[bool, typer.Option(help="Print the predicted vectors.")] = True,
) -> None:
    """Stream predictions: for every input concept, one JSON line with the vector predicted to follow it.

    FILE is JSON lines, plain text or Parquet; without it, or with `-`, stdin is read. A line is
    {"article_id": ..., "vector": [...]}, {"article_id": ..., "text": ...} or plain text. A new article_id starts a new
    context. Texts are encoded with the encoder of the model's space.
    """
    from lvm_pipeline.lineage.prediction import model_folder, predict_on

    settings, errors = settings_of(), render.plain(stderr=True)
    source = sys.stdin.buffer if file is None or str(file) == "-" else file
    folder = model_folder(settings, model=model, trial=trial, architecture=architecture)
    predictions = predict_on(
        settings, folder, source, space_id=space, num_nearest=nearest, warn=lambda text: render.say(errors, text)
    )
    render.write_lines(prediction.as_json(has_vector=vectors) for prediction in predictions)


@app.command(short_help="Rank trials and baselines.")
def leaderboard(as_json: JsonOption = False) -> None:
    """Rank the evaluated trials of the present data, and the baselines, by validation cosine."""
    from lvm_pipeline import lineage

    settings = settings_of()
    board = lineage.build_leaderboard(settings)
    if as_json:
        render.print_json(board.as_json())
    else:
        render.show_leaderboard(render.plain(), board)


def _chosen(names: list[str] | None, settings: Settings) -> list[str]:
    """Return the architectures that the options name; `all` is every one, and one option may hold several.

    Raises:
        LvmError: If one does not exist, or has no such preset or option: now, and not after the data stages.
    """
    from lvm_pipeline.architectures._config import checked_overrides
    from lvm_pipeline.architectures._registry import architectures_named, load_architecture

    chosen = architectures_named(" ".join(names or DEFAULT_ARCHITECTURES))
    if "preset" in settings.model_fields_set or settings.model:  # else nothing can be wrong; torch takes seconds
        for name in chosen:
            checked_overrides(load_architecture(name).preset(settings.preset).config, settings.model)
    return chosen
