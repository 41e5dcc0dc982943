"""Import every module of the library in a fresh process each, as `make imports` does.

A module that only works when another of ours was imported before it, or that needs an extra, fails here. The
processes are forked from one that has large packages of others in memory, which take seconds each time.
"""

import importlib
import multiprocessing
import pkgutil
import sys
from concurrent.futures import ProcessPoolExecutor

import lvm_pipeline

LARGE_PACKAGES = ["torch", "dagster", "pyarrow.parquet", "scipy.stats", "sklearn.linear_model", "sqlalchemy", "rich"]


def import_alone(name):
    ours = [module for module in sys.modules if module.startswith("lvm_pipeline.")]
    assert not ours, f"not alone: {ours} were there before"
    importlib.import_module(name)


def main():
    names = [module.name for module in pkgutil.walk_packages(lvm_pipeline.__path__, "lvm_pipeline.")]
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(LARGE_PACKAGES)
    with ProcessPoolExecutor(2, mp_context=processes, max_tasks_per_child=1) as pool:
        done = {name: pool.submit(import_alone, name) for name in names}
    failed = {name: future.exception() for name, future in done.items() if future.exception() is not None}
    for name, error in failed.items():
        sys.stderr.write(f"{name} cannot be imported alone: {error.__cause__ or error}\n")
    sys.stdout.write(f"{len(names) - len(failed)} of {len(names)} modules import alone\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
