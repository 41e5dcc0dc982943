"""Read docker-compose.yml as Compose does (interpolation, merge keys), and run its services without containers."""

import os
import re
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import yaml

VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<operator>:-|:\?)(?P<word>[^}]*))?\}")


class UnsetVariableError(Exception):
    """A variable that the file requires is not set."""


def read_compose(path, variables):
    """Return the file's content with its variables put in."""
    return _interpolated(yaml.safe_load(path.read_text()), variables)


def _interpolated(value, variables):
    if isinstance(value, dict):
        return {key: _interpolated(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [_interpolated(one, variables) for one in value]
    return VARIABLE.sub(lambda match: _value(match, variables), value) if isinstance(value, str) else value


def _value(match, variables):
    given = variables.get(match["name"], "")
    if not given and match["operator"] == ":?":
        raise UnsetVariableError(match["name"])
    return given or (match["word"] if match["operator"] == ":-" else "")


@dataclass(frozen=True, kw_only=True)
class Host:
    """This machine in place of the containers: where their host names, ports and folders are.

    `names` maps a host with its port, a port, or a path as the file writes it to what it is here.
    """

    names: dict[str, str]
    logs_dir: Path

    def here(self, value):
        """Put this machine's names into a value of the file."""
        if isinstance(value, list):
            return [self.here(one) for one in value]
        pattern = "|".join(
            rf"(?<![\w.]){re.escape(name)}(?![\w.])" for name in sorted(self.names, key=len, reverse=True)
        )
        return re.sub(pattern, lambda match: self.names[match[0]], value)

    def environment(self, service):
        """The environment of a service, and of the present one only where programs are."""
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
        given = {name: self.here(value) for name, value in service["environment"].items()}
        return {"PATH": path, "HOME": os.environ.get("HOME", "/"), **given}

    def start(self, name, service):
        """Start the command of a service."""
        with (self.logs_dir / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                self.here(service["command"]),
                env=self.environment(service),
                cwd=self.logs_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_healthy(self, service):
        """Run the health check of a service once."""
        kind, *command = service["healthcheck"]["test"]
        assert kind == "CMD"
        environment = self.environment(service)
        done = subprocess.run(self.here(command), env=environment, cwd=self.logs_dir, capture_output=True, check=False)
        return done.returncode == 0
