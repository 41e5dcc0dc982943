"""The environment variables `LVM_...`, whose names may be in any case, and the files that some of them name."""

import os
from collections.abc import Mapping
from pathlib import Path

from lvm_pipeline.errors import LvmError


def own_variables() -> dict[str, str]:
    """Return the variables that begin with `LVM_` by their names in upper case; one set so wins over others."""
    own = {name: value for name, value in os.environ.items() if name.upper().startswith("LVM_")}
    return {name.upper(): own[name] for name in sorted(own, reverse=True)}


def expanded(path: Path) -> Path:
    """Replace a leading `~` or `~user` by that home folder. Raises ValueError if there is none."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"the home folder {path.parts[0]} is unknown; write the whole path") from None


def secrets_in_files(secrets: Mapping[str, str]) -> dict[str, str]:
    """Read the secrets whose variable with `_FILE` after it names a file, as Docker and Kubernetes mount them.

    `secrets` holds the variable of each secret by setting, and the result the secrets that were read.

    Raises:
        LvmError: If a file cannot be read or is empty, or the variable itself holds something else.
    """
    variables, found = own_variables(), {}
    for name, variable in secrets.items():
        file = variables.get(f"{variable}_FILE")
        if not file:
            continue
        try:
            text = expanded(Path(file)).read_text(encoding="utf-8-sig").strip()
        except (OSError, ValueError) as error:
            reason = "it is not text" if isinstance(error, UnicodeDecodeError) else error
            reason = getattr(error, "strerror", None) or reason
            raise LvmError(f"{variable}_FILE is {file}, which cannot be read ({reason}); correct it.") from None
        if not text:
            raise LvmError(f"{variable}_FILE is {file}, which is empty; write the secret into it.")
        if variables.get(variable, text) not in (text, ""):
            raise LvmError(f"{variable} and {variable}_FILE are both set and differ; unset one of them.")
        found[name] = text
    return found
