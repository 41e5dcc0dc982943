"""The description of a trial's run in the MLflow UI."""

import logging

from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.trials import TrialFolder, read_tracking
from lvm_pipeline.settings import Settings

logger = logging.getLogger(__name__)


def describe_trial(settings: Settings, folder: TrialFolder, verdict: str) -> None:
    """Write the verdict, with links to the pages, as the description of the trial's MLflow run, if it has one.

    If the run was deleted or the store does not answer, a warning is logged.
    """
    from lvm_pipeline.adapters import mlflow_store
    from lvm_pipeline.adapters.mlflow_tracker import description_of
    from lvm_pipeline.training.record import options_in_words

    run_id, info = read_tracking(folder.model_dir)["mlflow_run_id"], folder.info()
    if run_id is None or info is None:
        return
    pages = {
        "report": folder.report_path.with_suffix(".html"),
        "leaderboard": settings.reports_dir / "leaderboard.html",
        "study": settings.reports_dir / "study.html",
    }
    links = {name: settings.page_url(path) for name, path in pages.items() if path.is_file()}
    tags = {"options": options_in_words(info.trial)}
    try:
        mlflow_store.describe_run(settings, run_id, description_of(tags, verdict, links=links))
    except LvmError as error:
        logger.warning("The MLflow run of %s has no description: %s", folder.trial_id, error)
