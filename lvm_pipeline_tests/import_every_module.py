"""Import every module of the library in a fresh process each, as `make imports` does.

A module that only works when another was imported before it, or that needs an extra, fails here.
"""

import pkgutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import lvm_pipeline


def import_alone(name):
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, check=False)
    return name, done.returncode, done.stderr


def main():
    names = [module.name for module in pkgutil.walk_packages(lvm_pipeline.__path__, "lvm_pipeline.")]
    with ThreadPoolExecutor(2) as pool:
        failed = [(name, words) for name, code, words in pool.map(import_alone, names) if code != 0]
    for name, words in failed:
        sys.stderr.write(f"{name} cannot be imported alone:\n{words}\n")
    sys.stdout.write(f"{len(names) - len(failed)} of {len(names)} modules import alone\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
