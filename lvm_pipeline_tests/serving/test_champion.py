"""The server follows the alias of a real MLflow registry."""

import pytest

from lvm_pipeline.adapters import mlflow_registry
from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.serving import loader_of, source_of
from lvm_pipeline.lineage.trials import named_trial
from lvm_pipeline.serving.holder import ModelHolder

pytestmark = pytest.mark.postgres


@pytest.fixture
def settings(trial_home, postgres_url):
    uri = postgres_url.replace("postgresql://", "postgresql+psycopg2://")
    return trial_home.model_copy(update={"mlflow_tracking_uri": uri})


def promote(settings, name):
    folder = named_trial(settings, name)
    tracker = MlflowTracker(settings, system_metrics=False)
    tracker.start(folder.trial_id, params={}, tags={}, fingerprints={})
    tracker.log_model(folder.model_dir)
    tracker.finish("FINISHED")
    mlflow_registry.promote(settings, mlflow_run_id=tracker.run_id, tags={"trial_id": folder.trial_id}, description="")
    return folder.trial_id


def test_the_server_follows_the_alias(settings):
    with pytest.raises(LvmError, match="There is no champion yet"):
        source_of(settings)()
    first = promote(settings, "gru")
    holder = ModelHolder(source_of(settings), loader_of(settings), poll_seconds=60)
    before = holder.current

    holder.refresh()
    assert holder.current is before
    assert (before.identity["trial_id"], before.identity["version"]) == (first, "1")

    second = promote(settings, "lstm")
    holder.refresh()
    assert (holder.current.identity["trial_id"], holder.current.identity["version"]) == (second, "2")
