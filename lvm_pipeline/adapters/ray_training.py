"""Run a module in several workers of a Ray cluster with Ray Train (the extra `ray`).

Ray gives each worker a GPU where they are asked for, joins the workers to one process group, and starts all of them
again, a few times, when one dies; they resume from their checkpoint. LVM_HOME must be on a disk that all nodes share.
"""

import os
import runpy
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lvm_pipeline.errors import LvmError, first_line

MAX_FAILURES = 3
POLL_SECONDS = 0.5
CONNECT_SECONDS = 10.0  # Ray itself tries for three minutes


def run_with_ray(
    module: str,
    arguments: Sequence[str],
    *,
    num_processes: int,
    uses_gpu: bool,
    environment: Mapping[str, str],
    on_wait: Callable[[], None],
) -> str:
    """Run `python -m module` in `num_processes` workers and return how they ended; `on_wait` is called regularly.

    Ray looks up the cluster in its own variable, RAY_ADDRESS; without it, a cluster on this machine is started and
    stopped again.

    Raises:
        LvmError: If Ray is not installed, or nothing listens at the address in RAY_ADDRESS.
    """
    _check_reachable(os.environ.get("RAY_ADDRESS", ""))
    try:
        import ray  # pyright: ignore[reportMissingImports] - an extra
        from ray.train import FailureConfig, RunConfig, ScalingConfig  # pyright: ignore[reportMissingImports]
        from ray.train.torch import TorchTrainer  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise LvmError("Ray is not installed; install the extra: pip install 'lvm-pipeline[ray]'.") from None

    is_mine = not ray.is_initialized()
    if is_mine:
        ray.init(runtime_env={"env_vars": dict(environment)}, log_to_driver=True)
    trainer = TorchTrainer(
        run_module,
        train_loop_config={"module": module, "arguments": list(arguments)},
        scaling_config=ScalingConfig(num_workers=num_processes, use_gpu=uses_gpu),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=MAX_FAILURES)),
    )
    try:
        return _waited_for(trainer.fit, on_wait)
    finally:
        if is_mine:
            ray.shutdown()


@contextmanager
def explain_no_cluster(address: str) -> Iterator[None]:
    """Raise LvmError where Ray's client of jobs cannot reach the cluster at an address, or is asked for a token."""
    from ray.exceptions import RayError  # pyright: ignore[reportMissingImports] - an extra

    try:
        yield
    except OSError as error:  # ConnectionError at the start, an error of requests later
        raise LvmError(
            f"The Ray cluster at {address} cannot be reached ({first_line(error)}); start it, or set LVM_RAY_ADDRESS."
        ) from None
    except RayError:  # the client raises AuthenticationError alone, which is not in every version of Ray
        raise LvmError(
            f"The Ray cluster at {address} wants its token; set RAY_AUTH_MODE=token and give the token as Ray's "
            "documentation says (~/.ray/auth_token or RAY_AUTH_TOKEN)."
        ) from None


def _check_reachable(address: str) -> None:
    """Raise LvmError if nothing listens at host:port; Ray judges every other address, such as `auto`."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:  # OverflowError: no port has this number
        raise LvmError(
            f"The Ray cluster at {address} cannot be reached ({first_line(error)}); start it, or change RAY_ADDRESS."
        ) from None


def _waited_for(fit: Callable[[], Any], on_wait: Callable[[], None]) -> str:
    """Fit in this thread, call `on_wait` from another meanwhile, and return "success" or the error."""
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(POLL_SECONDS):
            on_wait()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        fit()
    except Exception as error:  # noqa: BLE001 - Ray raises what its workers raise
        return first_line(error)
    finally:
        is_done.set()
        watcher.join()
        on_wait()
    return "success"


def run_module(config: Mapping[str, Any]) -> None:
    """Run a module as its command line would; each worker of Ray Train calls this."""
    sys.argv = [config["module"], *config["arguments"]]
    runpy.run_module(config["module"], run_name="__main__")
