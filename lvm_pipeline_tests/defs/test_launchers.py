"""What goes wrong on the way to a Kubernetes cluster is one sentence."""

import json

import dagster as dg
import pytest
import yaml

from lvm_pipeline.adapters.dagster_home import shipped_file
from lvm_pipeline.defs.launchers import Launcher
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.loopback_server import LoopbackServer

SERVER = "http://mlflow.example:5000"
NO_SPACE = 'pods is forbidden: User "system:anonymous" cannot create resource "pods".'


class Refusing(LoopbackServer):
    """The API of a cluster that refuses every pod."""

    def answer(self, handler, body):
        handler.send_response(403)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        handler.wfile.write(json.dumps({"kind": "Status", "code": 403, "message": NO_SPACE}).encode())


@pytest.fixture
def on_k8s(tmp_path, monkeypatch):
    """Run a training in a pod of the cluster at an address, and give its error."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def run(address, **options):
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://{address}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config if address else {}))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        settings = Settings(**{"home": tmp_path, "launcher": "k8s", "k8s_image": "lvm:1"} | options)
        caught = []

        @dg.asset
        def trained(context: dg.AssetExecutionContext):
            try:
                Launcher().report_of(context, settings, "lvm_pipeline.defs.training_child", extras={}, what="gru")
            except LvmError as error:
                caught.append(str(error))
                raise

        assert not dg.materialize([trained], raise_on_error=False).success
        return caught[0]

    return run


@pytest.mark.parametrize("image", [None, "lvm:1"])
def test_a_pod_needs_an_image_and_an_mlflow_server(tmp_path, image):
    settings = Settings(home=tmp_path, k8s_image=image)

    with pytest.raises(LvmError, match="LVM_MLFLOW_TRACKING_URI" if image else "LVM_K8S_IMAGE"):
        Launcher()._on_k8s(None, settings, "lvm_pipeline.defs.training_child", {})


def test_a_pod_and_a_run_may_take_longer_than_a_day(kubernetes, tmp_path, monkeypatch):
    from dagster_k8s import PipesK8sClient

    given = {}
    monkeypatch.setattr(PipesK8sClient, "run", lambda self, **options: given.update(options))
    settings = Settings(home=tmp_path, k8s_image="lvm:1", mlflow_tracking_uri=SERVER)
    Launcher()._on_k8s(None, settings, "lvm_pipeline.defs.training_child", {})
    assert given["pod_wait_timeout"] == 0

    monitoring = yaml.safe_load(shipped_file("dagster.yaml").read_text())["run_monitoring"]
    with dg.instance_for_test(overrides={"run_monitoring": monitoring}) as instance:
        assert instance.run_monitoring_max_runtime_seconds == 0


def test_without_a_kubeconfig_the_sentence_says_where_one_is_read(kubernetes, on_k8s):
    assert on_k8s(None, mlflow_tracking_uri=SERVER).startswith("Kubernetes is not set up here (Invalid kube-config")


def test_a_refused_pod_gives_the_answer_of_the_cluster(kubernetes, on_k8s):
    with Refusing().listening() as cluster:
        message = on_k8s(cluster.address, mlflow_tracking_uri=SERVER)

    assert message.startswith(f"Kubernetes refused the request in the namespace default (403: {NO_SPACE[:-1]});")
    assert "LVM_K8S_NAMESPACE" in message


def test_a_cluster_that_does_not_answer_is_named(kubernetes, on_k8s):
    message = on_k8s("127.0.0.1:1", mlflow_tracking_uri=SERVER)

    assert message.startswith("The Kubernetes cluster does not answer (")
    assert "127.0.0.1" in message
