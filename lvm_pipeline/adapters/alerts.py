"""Deliver alerts to the Apprise URL (Slack, mail, a webhook, ...) or file in LVM_ALERT_URL.

The URL is a secret, so messages about failed deliveries contain only its scheme.
"""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import SecretStr

from lvm_pipeline.adapters.database_urls import secret_in
from lvm_pipeline.adapters.messages.alert import Alert, without_secrets
from lvm_pipeline.errors import LvmError, first_line
from lvm_pipeline.settings import Settings

FILE_SCHEME = "file"  # unknown to Apprise
EXAMPLES = "slack://..., mailtos://..., jsons://HOST/PATH (a webhook) or file:///PATH"


def send(settings: Settings, alert: Alert) -> None:
    """Deliver one alert. Raises LvmError if the URL is missing or invalid, or the delivery failed."""
    url = required_url(settings)
    secrets = secrets_of(settings)
    title, body = without_secrets(alert.title, secrets), without_secrets(alert.body(), secrets)
    parts = _split(url)
    if parts is not None and parts.scheme == FILE_SCHEME:
        if parts.netloc not in ("", "localhost"):
            raise LvmError("LVM_ALERT_URL has no absolute path; write it with three slashes: file:///PATH.")
        problem = _append(Path(unquote(parts.path)), alert, title=title, body=body)
    else:
        problem = _notify(url, alert, title=title, body=body)
    if problem is not None:
        reason = " ".join(without_secrets(problem, secrets).split())
        where = f"{url.partition('://')[0]}://..."
        why = f" ({reason})" if reason else ""
        raise LvmError(f"An alert could not be delivered to {where}{why}; check LVM_ALERT_URL and its receiver.")


def required_url(settings: Settings) -> str:
    """Return the URL that alerts go to. Raises LvmError if none is set."""
    if settings.alert_url is None:
        raise LvmError(f"LVM_ALERT_URL is not set; set it to an Apprise URL: {EXAMPLES}.")
    return settings.alert_url.get_secret_value()


def secrets_of(settings: Settings) -> set[str]:
    """Return every secret of the settings, and the parts of a URL that may be secrets."""
    values = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    in_urls = [secret_in(value) for _, value in settings if isinstance(value, str)]
    secrets = {part for value in values for part in (value, *_secret_parts(value))}
    return secrets | {each for one in in_urls for each in (one, unquote(one)) if each}


def _secret_parts(secret: str) -> list[str]:
    parts = _split(secret)
    if parts is None:
        password = secret.partition("://")[2].rpartition("@")[0].partition(":")[2]
        return [password] if password else []
    found = [parts.password or ""]
    if not parts.scheme.startswith(("postgres", FILE_SCHEME)):  # tokens may be anywhere but in host names
        values = [value for _, value in parse_qsl(parts.query)]
        host = parts.hostname or ""
        found += [*parts.path.split("/"), *values, parts.username or "", "" if "." in host else host]
    return [each for one in found for each in (one, unquote(one)) if each]


def _split(url: str) -> SplitResult | None:
    """Split a URL; None for one that the standard library refuses, such as one with `[` in its password."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _notify(url: str, alert: Alert, *, title: str, body: str) -> str | None:
    """Send a message; return the error, None if it was delivered."""
    import apprise

    asset = apprise.AppriseAsset(app_id="LVM pipeline", async_mode=False, secure_logging=True)
    notifier = apprise.Apprise(asset=asset)
    with apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as said:
        if not notifier.add(url):
            raise LvmError(f"LVM_ALERT_URL is not a valid Apprise URL; examples: {EXAMPLES}.")
        was_delivered = notifier.notify(title=title, body=body, notify_type=apprise.NotifyType(alert.level))
        said.seek(0)
        return None if was_delivered else said.read()


def _append(path: Path, alert: Alert, *, title: str, body: str) -> str | None:
    """Append a message to a file as one line of JSON; return the error, None if it was written."""
    line = {"time": datetime.now(UTC).isoformat(), "type": alert.level, "title": title, "message": body}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        return error.strerror or first_line(error)
    return None
