"""How Dagster starts a training: the resource `launcher`, handed to `trained_model`.

`inprocess`, `subprocess` and `torchrun` run on the machine of the step, `ray` as a job of the Ray cluster at
`LVM_RAY_ADDRESS`, `k8s` as a Kubernetes pod. Each gets the options of a trial through the settings' variables and gives
back the same report. Ray and Kubernetes need `LVM_HOME` on a disk that they share with this machine.
"""

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import dagster as dg

from lvm_pipeline.adapters import mlflow_store
from lvm_pipeline.adapters.k8s_manifests import pod_manifest
from lvm_pipeline.adapters.launcher import launched
from lvm_pipeline.adapters.ray_training import explain_no_cluster
from lvm_pipeline.defs.dagster_internals import DagsterPipesExecutionError
from lvm_pipeline.defs.launch import environment
from lvm_pipeline.defs.progress import ProgressFile
from lvm_pipeline.errors import LvmError, first_line
from lvm_pipeline.settings import Settings, settings_environment

Context = dg.AssetExecutionContext | dg.OpExecutionContext


class Launcher:
    """Runs the module of a child where the settings' `launcher` says, and returns its report."""

    def report_of(
        self, context: Context, settings: Settings, module: str, *, extras: Mapping[str, Any], what: str
    ) -> Mapping[str, Any]:
        """Run a module that reports once through Pipes. Raises LvmError if it was killed or crashed."""
        started = {"ray": self._on_ray, "k8s": self._on_k8s}.get(settings.launcher, self._in_child)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Dagster warns of its own inner calls
                done = started(context, settings, module, dict(extras))
        except DagsterPipesExecutionError as error:
            mlflow_store.close_abandoned_runs(settings)
            raise LvmError(why_child_ended(what, str(error))) from None
        (product,) = done.get_custom_messages()
        return product

    def _in_child(self, context: Context, settings: Settings, module: str, extras: dict[str, Any]) -> Any:
        """Run in a child process, which a cancelled run interrupts and which ends with this one."""
        client = dg.PipesSubprocessClient(env=settings_environment(settings))
        return client.run(context=context, command=launched([sys.executable, "-m", module]), extras=extras)

    def _on_ray(self, context: Context, settings: Settings, module: str, extras: dict[str, Any]) -> Any:
        """Run as a job of the Ray cluster, whose driver starts the workers."""
        if settings.ray_address is None:  # the child starts a cluster on this machine
            return self._in_child(context, settings, module, extras)
        try:
            from dagster_ray import PipesRayJobClient  # pyright: ignore[reportMissingImports] - an extra
        except ImportError:
            raise LvmError("Ray is not installed; install the extra: pip install 'lvm-pipeline[ray]'.") from None
        client = PipesRayJobClient(address=settings.ray_address)
        job: Any = {
            "entrypoint": f"python -m {module}",
            "runtime_env": {"env_vars": {**settings_environment(settings), "RAY_ADDRESS": "auto"}},
        }
        try:
            with explain_no_cluster(settings.ray_address):
                return client.run(context=context, submit_job_params=job, extras=extras)
        except RuntimeError as error:  # what dagster-ray raises for a failed job
            raise LvmError(f"The Ray job of {module} failed ({first_line(error)}); its log says why.") from None

    def _on_k8s(self, context: Context, settings: Settings, module: str, extras: dict[str, Any]) -> Any:
        """Run as a pod of the cluster that the kubeconfig (or the service account) leads to."""
        if settings.k8s_image is None:
            raise LvmError("The launcher k8s needs an image with this project in it; set LVM_K8S_IMAGE.")
        if settings.mlflow_tracking_uri is None:
            raise LvmError(
                "A pod cannot use the built-in MLflow store; set LVM_MLFLOW_TRACKING_URI to a server that the cluster "
                "can reach."
            )
        try:
            from dagster_k8s import PipesK8sClient  # pyright: ignore[reportMissingImports] - an extra
        except ImportError:
            raise LvmError(
                "Kubernetes support is not installed; install the extra: pip install 'lvm-pipeline[k8s]'."
            ) from None
        manifest = pod_manifest(settings, module)
        with _cluster_errors(settings.k8s_namespace):
            try:
                return PipesK8sClient().run(
                    context=context,
                    namespace=settings.k8s_namespace,
                    base_pod_spec=manifest["spec"],
                    base_pod_meta=manifest["metadata"],
                    extras=extras,
                    pod_wait_timeout=0,  # no limit
                )
            except dg.DagsterError as error:
                raise LvmError(f"The pod of {module} failed ({first_line(error)}); its log says why.") from None


@contextmanager
def _cluster_errors(namespace: str) -> Iterator[None]:
    """Convert errors of the Kubernetes client to LvmError."""
    from kubernetes.client.exceptions import ApiException  # pyright: ignore[reportMissingImports] - an extra
    from kubernetes.config import ConfigException  # pyright: ignore[reportMissingImports] - an extra
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ConfigException as error:
        raise LvmError(f"Kubernetes is not set up here ({first_line(error)}); set KUBECONFIG to a file.") from None
    except ApiException as error:
        raise LvmError(
            f"Kubernetes refused the request in the namespace {namespace} ({_reason(error)}); check LVM_K8S_NAMESPACE "
            "and what its role may do with pods."
        ) from None
    except HTTPError as error:
        raise LvmError(f"The Kubernetes cluster does not answer ({first_line(error)}); check the kubeconfig.") from None


def _reason(error: Any) -> str:
    """Return status and message of an answer of Kubernetes, whose body is a JSON object."""
    with suppress(ValueError, TypeError, KeyError):
        return f"{error.status}: {json.loads(error.body)['message'].rstrip('.')}"
    return f"{error.status}: {error.reason}"


def train_in_process(context: dg.AssetExecutionContext, settings: Settings, *, again: bool) -> Mapping[str, Any]:
    """Train in the process of the step, for debuggers and small machines; torch is imported into it."""
    from lvm_pipeline.defs.training_child import report_in_process

    with environment(settings_environment(settings)):
        progress = ProgressFile(settings, "trained_model", context.partition_key)
        return report_in_process(settings, context.partition_key, again=again, log=context.log, progress=progress)


def why_child_ended(what: str, message: str) -> str:
    """Return why a child exited without a report, from Dagster's message with its exit code."""
    was_killed = "with code -" in message
    reason = "was killed or ran out of memory" if was_killed else "crashed; its traceback is in the logs of the run"
    return f"The training of {what} {reason}. Train it again: it resumes from its last checkpoint."
