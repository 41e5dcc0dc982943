"""Addresses of artifacts in the built-in store: `mlflow-artifacts:/lvm/...`, short and independent of the home's path.

The MLflow server of `lvm ui` serves them from `LVM_HOME/mlflow/artifacts`; processes that write to the database
themselves read and write the same folder here. Absolute addresses of earlier versions are rewritten once.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from sqlalchemy import Engine

SCHEME = "mlflow-artifacts"
FOLDER = "artifacts"
COLUMNS = (  # table, column that tells rows apart, column of the address
    ("experiments", "experiment_id", "artifact_location"),
    ("runs", "run_uuid", "artifact_uri"),
    ("logged_models", "model_id", "artifact_location"),
    ("model_versions", "source", "source"),
    ("model_versions", "storage_location", "storage_location"),
)
EARLIER = re.compile(r"^file:.*/mlflow/artifacts/(?P<rest>.+)$")
_folders: dict[str, Path] = {}  # by the URL of the store


def address_of(experiment: str) -> str:
    """Return where a new experiment keeps its artifacts."""
    return f"{SCHEME}:/{re.sub(r'[^A-Za-z0-9_-]+', '-', experiment)[:80]}"


def path_of(mlflow_dir: Path, address: str) -> Path | None:
    """Return the path of an artifact's address, None if it is not on this disk."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if parts.scheme == SCHEME and not parts.netloc:
        return mlflow_dir / FOLDER / parts.path.lstrip("/")
    return None


def serve_from(uri: str, mlflow_dir: Path) -> None:
    """Let clients of a store in this process read and write the artifacts in its folder, without a server."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    from lvm_pipeline.adapters import mlflow_internals

    served = mlflow_internals.artifact_repositories.get_registered_artifact_repositories()[SCHEME]
    _folders[uri] = mlflow_dir

    def repository(artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
        folder = _folders.get(tracking_uri or "") or _folders.get(registry_uri or "")
        path = path_of(folder, artifact_uri) if folder is not None else None
        if path is None:
            return served(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)
        return LocalArtifactRepository(path.as_uri(), tracking_uri=tracking_uri, registry_uri=registry_uri)

    if len(_folders) == 1:
        mlflow_internals.artifact_repositories.register(SCHEME, repository)


def rewrite_earlier_addresses(engine: "Engine") -> int:
    """Replace absolute addresses that an earlier version wrote; return how many there were."""
    from sqlalchemy import text

    num_changed = 0
    with engine.begin() as connection:
        for table, key, column in COLUMNS:
            select = f"SELECT {key}, {column} FROM {table} WHERE {column} LIKE 'file:%'"  # noqa: S608 - names from above
            update = f"UPDATE {table} SET {column} = :new WHERE {key} = :identity"  # noqa: S608 - names from above
            for identity, new in _rewritten(connection.execute(text(select))):
                num_changed += connection.execute(text(update), {"new": new, "identity": identity}).rowcount
    return num_changed


def _rewritten(rows: Any) -> Iterator[tuple[Any, str]]:
    for identity, address in rows.all():
        if found := EARLIER.match(unquote(address)):
            yield identity, f"{SCHEME}:/{found['rest']}"
