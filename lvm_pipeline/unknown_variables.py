"""Variables that begin with `LVM_` and are not settings: most often typing errors."""

import difflib
import os

from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import COMPOSE_VARIABLES, EARLIER_NAMES, NESTED, Settings, secret_variables, variable_of

VOLUME_MANAGER = (  # variables of Linux's logical volume manager, which some machines set
    "LVM_COMMAND_PROFILE",
    "LVM_REPORT_FD",
    "LVM_RUN_BY_DMEVENTD",
    "LVM_SUPPRESS_FD_WARNINGS",
    "LVM_SUPPRESS_SYSLOG",
    "LVM_SYSTEM_DIR",
    "LVM_VG_NAME",
)


def unknown_variables() -> dict[str, str | None]:
    """Return the `LVM_...` variables that are not settings, each with the nearest setting if there is one."""
    known = [variable_of((name,)) for name in Settings.model_fields]
    known += [f"{variable}_FILE" for variable in secret_variables().values()]
    nested = tuple(f"{variable_of((name,))}__" for name in NESTED)
    given = [name for name in os.environ if name.upper().startswith("LVM_") and not name.upper().startswith(nested)]
    other = {*COMPOSE_VARIABLES, *EARLIER_NAMES, *VOLUME_MANAGER}
    unknown = [name for name in given if name.upper() not in {*known, *other}]
    return {name: next(iter(difflib.get_close_matches(name.upper(), known, n=1)), None) for name in sorted(unknown)}


def refuse_unknown_variables() -> None:
    """Refuse to train while some `LVM_...` variable is not a setting: most often a typing error. Raises LvmError."""
    for name, nearest in unknown_variables().items():
        fix = f"did you mean {nearest}?" if nearest else "`lvm settings` lists them all."
        raise LvmError(f"The environment variable {name} is not a setting; {fix} Rename or unset it.")
