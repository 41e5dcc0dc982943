"""The HTML page of a report."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from markupsafe import Markup

from lvm_pipeline.evaluation import plots
from lvm_pipeline.evaluation.glossary import COLUMNS, DESPITE_A_GAIN
from lvm_pipeline.evaluation.pages import context_in_words, exclusion_in_words, render
from lvm_pipeline.evaluation.preference_tables import preference_section
from lvm_pipeline.evaluation.report import HTML_NAME, JSON_NAME, EvaluationReport, is_lower, read_report
from lvm_pipeline.evaluation.report_tables import (
    MSE_TITLE,
    RETRIEVAL_TITLES,
    controls_table,
    findings_table,
    interval_in_words,
    member_table,
    predictor_table,
    resolution_table,
    signed,
    without_chance,
)
from lvm_pipeline.evaluation.rollout_pages import rollout_cosine, rollout_mrr, rollout_table
from lvm_pipeline.evaluation.smoothing_tables import smoothing_section
from lvm_pipeline.evaluation.standing_tables import curve_table, ladder_table, ranking_table, standing_table
from lvm_pipeline.evaluation.text_tables import text_section
from lvm_pipeline.files import write_json, write_text
from lvm_pipeline.measures.retrieval import EXCLUSIONS
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.training.invariants import GRADIENT_SHARE
from lvm_pipeline.words import counted

LOCK_NAME = ".report.lock"
CLOSENESS = ("predictor", "cosine", "centred cosine", MSE_TITLE, "L2", "norm ratio", "gain of the model")
PLOTS = (
    ("Learning curves", "The checkpoint is selected by the validation metric, not by the loss.", plots.learning_curves),
    ("Cosine by target", "Distribution over targets; dashed lines are means.", plots.cosine_distribution),
    ("Gain by article", "One bar per article: model minus best baseline.", plots.gain_by_article),
    ("Roll-out: cosine", "Each prediction is fed back as the next concept read.", rollout_cosine),
    (
        "Roll-out: retrieval",
        "MRR of the true concept. Concepts read before step 1 are not candidates.",
        rollout_mrr,
    ),
    ("Retrieval", "Share of targets found among the first k candidates.", plots.retrieval_curve),
)


def write_report(report: EvaluationReport, report_dir: Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.html`, each whole or not at all, and return their paths."""
    json_path, html_path = report_dir / JSON_NAME, report_dir / HTML_NAME
    write_json(json_path, report.as_json())
    write_text(html_path, report_html(report))
    return json_path, html_path


def replace_sections(report_dir: Path, *, fingerprint: str, **sections: Any) -> EvaluationReport | None:
    """Replace sections of the report in a folder and return it; do nothing if it is of other weights, or missing.

    `fingerprint` is that of the model that the sections belong to. Two commands at once both have their sections in the
    report.
    """
    json_path = report_dir / JSON_NAME
    if not json_path.is_file():
        return None
    with FileLock(report_dir / LOCK_NAME):
        report = read_report(json_path)
        if report.model_fingerprint != fingerprint:
            return None
        report = replace(report, **sections)
        write_report(report, report_dir)
    return report


