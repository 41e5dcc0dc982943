"""What `lvm run` starts beside its first stages."""

import pytest

from lvm_pipeline import lineage
from lvm_pipeline.adapters import mlflow_store
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage import models, whole
from lvm_pipeline.lineage.trials import trial_folder
from lvm_pipeline.settings import Settings


@pytest.fixture
def started(monkeypatch):
    """What was started, in order."""
    started = []
    monkeypatch.setattr(mlflow_store, "open_ahead", lambda settings: started.append("mlflow"))
    return started


@pytest.mark.parametrize(
    ("trained", "again", "wanted"),
    [
        ((), False, True),
        (("gru",), False, True),
        (("gru", "lstm"), False, False),
        (("gru", "lstm"), True, True),
    ],
)
def test_what_a_training_waits_for_is_started_ahead_if_one_will_happen(trained, again, wanted, tmp_path, started):
    class Rescoring:
        def start(self):
            started.append("rescoring")

    settings = Settings(home=tmp_path)
    for architecture in trained:
        trial = models.training_config_of(settings, architecture).trial
        trial_folder(settings, trial.trial_id).model_dir.mkdir(parents=True)

    whole._start_ahead(settings, ["gru", "lstm"], Rescoring(), again=again)

    assert started == (["mlflow", "rescoring"] if wanted else [])


def test_another_process_that_makes_the_data_is_named_and_nothing_is_read(tmp_path):
    settings = Settings(home=tmp_path, database_url="postgresql://nobody@127.0.0.1:9/none")

    with lineage.data_locked(settings), pytest.raises(LvmError, match="Another run is making the concepts"):
        lineage.run(settings, ["gru"], task=lambda _: lambda *_: None)


def test_it_is_started_before_the_bar_moves():
    calls = []
    show = whole._after(lambda: calls.append("start"), lambda *progress: calls.append(progress))

    show(1, 2)

    assert calls == ["start", (1, 2)]
