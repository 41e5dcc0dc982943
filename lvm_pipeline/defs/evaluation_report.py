"""trained_model -> evaluation_report: scores beside the baselines, with intervals, for one architecture."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import check_results, checked_asset, is_made, lvm_errors_as_failures
from lvm_pipeline.defs.partitions import architecture_partitions
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.defs.trained_model import trained_model
from lvm_pipeline.findings import InvariantError
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.evaluation.report import EvaluationReport

INVARIANTS = lineage.INVARIANTS["evaluation_report"]
PREDICTOR_COLUMNS = ("predictor", "cosine", "centred cosine", "R@1", "R@10", "MRR", "gain of the model")


@checked_asset(
    INVARIANTS,
    deps=[trained_model],
    partitions_def=architecture_partitions,
    group_name="results",
    kinds={"pytorch", "html"},
)
def evaluation_report(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Metrics of one trained model on the validation split, beside the baselines on the same rows (JSON and HTML)."""
    architecture = context.partition_key
    with lvm_errors_as_failures(), stage_shown(settings, "evaluation_report", architecture):
        if not is_made(context):
            yield from check_results(lineage.check_latest_report(settings, architecture), INVARIANTS, context=context)
            return
        try:
            folder = lineage.latest_trial(settings, architecture)
            report = lineage.evaluate_trial(settings, folder)
        except InvariantError as error:
            yield from check_results(error.findings, INVARIANTS, context=context)
            raise
        address = settings.page_url(folder.path / "report.html")
        yield from check_results(report.findings, INVARIANTS, context=context, report=address)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(f"{report.model_fingerprint[:32]} {report.fingerprint[:32]}"),
            metadata={
                **verdict(settings, folder, report),
                "predictors": predictors(report),
                **pictures(report),
                "not_checked": metadata.markdown_list(report.not_checked),
                **metadata.folded(details(report)),
            },
        )


def verdict(settings: Settings, folder: lineage.TrialFolder, report: "EvaluationReport") -> dict[str, Any]:
    """Return the verdict in a sentence, the links, and the figures that Dagster plots over time and partitions."""
    gain, latency, retrieval = report.gain, report.latency_ms, report.main_retrieval
    figures = {
        "cosine": report.cosine,
        **{f"gain_{name}": value for name, value in vars(gain).items()},
        "r_at_1": retrieval.r_at_1,
        "r_at_10": retrieval.r_at_10,
        "mrr": retrieval.mrr,
        "text_accuracy": getattr(report.text, "accuracy", None),
        "latency_p50_ms": latency.p50,
        "latency_p95_ms": latency.p95,
    }
    return {
        metadata.VERDICT: report.verdict,
        **metadata.page(settings, folder.path / "report.html"),
        **metadata.link(lineage.read_tracking(folder.model_dir)["mlflow_url"]),
        "trial_id": folder.trial_id,
        **metadata.numbers(figures),
        **({"is_leaking": True} if report.is_leaking else {}),
    }


def details(report: "EvaluationReport") -> dict[str, Any]:
    """Return all other figures, and what the report was made from."""
    figures = {**vars(report), **vars(report.main_retrieval), **vars(report.counts), "pool_size": report.pool.size}
    return {
        **metadata.numbers(figures),
        "is_leaking": report.is_leaking,
        "space_id": report.space_id,
        "fingerprint": report.fingerprint,
        "model_fingerprint": report.model_fingerprint,
    }


def predictors(report: "EvaluationReport") -> dg.MarkdownMetadataValue:
    """Return the table of model and baselines."""
    from lvm_pipeline.evaluation.report_tables import predictor_table, without_chance

    return dg.MetadataValue.md(without_chance(predictor_table(report)).only(*PREDICTOR_COLUMNS).markdown())


def pictures(report: "EvaluationReport") -> dict[str, dg.MetadataValue]:
    """Return the report's plots, with the style sheet of its page."""
    from lvm_pipeline.evaluation.report_page import PLOTS, report_html

    page = report_html(report)
    drawn = {title.lower(): draw(report) for title, _, draw in PLOTS}
    return {title: metadata.picture(svg, title=title, page=page) for title, svg in drawn.items() if svg}
