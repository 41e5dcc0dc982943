"""The Kubernetes pod of a training, as `PipesK8sClient` starts it; `kubectl apply -f` takes it too."""

from typing import Any

from lvm_pipeline.adapters.database_urls import secret_in
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings, secret_variables, settings_environment

HOME_VOLUME = "lvm-home"
SHARED_MEMORY = "shared-memory"  # PyTorch's processes exchange tensors through /dev/shm


def pod_manifest(settings: Settings, module: str) -> dict[str, Any]:
    """Return the pod that runs `python -m module` with these settings and LVM_HOME on a volume.

    Variables with secrets are read from the secret `k8s_secret`, if one is named, and are part of the pod otherwise.

    Raises:
        LvmError: If no image is named.
    """
    if settings.k8s_image is None:
        raise LvmError("The launcher k8s needs an image with this project in it; set LVM_K8S_IMAGE.")
    requests = {"memory": settings.k8s_memory, "cpu": str(settings.num_threads)}
    limits = {"memory": settings.k8s_memory}
    if settings.k8s_gpus:
        limits["nvidia.com/gpu"] = str(settings.k8s_gpus)
    container = {
        "name": "training",
        "image": settings.k8s_image,
        "command": ["python", "-m", module],
        "env": [{"name": name, "value": value} for name, value in _variables(settings).items()],
        "resources": {"requests": requests, "limits": limits},
        "volumeMounts": [
            {"name": HOME_VOLUME, "mountPath": str(settings.home)},
            {"name": SHARED_MEMORY, "mountPath": "/dev/shm"},
        ],
    }
    if settings.k8s_secret is not None:
        container["envFrom"] = [{"secretRef": {"name": settings.k8s_secret}}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"lvm-training-{settings.architecture}".replace("_", "-"),
            "namespace": settings.k8s_namespace,
            "labels": {"app.kubernetes.io/name": "lvm-pipeline", "app.kubernetes.io/component": "training"},
        },
        "spec": {
            "restartPolicy": "Never",  # Dagster tries again, and the training resumes
            "containers": [container],
            "volumes": [
                {"name": HOME_VOLUME, "persistentVolumeClaim": {"claimName": settings.k8s_volume_claim}},
                {"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory"}},
            ],
        },
    }


def _variables(settings: Settings) -> dict[str, str]:
    """Return the settings of the pod, whose training is started by torchrun where it has several GPUs."""
    values = settings_environment(settings)
    values["LVM_LAUNCHER"] = "torchrun" if settings.k8s_gpus > 1 else "inprocess"
    if settings.k8s_secret is not None:
        secret = secret_variables().values()
        values = {name: value for name, value in values.items() if name not in secret and not secret_in(value)}
    return values
