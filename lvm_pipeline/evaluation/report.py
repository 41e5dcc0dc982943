"""The report of one model as files: JSON for machines, one HTML page for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation import plots
from lvm_pipeline.evaluation.evaluate import REPORT_VERSION
from lvm_pipeline.evaluation.glossary import COLUMNS
from lvm_pipeline.evaluation.pages import exclusion_in_words, render
from lvm_pipeline.files import write_json, write_text
from lvm_pipeline.measures.retrieval import EXCLUSIONS
from lvm_pipeline.training.balance import GRADIENT_SHARE

JSON_NAME, HTML_NAME = "report.json", "report.html"


def write_report(report: Mapping[str, Any], report_dir: Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.html`, each whole or not at all, and return where they are."""
    json_path, html_path = report_dir / JSON_NAME, report_dir / HTML_NAME
    write_json(json_path, report)
    write_text(html_path, report_html(report))
    return json_path, html_path


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.

    Returns:
        Its values.

    Raises:
        LvmError: If there is none, or it cannot be read.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LvmError(f"There is no report at {path}; make it with `lvm run` or `lvm evaluate`.") from None
    except (ValueError, OSError) as error:
        raise LvmError(f"{path} cannot be read ({error}); evaluate the model again.") from None
    if not isinstance(report, dict) or report.get("report_version") != REPORT_VERSION:
        raise LvmError(f"{path} is not a report of version {REPORT_VERSION}; evaluate the model again.")
    return report


def report_html(report: Mapping[str, Any]) -> str:
    """Return the page."""
    gain = report["gain_over_best_baseline"]
    rules = sorted(EXCLUSIONS, key=lambda rule: rule != report["retrieval"]["exclusion"])
    by_cosine = sorted(report["baselines"].items(), key=lambda item: -item[1]["cosine"])
    return render(
        "report.html.jinja",
        report=report,
        verdict=verdict(report),
        cautions=cautions(report),
        best=gain["baseline"],
        baselines=by_cosine,
        gain_marks={
            name: Markup(plots.gain_mark(found["gain"], [each["gain"] for each in report["baselines"].values()]))
            for name, found in by_cosine
        },
        rules=[(rule, exclusion_in_words(rule, context_length=report["context_length"])) for rule in rules],
        columns=COLUMNS,
        plots=[
            (
                "Learning curves",
                "The checkpoint is chosen on validation, never on the loss.",
                _plot("learning_curves", report),
            ),
            (
                "Cosine by target",
                "How the targets are spread; dashed lines are means.",
                _plot("cosine_distribution", report),
            ),
            (
                "Gain by article",
                "Each bar is one article, model minus best baseline.",
                _plot("gain_by_article", report),
            ),
            ("Retrieval", "Share of targets found among the first k candidates.", _plot("retrieval_curve", report)),
        ],
        context_in_words=context_in_words(report),
        objective_shares=objective_shares(report),
    )


def verdict(report: Mapping[str, Any]) -> tuple[str, str]:
    """Say in one sentence what the report found, with `good`, `bad` or `unsure`."""
    gain, best = report["gain_over_best_baseline"], report["gain_over_best_baseline"]["baseline"]
    counts = report["counts"]
    where = f"on {counts['targets']:,} targets of {counts['articles']} {report['split']} articles"
    if gain["low"] is None:
        return "unsure", f"One article only: the gain over {best} {where} has no interval."
    interval = f"{gain['mean']:+.4f} cosine [{gain['low']:+.4f}, {gain['high']:+.4f}] {where}"
    if gain["low"] > 0:
        return "good", f"Beats the best baseline, {best}, by {interval}."
    if gain["high"] < 0:
        return "bad", f"Loses to the best baseline, {best}: {interval}."
    return "unsure", f"Cannot be told from the best baseline, {best}: {interval}."


def cautions(report: Mapping[str, Any]) -> list[str]:
    """Name what a gain in cosine was paid with: the best baseline is better at it."""
    gain, best = report["gain_over_best_baseline"], report["gain_over_best_baseline"]["baseline"]
    base = report["baselines"][best]
    if (gain["low"] or 0) <= 0:
        return []
    pairs = {
        "centred cosine": (report["centred_cosine"], base["centred_cosine"]),
        "MRR": (report["retrieval"]["mrr"], base["retrieval"]["mrr"]),
    }
    meanings = {
        "centred cosine": "some of the gain is the direction that all vectors share",
        "MRR": "the true concept is harder to find from its predictions",
    }
    return [
        f"Its {name} is below that of {best} ({own:.4f} against {other:.4f}): {meanings[name]}."
        for name, (own, other) in pairs.items()
        if own < other
    ]


def objective_shares(report: Mapping[str, Any]) -> str:
    """Say how the terms of a mixed objective shared the gradient at the chosen epoch; nothing for one term."""
    training = report["training"]
    epoch = next((row for row in training["history"] if row["epoch"] == training["best_epoch"]), {})
    shares = {
        name.removeprefix(GRADIENT_SHARE): share for name, share in epoch.items() if name.startswith(GRADIENT_SHARE)
    }
    told = ", ".join(f"{term} {share:.0%}" for term, share in shares.items())
    return f"; shares of the gradient at epoch {training['best_epoch']}: {told}" if told else ""


def context_in_words(report: Mapping[str, Any]) -> str:
    """Say what the model reads."""
    if report["context_mode"] == "articles":
        return "everything before the target in its article"
    return f"the {report['context_length']} concepts before the target"


def _plot(name: str, report: Mapping[str, Any]) -> Markup:
    return Markup(getattr(plots, name)(report))
