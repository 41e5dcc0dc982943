"""Ports of the services that `lvm ui` starts, by the variable that sets each."""

from collections.abc import Iterator

from lvm_pipeline.settings import Settings


def service_ports(settings: Settings) -> dict[str, int]:
    ports = {"LVM_DAGSTER_PORT": settings.dagster_port, "LVM_REPORTS_PORT": settings.reports_port}
    if settings.mlflow_tracking_uri is None:
        ports["LVM_MLFLOW_PORT"] = settings.mlflow_port
    return ports


def shared_ports(settings: Settings) -> Iterator[str]:
    """Yield a clause for each port that several services have."""
    ports = service_ports(settings)
    for port in sorted(set(ports.values())):
        same = sorted(name for name in ports if ports[name] == port)
        if len(same) > 1:
            yield f"{' and '.join(same)} {'are both' if len(same) == 2 else 'are all'} {port}"
