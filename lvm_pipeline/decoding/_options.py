"""Validation of the options of decoders."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from lvm_pipeline.errors import LvmError

Options = TypeVar("Options")


def checked(options: Options) -> Options:
    """Return options, a dataclass, with their limits checked.

    Raises:
        LvmError: If an option is outside its limits.
    """
    try:
        return TypeAdapter(type(options)).validate_python(vars(options))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise LvmError(f"The decoder option {name} cannot be used ({first['msg']}, got {first['input']!r}).") from None
