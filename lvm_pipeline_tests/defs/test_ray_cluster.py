"""What a training in Dagster says when its Ray cluster cannot be used; with Ray's own client of jobs."""

import dagster as dg
import pytest

from lvm_pipeline.adapters.loopback import free_port
from lvm_pipeline.defs.launchers import Launcher
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.loopback_server import LoopbackServer

pytest.importorskip("dagster_ray", reason="the extra `ray` is not installed")


class WithTokens(LoopbackServer):
    """A dashboard that wants a token."""

    def answer(self, handler, body):
        handler.send_response(401)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


def train_on(address, home):
    settings = Settings(home=home, launcher="ray", ray_address=address)

    @dg.asset
    def model(context: dg.AssetExecutionContext) -> None:
        Launcher().report_of(context, settings, "lvm_pipeline.defs.training_child", extras={}, what="gru")

    dg.materialize([model])


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_cluster_that_cannot_be_reached_is_named_with_what_to_do(tmp_path):
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(LvmError, match=rf"The Ray cluster at {address} cannot be reached .*or set LVM_RAY_ADDRESS"):
        train_on(address, tmp_path)


def test_a_cluster_that_wants_a_token_is_named_with_where_the_token_belongs(tmp_path):
    with (
        WithTokens().listening() as server,
        pytest.raises(LvmError, match=rf"at http://{server.address} wants its token; set RAY_AUTH_MODE=token and give"),
    ):
        train_on(f"http://{server.address}", tmp_path)
