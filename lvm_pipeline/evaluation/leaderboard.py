"""All models beside the baselines, on the same targets."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation import plots
from lvm_pipeline.evaluation.glossary import COLUMNS
from lvm_pipeline.evaluation.pages import exclusion_in_words, render
from lvm_pipeline.evaluation.report import context_in_words
from lvm_pipeline.files import write_json, write_text
from lvm_pipeline.measures.retrieval import CONTEXT_ROWS, EARLIER_ROWS, EXCLUSIONS

JSON_NAME, HTML_NAME = "leaderboard.json", "leaderboard.html"
SHARED = ("fingerprint", "split", "space_id", "dataset_source", "context_length", "pool_fingerprint", "counts")
MEASURES = ("cosine", "centred_cosine", "mse", "l2", "norm_ratio", "retrieval_by_exclusion")
OF_A_MODEL = (
    "architecture",
    "preset",
    "num_params",
    "context_mode",
    "context_length",
    "gain_over_best_baseline",
    "latency_ms",
    "is_leaking",
    "leak_reason",
    "model_fingerprint",
)


def leaderboard(
    reports: Sequence[Mapping[str, Any]],
    *,
    fingerprint: str | None = None,
    champion_fingerprint: str | None = None,
    decision: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put reports side by side.

    Args:
        reports: Reports of any models; those of other sequences, splits or pools are listed as left out and not
            ranked, since their figures cannot be compared.
        fingerprint: Sequence table to rank on; None: that of most reports, the last of equals.
        champion_fingerprint: `model_fingerprint` of the champion, which is marked.
        decision: What the champion rule said last, as JSON values.

    Returns:
        The leaderboard as plain JSON values, rows by falling cosine. `retrieval` of every row is under one rule,
        `exclusion`, which leaves out whatever any of the models reads.

    Raises:
        LvmError: If no report can be ranked.
    """
    chosen, left_out = _comparable(reports, fingerprint)
    if not chosen:
        wanted = f" on sequences {fingerprint[:12]}" if fingerprint else ""
        raise LvmError(f"There is no report{wanted} to rank; evaluate a model with `lvm run` or `lvm evaluate`.")
    exclusion = EARLIER_ROWS if any(report["context_mode"] == "articles" for report in chosen) else CONTEXT_ROWS
    rows = [_model_row(report, champion_fingerprint) for report in chosen]
    rows += _baseline_rows(chosen)
    for row in rows:
        row["retrieval"] = row["retrieval_by_exclusion"][exclusion]
    rows.sort(key=lambda row: (-row["cosine"], row["kind"], row["name"]))
    for rank, row in enumerate(rows, start=1):
        row["rank"] = rank
    return {
        **{name: chosen[0][name] for name in SHARED},
        "exclusion": exclusion,
        "is_leaking": any(report["is_leaking"] for report in chosen),
        "leak_reason": next((report["leak_reason"] for report in chosen if report["is_leaking"]), None),
        "rows": rows,
        "champion": next((row["name"] for row in rows if row.get("is_champion")), None),
        "decision": None if decision is None else dict(decision),
        "left_out": left_out,
    }


def write_leaderboard(
    board: Mapping[str, Any], board_dir: Path, *, links: Mapping[str, str] | None = None
) -> tuple[Path, Path]:
    """Write `leaderboard.json` and `leaderboard.html`.

    Args:
        board: What `leaderboard` returned.
        board_dir: Folder of the files.
        links: Where the report of a model is, relative to the folder, by `model_fingerprint`.

    Returns:
        Where the files are.
    """
    json_path, html_path = board_dir / JSON_NAME, board_dir / HTML_NAME
    write_json(json_path, board)
    write_text(html_path, leaderboard_html(board, links=links))
    return json_path, html_path


def leaderboard_html(board: Mapping[str, Any], *, links: Mapping[str, str] | None = None) -> str:
    """Return the page."""
    models = [row for row in board["rows"] if row["kind"] == "model"]
    gains = [row["gain_over_best_baseline"] for row in models]
    marks = {row["model_fingerprint"]: Markup(plots.gain_mark(row["gain_over_best_baseline"], gains)) for row in models}
    rules = sorted(EXCLUSIONS, key=lambda rule: rule != board["exclusion"])
    return render(
        "leaderboard.html.jinja",
        board=board,
        models=models,
        marks=marks,
        links=dict(links or {}),
        rules=[(rule, exclusion_in_words(rule, context_length=board["context_length"])) for rule in rules],
        columns=COLUMNS,
        headline=headline(board, models),
    )


def headline(board: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> str:
    """Say in one sentence how the models did."""
    winners = [row for row in models if (row["gain_over_best_baseline"]["low"] or 0) > 0]
    counts = board["counts"]
    where = f"on {counts['targets']:,} targets of {counts['articles']} {board['split']} articles"
    return f"{len(winners)} of {len(models)} models beat the best baseline {where}."


def _comparable(
    reports: Sequence[Mapping[str, Any]], fingerprint: str | None
) -> tuple[list[Mapping[str, Any]], list[dict[str, str]]]:
    if not reports:
        return [], []
    numbers = Counter(report["fingerprint"] for report in reports)
    wanted = fingerprint or max(reversed(numbers), key=lambda name: numbers[name])
    same_data = [report for report in reports if report["fingerprint"] == wanted]
    split = Counter(report["split"] for report in same_data).most_common(1)[0][0] if same_data else None
    same_split = [report for report in same_data if report["split"] == split]
    pool = Counter(report["pool_fingerprint"] for report in same_split).most_common(1)[0][0] if same_split else None
    reasons = [_why_left_out(report, wanted, split, pool) for report in reports]
    chosen = [report for report, reason in zip(reports, reasons, strict=True) if reason is None]
    return chosen, [
        {"name": report["name"], "reason": reason} for report, reason in zip(reports, reasons, strict=True) if reason
    ]


def _why_left_out(report: Mapping[str, Any], fingerprint: str, split: str | None, pool: str | None) -> str | None:
    if report["fingerprint"] != fingerprint:
        return f"other sequences ({report['fingerprint'][:12]})"
    if report["split"] != split:
        return f"the split {report['split']}"
    if report["pool_fingerprint"] != pool:
        return f"another pool ({report['counts']['pool']:,} concepts, {report['pool_fingerprint'][:12]})"
    return None


def _model_row(report: Mapping[str, Any], champion_fingerprint: str | None) -> dict[str, Any]:
    return {
        "kind": "model",
        "name": report["name"],
        **{name: report[name] for name in (*MEASURES, *OF_A_MODEL)},
        "context": context_in_words(report),
        "training_seconds": report["training"]["training_seconds"],
        "seed": report["training"]["seed"],
        "thresholds": report["thresholds"],
        "failed": [
            finding["name"]
            for finding in (*report.get("checked_before", ()), *report["findings"])
            if not finding["passed"]
        ],
        "not_checked": report["not_checked"],
        "is_champion": champion_fingerprint is not None and report["model_fingerprint"] == champion_fingerprint,
    }


def _baseline_rows(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each baseline once; equal names have equal scores, since data and rows are equal."""
    rows: dict[str, dict[str, Any]] = {}
    best = {report["gain_over_best_baseline"]["baseline"] for report in reports}
    for report in reports:
        for name, found in report["baselines"].items():
            rows.setdefault(
                name,
                {
                    "kind": "baseline",
                    "name": name,
                    **{measure: found[measure] for measure in MEASURES},
                    "what": found["what"],
                    "fitted": found["fitted"],
                    "is_best": name in best,
                },
            )
    return list(rows.values())
