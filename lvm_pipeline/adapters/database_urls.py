"""URLs of Postgres databases, read as libpq reads them: several hosts, `sslmode`, `service` and the other parameters.

URLs contain their password: they are passed to drivers and child environments, and never printed (see `shown`).
"""

import re
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from lvm_pipeline.errors import LvmError

SCHEME = re.compile(r"postgres(?:ql)?(?:\+\w+)?://")
UNKNOWN_PARAMETER = re.compile(r'URI query parameter: "([\w.-]{1,60})"')
LOGIN = re.compile(r"(?<=://)[^/?#\s]*@")
SECONDS = re.compile(r"\s*[+-]?[0-9]{1,9}\s*")
LARGEST_PORT = 65535
HIDDEN = "the given URL"
HINTS = {
    "pgbouncer": "remove it (it is a parameter of Prisma; PgBouncer works without it)",
    "schema": "remove it, and write the tables as SCHEMA.TABLE in LVM_ENTRY_TABLE and LVM_VECTOR_TABLE",
    "ssl": "write sslmode=require",
}


def plain_url(text: str, *, variable: str) -> str:
    """Check a URL and return it as `postgresql://`, without the driver of a SQLAlchemy URL and surrounding white space.

    Args:
        text: The URL, with or without a driver such as `postgresql+psycopg2`.
        variable: Where it was set, for errors.

    Raises:
        LvmError: If it is no Postgres URL; the sentence never repeats the password.
    """
    text = text.strip()
    scheme = SCHEME.match(text)
    if not scheme:
        raise LvmError(f"{variable} is not a Postgres URL; write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE.")
    url = f"postgresql://{text[scheme.end() :]}"
    if any(ord(character) < 0x20 for character in url):
        raise LvmError(f"{variable} contains a line break or another control character; write it in one line.")
    try:
        parts = conninfo_to_dict(url)
    except (psycopg.Error, UnicodeError) as error:
        raise LvmError(_problem(str(error), variable)) from None
    _check_ports(parts, variable)
    if not SECONDS.fullmatch(str(parts.get("connect_timeout") or "0")):
        raise LvmError(f"{variable} has an invalid connect_timeout; write it as a whole number of seconds.")
    return url


def shown(url: str) -> str:
    """Return a URL without its password and options, for printing; of a web server also without the user.

    The user of a web server may be a token.
    """
    if not SCHEME.match(url):
        return _shown_address(url)
    try:
        parts = conninfo_to_dict(SCHEME.sub("postgresql://", url.strip(), count=1))
    except (psycopg.Error, UnicodeError):
        return HIDDEN
    user = f"{parts['user']}@" if parts.get("user") else ""
    service = f"?service={parts['service']}" if parts.get("service") else ""
    return f"postgresql://{user}{','.join(_addresses(parts))}/{parts.get('dbname') or ''}{service}"


def _shown_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return HIDDEN
    if parts.scheme and not parts.netloc:
        return f"{parts.scheme}://{parts.path}"  # urlunsplit drops two of the slashes of sqlite:////path
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"[{host}]{port}" if ":" in host else f"{host}{port}", parts.path, "", ""))


def without_logins(text: str) -> str:
    """Return a URL, or a text with URLs, without their users and passwords."""
    return LOGIN.sub("", text)


def secret_in(url: str) -> str:
    """Return the password before the host of a URL, as it is written there; empty if there is none.

    Without a password, the user of a web server is taken for a token.
    """
    login = LOGIN.search(url)
    if login is None:
        return ""
    user, _, password = login[0].removesuffix("@").partition(":")
    return password or ("" if SCHEME.match(url) else user)


def with_parameters(url: str, **parameters: str) -> str:
    """Add parameters to a URL; those that it has already stay as they are."""
    known = conninfo_to_dict(url)
    added = urlencode({name: value for name, value in parameters.items() if name not in known})
    if not added:
        return url
    return f"{url}{'&' if '?' in url else '?'}{added}"


def sqlalchemy_url(url: str, driver: str) -> str:
    """Return a URL for SQLAlchemy, which takes several hosts only as parameters."""
    parts = conninfo_to_dict(url)
    if "," not in str(parts.get("host") or ""):
        return url.replace("postgresql://", f"postgresql+{driver}://", 1)
    user, password = (quote(str(parts.pop(name, None) or ""), safe="") for name in ("user", "password"))
    database = quote(str(parts.pop("dbname", None) or ""), safe="")
    login = f"{user}:{password}@" if password else f"{user}@"
    return f"postgresql+{driver}://{login}/{database}?{urlencode(parts)}"


def _addresses(parts: dict) -> list[str]:
    hosts, ports = str(parts.get("host") or "").split(","), str(parts.get("port") or "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    names = [f"[{host}]" if ":" in host else host for host in hosts]
    return [f"{name}:{port}" if port else name for name, port in zip(names, ports, strict=False)]


def _check_ports(parts: dict, variable: str) -> None:
    ports = str(parts.get("port") or "").split(",")
    if any(port and not (port.isdecimal() and 0 < int(port) <= LARGEST_PORT) for port in ports):
        raise LvmError(f"{variable} has an invalid port; percent-encode / : @ in its password.")
    if len(ports) > 1 and len(ports) != len(str(parts.get("host") or "").split(",")):
        raise LvmError(f"{variable} has {len(ports)} ports for another number of hosts; give one port for each host.")


def _problem(message: str, variable: str) -> str:
    """Convert libpq's message, which may contain the password, to one sentence."""
    unknown = UNKNOWN_PARAMETER.search(message)
    if unknown is None:
        return f"{variable} is not a valid Postgres URL; percent-encode special characters in its user and password."
    name = unknown[1]
    if "separator" in message:
        return f"The parameter {name} in {variable} has no value or several; write it as {name}=VALUE."
    return f"{variable} has the parameter {name}, which Postgres does not know; {HINTS.get(name, 'remove it')}."