def report_html(report: EvaluationReport) -> str:
    tables = {rule: predictor_table(report, rule).only(*RETRIEVAL_TITLES) for rule in EXCLUSIONS}
    rules = sorted(EXCLUSIONS, key=lambda rule: rule != report.pool.exclusion)
    return render(
        "report.html.jinja",
        report=report,
        verdict=verdict(report),
        cautions=cautions(report),
        other_gains=other_gains(report),
        gain=(signed(report.gain.mean), _bounds_in_words(report.gain)),
        predictors=without_chance(predictor_table(report)).only(*CLOSENESS),
        retrieval=[
            (rule, exclusion_in_words(rule, context_length=report.context_length), tables[rule]) for rule in rules
        ],
        findings={
            "evaluation": findings_table(report.findings),
            "training": findings_table(report.training_findings),
            "data": findings_table(report.data_findings or ()),
        },
        controls=controls_table(report),
        members=None if report.ensemble is None else member_table(report.ensemble),
        resolutions=None if report.resolutions is None else resolution_table(report.resolutions),
        ranking=None if report.ranking is None else ranking_table(report.ranking),
        ranking_gain=None if report.ranking is None else interval_in_words(report.ranking.gain),
        standing=None if report.standing is None else standing_table(report.standing),
        rollout=None if report.rollout is None else rollout_table(report.rollout),
        curve=None if report.learning_curve is None else curve_table(report.learning_curve),
        leak_ladder=None if not (report.standing and report.standing.leak_ladder) else ladder_table(report.standing),
        text=text_section(report.text),
        smoothing=smoothing_section(report.smoothing),
        preference=preference_section(report.preference),
        sections={} if report.strategies is None else {"strategies": report.strategies},
        columns=COLUMNS,
        plots=[(title, caption, Markup(draw(report))) for title, caption, draw in PLOTS],
        context_in_words=context_in_words(report.context_mode, report.context_length),
        objective_shares=objective_shares(report),
    )


def verdict(report: EvaluationReport) -> tuple[str, str]:
    """Return the kind of verdict (`good`, `bad`, `unsure`) and the sentence at the top of the page."""
    gain, best, counts = report.gain, report.best_baseline, report.counts
    where = f"on {counted(counts.targets, 'target')} of {counted(counts.articles, f'{report.split} article')}"
    if gain.low is None or gain.high is None:
        return "unsure", f"Gain over the best baseline, {best}: {signed(gain.mean)} {where}, without an interval."
    kind = plots.gain_kind(gain)
    words = {"good": "Better than", "bad": "Worse than", "unsure": "Not clearly different from"}[kind]
    return kind, (
        f"{words} the best baseline, {best}: mean cosine {report.cosine:.4f} against {report.best.cosine:.4f}, a "
        f"difference of {interval_in_words(gain)} (95 % interval) {where}."
    )


def cautions(report: EvaluationReport) -> list[str]:
    """Name the measures in which the best baseline is better beyond chance, if the model gains in cosine."""
    if not report.gain.is_above_zero:
        return []
    base, rule, gains = report.best, report.pool.exclusion, report.other_gains
    scores = {
        "centred cosine": (report.centred_cosine, base.centred_cosine, gains and gains.centred_cosine),
        "MRR": (report.main_retrieval.mrr, base.retrieval[rule].mrr, gains and gains.mrr[rule]),
    }
    return [
        f"Its {name} is below that of {report.best_baseline} ({own:.4f} against {other:.4f}"
        f"{'' if gain is None else f', a difference of {interval_in_words(gain)}'}): {DESPITE_A_GAIN[name]}."
        for name, (own, other, gain) in scores.items()
        if is_lower(own, other, gain)
    ]


def other_gains(report: EvaluationReport) -> str:
    """Return the gains over the best baseline in other measures; empty in reports of earlier versions."""
    gains = report.other_gains
    if gains is None:
        return ""
    return (
        f"In centred cosine the gain over {report.best_baseline} is {interval_in_words(gains.centred_cosine)}, in MRR "
        f"{interval_in_words(gains.mrr[report.pool.exclusion])}."
    )


def objective_shares(report: EvaluationReport) -> str:
    """Return how the terms of a mixed objective shared the gradient at the selected epoch; empty for one term."""
    training = report.training
    epoch = next((row for row in training.history if row["epoch"] == training.best_epoch), {})
    shares = ", ".join(
        f"{name.removeprefix(GRADIENT_SHARE)} {float(share):.0%}"
        for name, share in epoch.items()
        if name.startswith(GRADIENT_SHARE)
    )
    return f"; shares of the gradient at epoch {training.best_epoch}: {shares}" if shares else ""


def _bounds_in_words(gain: Interval) -> str:
    if gain.low is None:
        return "no interval: one article"
    return f"95 % interval {signed(gain.low)} to {signed(gain.high)}"
