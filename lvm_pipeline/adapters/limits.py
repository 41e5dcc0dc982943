"""Convert errors of a full disk, of too many connections or of a stopped Postgres to ServiceError."""

from collections.abc import Iterator

import psycopg
from sqlalchemy.exc import OperationalError

from lvm_pipeline.errors import ServiceError
from lvm_pipeline.files import FULL_DISK

TOO_MANY = ("too many clients", "too many connections", "remaining connection slots")
NO_SPACE = ("No space left on device", "could not extend file", "disk is full")
GONE = ("server closed the connection", "the database system is", "Connection refused", "terminating connection")


def limit_met(error: BaseException) -> ServiceError | None:
    """Return the error to show if an error, or one of its causes, is an exhausted resource; None if it is another."""
    for cause in _causes(error):
        words = str(cause)
        is_disk = isinstance(cause, OSError) and cause.errno in FULL_DISK
        is_database = isinstance(cause, psycopg.OperationalError | OperationalError)
        if is_disk or (is_database and any(each in words for each in NO_SPACE)):
            where = f" that holds {cause.filename}" if isinstance(cause, OSError) and cause.filename else ""
            return ServiceError(f"The disk{where} is full; free space and try again.")
        if is_database and any(each in words for each in TOO_MANY):
            return ServiceError(
                "All connections of Postgres are taken; end some of the programs that use it, or raise its "
                "max_connections, and try again."
            )
        if is_database and any(each in words for each in GONE):
            return ServiceError("Postgres stopped or does not answer; see `lvm doctor`, and try again.")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
