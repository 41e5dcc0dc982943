"""The pod of a training: what Kubernetes accepts, with the settings in it and no password in the open."""

import json

import jsonschema
import pytest

from lvm_pipeline.adapters.k8s_manifests import pod_manifest
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

MODULE = "lvm_pipeline.defs.training_child"
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[kMGT]i?)?$"}
CONTAINER = {
    "type": "object",
    "required": ["name", "image"],
    "additionalProperties": False,
    "properties": {
        "name": NAME,
        "image": {"type": "string", "minLength": 1},
        "command": {"type": "array", "items": {"type": "string"}},
        "env": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "value"],
                "additionalProperties": False,
                "properties": {"name": {"pattern": "^[A-Za-z0-9_]+$"}, "value": {"type": "string"}},
            },
        },
        "envFrom": {"type": "array", "items": {"type": "object", "required": ["secretRef"]}},
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                kind: {"type": "object", "additionalProperties": QUANTITY} for kind in ("requests", "limits")
            },
        },
        "volumeMounts": {
            "type": "array",
            "items": {"type": "object", "required": ["name", "mountPath"], "properties": {"name": NAME}},
        },
    },
}
POD = {  # the part of the API reference (v1, Pod) that the manifest uses
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "v1"},
        "kind": {"const": "Pod"},
        "metadata": {"type": "object", "required": ["name"], "properties": {"name": NAME, "namespace": NAME}},
        "spec": {
            "type": "object",
            "required": ["containers"],
            "additionalProperties": False,
            "properties": {
                "restartPolicy": {"enum": ["Always", "OnFailure", "Never"]},
                "containers": {"type": "array", "minItems": 1, "items": CONTAINER},
                "volumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
            },
        },
    },
}


def settings_with(tmp_path, **options):
    given = {"architecture": "lcm_two_tower", "k8s_image": "registry.example/lvm:1", "home": tmp_path}
    return Settings(**{**given, **options})


@pytest.mark.parametrize(
    "options", [{}, {"k8s_gpus": 4, "k8s_memory": "64Gi"}, {"k8s_secret": "lvm-passwords"}], ids=str
)
def test_the_pod_follows_the_schema_and_mounts_what_it_names(tmp_path, options):
    pod = pod_manifest(settings_with(tmp_path, **options), MODULE)

    jsonschema.validate(pod, POD)
    (container,) = pod["spec"]["containers"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["spec"]["volumes"]}
    assert str(tmp_path) in {each["mountPath"] for each in container["volumeMounts"]}
    assert container["command"] == ["python", "-m", MODULE]


def variables_of(pod):
    return {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}


def test_the_pod_trains_with_the_same_settings_and_never_starts_another_pod(tmp_path):
    settings = settings_with(tmp_path, launcher="k8s", epochs=3, model={"hidden_dim": 64})
    variables = variables_of(pod_manifest(settings, MODULE))
    assert variables["LVM_EPOCHS"] == "3"
    assert json.loads(variables["LVM_MODEL"]) == {"hidden_dim": 64}
    assert variables["LVM_HOME"] == str(tmp_path)
    assert variables["LVM_LAUNCHER"] == "inprocess"
    assert variables_of(pod_manifest(settings_with(tmp_path, k8s_gpus=8), MODULE))["LVM_LAUNCHER"] == "torchrun"


def test_passwords_stay_in_the_secret(tmp_path):
    settings = settings_with(tmp_path, k8s_secret="lvm", database_url="postgresql://u:pa55word@db/lvm", chat_key="k3y")
    pod = pod_manifest(settings, MODULE)
    assert "pa55word" not in json.dumps(pod)
    assert "k3y" not in json.dumps(pod)
    assert pod["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "lvm"}}]


@pytest.mark.parametrize(("uri", "is_in_the_pod"), [("http://ann:pa55word@mlflow", False), ("http://mlflow", True)])
def test_a_tracking_uri_stays_in_the_secret_if_it_has_a_password(tmp_path, uri, is_in_the_pod):
    pod = pod_manifest(settings_with(tmp_path, k8s_secret="lvm", mlflow_tracking_uri=uri), MODULE)

    names = {variable["name"] for variable in pod["spec"]["containers"][0]["env"]}
    assert ("LVM_MLFLOW_TRACKING_URI" in names) is is_in_the_pod


def test_without_an_image_the_sentence_names_the_variable(tmp_path):
    with pytest.raises(LvmError, match="LVM_K8S_IMAGE"):
        pod_manifest(settings_with(tmp_path, k8s_image=None), MODULE)


def test_dagster_makes_a_pod_of_it_that_the_kubernetes_client_accepts(tmp_path):
    pytest.importorskip("dagster_k8s", reason="the extra `k8s` is not installed")
    from dagster_k8s.pipes import build_pod_body
    from kubernetes.client import ApiClient, V1Pod

    manifest = pod_manifest(settings_with(tmp_path, k8s_gpus=2, k8s_secret="lvm"), MODULE)
    body = build_pod_body(
        pod_name="lvm-run", image=None, command=None, env_vars={"DAGSTER_PIPES_CONTEXT": "x"},
        base_pod_meta=manifest["metadata"], base_pod_spec=manifest["spec"],
    )  # fmt: skip
    assert isinstance(body, V1Pod)
    made = ApiClient().sanitize_for_serialization(body)["spec"]["containers"][0]
    assert made["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert made["volumeMounts"] == manifest["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "DAGSTER_PIPES_CONTEXT", "value": "x"} in made["env"]
