"""A plugin that MLflow loads whenever it is imported; pyproject.toml declares it as an entry point.

`mlflow models serve --env-manager local` starts `uvicorn` by name, and so fails with exit code 127 where the
environment is not activated, although `mlflow` itself was started by its path. MLflow offers no hook for that command.
A provider of run tags is made when MLflow is imported, before any command runs.
"""

import os
import shutil
import sys
from pathlib import Path


class ProgramsOnPath:
    """Puts the folder of the running Python's programs first on the PATH, unless `uvicorn` is found there already.

    It has the two methods of MLflow's RunContextProvider, which cannot be imported here: MLflow, while it is being
    imported, imports this module. It adds no tags to runs.
    """

    def __init__(self) -> None:
        programs = str(Path(sys.executable).parent)
        found = shutil.which("uvicorn")
        if found is None or str(Path(found).parent) != programs:
            os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])

    def in_context(self) -> bool:
        return False

    def tags(self) -> dict[str, str]:
        return {}
