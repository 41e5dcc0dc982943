"""Serve the reports of a home to a browser: leaderboard, study, reports of trials, and an index of them.

    python -m lvm_pipeline.serving.report_pages HOST PORT

`lvm ui` runs it beside Dagster and MLflow, whose pages link here. Only pages and tables are served, no weights or data.
"""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from fastapi import FastAPI, HTTPException
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from markdown_it import MarkdownIt
from markupsafe import Markup

from lvm_pipeline.evaluation.pages import render
from lvm_pipeline.serving.host_names import own_names
from lvm_pipeline.settings import Settings, load_settings
from lvm_pipeline.tables import Column, Table, number

SERVED = {".html", ".json", ".md", ".csv"}
MEANINGS = {
    "leaderboard.html": "Leaderboard: all models beside the baselines",
    "study.html": "Study: all trials of the plan",
    "verification.md": "Verification of the data",
    "drift.md": "Drift of the data",
}


class _Pages(StaticFiles):
    """Files of a folder by their suffix; browsers ask again each time whether a page has changed."""

    async def get_response(self, path: str, scope: Any) -> Response:
        if Path(path).suffix not in SERVED:
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        if path.endswith(".md") and isinstance(response, FileResponse):
            response = HTMLResponse(markdown_page(Path(response.path)))
        response.headers["Cache-Control"] = "no-cache"
        return response


def markdown_page(path: Path) -> str:
    """Return a Markdown file as a page. HTML inside it is shown as text, since it may come from a concept."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(path.read_text(encoding="utf-8"))
    return render("markdown.html.jinja", title=MEANINGS.get(path.name, path.name), body=Markup(body))


class _Page(NamedTuple):
    name: str
    address: str
    written: str


def make_app(settings: Settings) -> FastAPI:
    """Return the application. Requests under another host name are refused: other sites must not read the reports."""
    app = FastAPI(title="Reports", docs_url=None, redoc_url=None, openapi_url=None)
    names = own_names(settings.reports_url, variable="LVM_REPORTS_URL")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(names))

    @app.get("/", response_class=HTMLResponse)
    def index() -> str:
        return index_page(settings)

    @app.get("/favicon.ico")
    async def icon() -> Response:
        return Response(status_code=204)

    for folder in (settings.reports_dir, settings.trials_dir):  # reports link to pages of trials
        folder.mkdir(parents=True, exist_ok=True)
        pages = _Pages(directory=folder, follow_symlink=True)
        app.mount(f"/{folder.relative_to(settings.home)}", pages)
    return app


def index_page(settings: Settings) -> str:
    """Return the page that leads to all others, as they are now."""
    champion = _json_of(settings.reports_dir / "champion.json")
    board = _json_of(settings.reports_dir / "leaderboard.json")
    return render(
        "reports.html.jinja",
        pages=list(_pages(settings)),
        reason=(champion.get("decision") or {}).get("reason"),
        trials=_trials_table(settings, [row for row in board.get("rows", []) if row.get("kind") == "model"]),
        dagster=settings.ui_address,
    )


def _pages(settings: Settings) -> Iterator[_Page]:
    tried = sorted(settings.reports_dir.glob("try/*.html"))
    named = [(settings.reports_dir / name, meaning) for name, meaning in MEANINGS.items()]
    for path, meaning in [*named, *((path, f"Article {path.stem}") for path in tried)]:
        if path.is_file():
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            yield _Page(meaning, _address(settings, path), f"{written:%Y-%m-%d %H:%M} UTC")


def _trials_table(settings: Settings, ranked: list[dict[str, Any]]) -> Table[dict[str, Any]]:
    """Return the trials with a report: those of the leaderboard in its order, then all others."""
    by_id = {row["trial_id"]: row for row in ranked}
    others = sorted(path.parent.name for path in settings.trials_dir.glob("*/report.html"))
    rows = [*ranked, *({"trial_id": name} for name in others if name not in by_id)]

    def link(row: dict[str, Any]) -> Markup:
        path = settings.trials_dir / row["trial_id"] / "report.html"
        mark = Markup(' <span class="pill champion">champion</span>') if row.get("is_champion") else Markup()
        return Markup('<a href="{}">{}</a>').format(_address(settings, path), row["trial_id"]) + mark

    def gain(row: dict[str, Any]) -> str:
        found = row.get("gain")
        return f"{found['mean']:+.4f} over {row['best_baseline']}" if found else "not on the leaderboard"

    return Table(
        columns=[
            Column(title="trial", text=lambda row: row["trial_id"], html=link, is_text=True),
            number("cosine", lambda row: row.get("cosine")),
            Column(title="gain", text=gain, is_text=True),
        ],
        rows=[row for row in rows if row["trial_id"] in others],
    )


def _address(settings: Settings, path: Path) -> str:
    return quote(path.relative_to(settings.home).as_posix())


def _json_of(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def main(arguments: list[str]) -> None:
    """Serve the home of the environment until Ctrl-C or SIGTERM."""
    import uvicorn

    host, port = arguments
    uvicorn.run(make_app(load_settings()), host=host, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1:])
