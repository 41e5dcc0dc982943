"""The commands `lvm serve` and `lvm try`."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.options import settings_of
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

app = typer.Typer()

EncoderOption = Annotated[
    str | None,
    typer.Option(
        help="Encoder of the vectors, where none is recorded: a sentence-transformers model or its folder. It must "
        "reproduce the concepts' vectors."
    ),
]


@app.command(short_help="Serve the champion over HTTP.")
def serve(
    trial: Annotated[
        str | None,
        typer.Option("--trial", "--model", help="Trial id, or the beginning of one. Default: the champion."),
    ] = None,
    encoder: EncoderOption = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port. Default: LVM_SERVE_PORT.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on. The server has no authentication.")] = "127.0.0.1",
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Start MLflow's own model server on the champion instead.")
    ] = False,
) -> None:
    """Serve the champion over HTTP: texts or vectors in, predicted vector, nearest concepts and text out.

    POST /predict predicts, /try shows a page for an article, /docs describes the requests, /health and /metrics
    describe the server. A new champion is loaded while requests go on.
    """
    settings, out = settings_of(), render.plain()
    port = port or settings.serve_port
    if mlflow:
        _serve_with_mlflow(settings, trial=trial, host=host, port=port)
    from lvm_pipeline.lineage import serving

    def say() -> None:
        render.say(out, f"Serving on http://{host}:{port} (requests: /docs, try an article: /try). Ctrl-C stops.")

    serving.serve(settings, trial=trial, encoder_name=encoder, host=host, port=port, on_start=say)


@app.command(name="try", short_help="Let all trained architectures predict an article.")
def try_(
    article: Path,
    encoder: EncoderOption = None,
    output: Annotated[
        Path | None, typer.Option(help="HTML file for the page. Default: in LVM_HOME/reports/try.")
    ] = None,
) -> None:
    """Cut an article into concepts and let every trained architecture and the linear forecast predict each next one.

    ARTICLE is a text file whose paragraphs are separated by empty lines; `-` is stdin. The command prints which
    prediction came closest to the concept that followed, and writes a page with the nearest concepts.
    """
    from lvm_pipeline import files
    from lvm_pipeline.lineage.trying import article_trier, page_of, read_article
    from lvm_pipeline.source.given_file import STDIN

    settings, out = settings_of(), render.plain()
    text, title = read_article(article), "standard input" if article == STDIN else article.name
    with out.status("Predicting"):
        tried = article_trier(settings, encoder_name=encoder)(text)
        from lvm_pipeline.serving.try_page import positions_table, tried_table, try_page  # imports PyTorch

        path = (output or page_of(settings, article)).absolute()
        files.write_text(path, try_page(tried, title=title))
    render.show_table(out, positions_table(tried))
    out.print()
    render.show_table(out, tried_table(tried))
    for name, reason in tried.left_out.items():
        render.say(out, f"{name} is left out: {reason}")
    render.say(out, f"Page: {path}")


def _serve_with_mlflow(settings: Settings, *, trial: str | None, host: str, port: int) -> NoReturn:
    from lvm_pipeline.adapters import mlflow_serving

    if trial is not None:
        raise LvmError("MLflow serves the champion only; leave out --trial or --mlflow.")
    raise typer.Exit(mlflow_serving.serve_champion(settings, host=host, port=port))
