"""leaderboard -> ensemble: the best trials as one model, scored beside the others."""

import enum
from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from lvm_pipeline import lineage
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import check_results, checked_asset, checked_trial, is_made, lvm_errors_as_failures
from lvm_pipeline.defs.evaluation_report import details, verdict
from lvm_pipeline.defs.launchpad import AGAIN
from lvm_pipeline.defs.leaderboard import leaderboard
from lvm_pipeline.defs.partitions import ENSEMBLE, RESULTS_POOL
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.findings import InvariantError
from lvm_pipeline.settings import Settings

INVARIANTS = tuple(
    {each.name: each for name in ("trained_model", "evaluation_report") for each in lineage.INVARIANTS[name]}.values()
)


class Weights(enum.Enum):
    """How the members are weighted."""

    equal = "equal"
    validation = "validation"


class EnsembleOptions(dg.Config):
    """Options of an ensemble."""

    members: list[str] = Field(default=[], description="Trial ids, two to five. Empty: the best of the leaderboard.")
    top: int = Field(default=3, ge=2, le=5, description="Without members: how many of the best trials to combine.")
    weights: Weights = Field(
        default=Weights.equal,
        description="equal, or fitted on the validation articles; fitted weights are used only if they are better in "
        "cross-fitting.",
    )
    neighbours: bool = Field(
        default=False,
        description="Add the mean residual of similar predictions on the train articles (unit vectors only).",
    )
    name: str | None = Field(default=None, description="Name used in the ensemble's trial id.")
    again: bool = Field(default=False, description=AGAIN)


@checked_asset(
    INVARIANTS,
    deps=[leaderboard],
    pool=RESULTS_POOL,
    group_name="models",
    kinds={"pytorch", "mlflow"},
)
def ensemble(
    context: dg.AssetExecutionContext, config: EnsembleOptions, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """The normalised weighted mean of the best or the named trials: a trial with its own weights and report.

    It is not built again for the same members, data and code, unless `again` is set.
    """  # noqa: DOC501 - the docstring is the description in the UI
    from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker

    with lvm_errors_as_failures(), stage_shown(settings, "ensemble"):
        if not is_made(context):
            yield from check_results(
                lineage.check_ensemble(settings, checked_trial(context, settings, ENSEMBLE)),
                INVARIANTS,
                context=context,
            )
            return
        try:
            made = lineage.make_ensemble(
                settings,
                config.members or lineage.top_trials(settings, config.top),
                name=config.name,
                weighting=config.weights.value,
                neighbours=config.neighbours,
                tracker=MlflowTracker(settings),
                again=config.again,
            )
            report = lineage.evaluate_trial(settings, made.folder)
        except InvariantError as error:
            yield from check_results(error.findings, INVARIANTS, context=context)
            raise
        findings = {finding.name: finding for finding in (*made.findings, *report.findings)}
        address = settings.page_url(made.folder.path / "report.html")
        yield from check_results(findings.values(), INVARIANTS, context=context, report=address)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(f"{report.model_fingerprint[:32]} {report.fingerprint[:32]}"),
            metadata={
                **verdict(settings, made.folder, report),
                "was_made_now": made.was_trained,
                "members": metadata.markdown_table(
                    [
                        {"member": each.trial_id, "weight": each.weight, "cosine": each.cosine}
                        for each in (report.ensemble.members if report.ensemble else ())
                    ]
                ),
                "weights_chosen": made.info.training["weights_chosen"],
                **metadata.folded(details(report)),
                "path": dg.MetadataValue.path(made.folder.model_dir),
            },
        )
