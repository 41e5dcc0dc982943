import pytest

from lvm_pipeline.lineage.serving import serving_app
from lvm_pipeline_tests.serving.homes import make_home, running, train_trial


@pytest.fixture(scope="session")
def trial_home(tmp_path_factory):
    """A home with two trials: a GRU that reads articles and an LSTM that reads windows."""
    settings = make_home(tmp_path_factory.mktemp("serving") / "home", serve_max_concepts=40, serve_max_body_megabytes=1)
    train_trial(settings, architecture="gru", mode="articles")
    train_trial(settings, architecture="lstm", mode="windows")
    return settings


@pytest.fixture(scope="session")
def server(trial_home):
    """Address of a server on the GRU."""
    with running(serving_app(trial_home, trial="gru")) as url:
        yield url
