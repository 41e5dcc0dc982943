"""Host names under which a server on this machine's own address answers; under others, web sites could read from it."""

from urllib.parse import urlsplit

from lvm_pipeline.errors import LvmError

THIS_MACHINE = ("127.0.0.1", "localhost")


def own_names(proxy: str | None, *, variable: str) -> tuple[str, ...]:
    """Return the host names of a server, with that of its proxy, if it has one.

    Raises:
        LvmError: If the proxy's address, which `variable` sets, has no host name.
    """
    if not proxy:
        return THIS_MACHINE
    try:
        name = urlsplit(proxy).hostname
    except ValueError:  # such as half of the brackets of an IPv6 address
        name = None
    if name is None:
        raise LvmError(
            f"{variable} is {proxy!r}, which has no host name; give an address such as https://models.example.org."
        )
    return (*THIS_MACHINE, name)
