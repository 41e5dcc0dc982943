"""trained_model -> evaluation_report: scores beside the baselines, with intervals, for one architecture."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import check_results, check_specs, told_as_failure
from lvm_pipeline.defs.partitions import architecture_partitions
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.defs.trained_model import trained_model
from lvm_pipeline.evaluation import plots
from lvm_pipeline.findings import Finding, InvariantError, Severity
from lvm_pipeline.settings import Settings

INVARIANTS = {
    "pool_is_declared_and_clean": Severity.BLOCKING,
    "checkpoint_reproduces_its_score": Severity.BLOCKING,
    "prediction_is_not_the_mean_vector": Severity.BLOCKING,
    "beats_best_baseline": Severity.WARNING,
    "cosine_is_above_minimum_viable": Severity.WARNING,
    "cosine_is_above_production": Severity.WARNING,
    "inference_takes_under_50_ms": Severity.WARNING,
    "training_takes_under_an_hour": Severity.WARNING,
}
PICTURES = {
    "learning curves": plots.learning_curves,
    "cosine distribution": plots.cosine_distribution,
    "gain by article": plots.gain_by_article,
    "retrieval curve": plots.retrieval_curve,
}


@dg.asset(
    deps=[trained_model],
    partitions_def=architecture_partitions,
    check_specs=check_specs("evaluation_report", INVARIANTS, partitions_def=architecture_partitions),
    group_name="results",
    kinds={"pytorch", "html"},
)
def evaluation_report(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Metrics of one trained model on the validation split, beside the baselines on the same rows (JSON and HTML)."""
    architecture = context.partition_key
    with told_as_failure(), stage_shown(settings, "evaluation_report", architecture):
        try:
            report = lineage.evaluate_architecture(settings, architecture)
        except InvariantError as error:
            yield from check_results(error.findings, INVARIANTS)
            raise
        yield from check_results([Finding.from_json(values) for values in report["findings"]], INVARIANTS)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(f"{report['model_fingerprint'][:32]} {report['fingerprint'][:32]}"),
            metadata={
                **metadata.link(lineage.tracking_of(settings.models_dir / architecture)["mlflow_url"]),
                **scores(report),
                "predictors": metadata.markdown_table(predictors(report)),
                **pictures(report, settings, architecture),
                "not_checked": metadata.markdown_list(report["not_checked"]),
                "is_leaking": report["is_leaking"],
                "space_id": report["space_id"],
                "fingerprint": report["fingerprint"],
                "model_fingerprint": report["model_fingerprint"],
                "report": dg.MetadataValue.path(lineage.report_dir(settings, architecture) / "report.html"),
            },
        )


def scores(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers that Dagster plots over time and over partitions."""
    gain, latency = report["gain_over_best_baseline"], report["latency_ms"]
    named = {f"gain_{name}": gain[name] for name in ("mean", "low", "high")}
    named |= {f"latency_{name}_ms": latency[name] for name in ("p50", "p95")}
    return metadata.numbers({**report, **report["retrieval"], **report["counts"], **named})


def predictors(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return model and baselines, best cosine first."""
    all_of_them = {report["name"]: report, **report["baselines"]}
    rows = [
        {
            "predictor": name,
            **{measure: found[measure] for measure in ("cosine", "centred_cosine", "mse")},
            **{measure: found["retrieval"][measure] for measure in ("r_at_1", "r_at_10", "mrr")},
            "gain of the model": found.get("gain", {}).get("mean"),
        }
        for name, found in all_of_them.items()
    ]
    return sorted(rows, key=lambda row: -row["cosine"])


def pictures(report: Mapping[str, Any], settings: Settings, architecture: str) -> dict[str, dg.MetadataValue]:
    """Return the report's plots, in the colours of its page."""
    page = (lineage.report_dir(settings, architecture) / "report.html").read_text(encoding="utf-8")
    drawn = {title: draw(report) for title, draw in PICTURES.items()}
    return {title: metadata.picture(svg, title=title, page=page) for title, svg in drawn.items() if svg}
