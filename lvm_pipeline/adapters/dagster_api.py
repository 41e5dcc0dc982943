"""What the services need to know from a running Dagster web server, asked through its GraphQL interface."""

import json
import urllib.request
from typing import Any

import psycopg

from lvm_pipeline.errors import LvmError

ANSWER_SECONDS = 10
STATE_QUERY = """query {
  workspaceOrError { ... on Workspace { locationEntries {
    locationOrLoadError { __typename ... on PythonError { message } } } } }
  instance { daemonHealth { allDaemonStatuses { required healthy } } }
}"""
CANCEL_MUTATION = """mutation($ids: [String!]!) {
  terminateRuns(runIds: $ids, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { __typename }
}"""
# Dagster 1.13 marks a run that a code server executes with this tag, which GraphQL does not show.
RUNS_OF_CODE_SERVERS = """
SELECT runs.run_id FROM runs JOIN run_tags ON run_tags.run_id = runs.run_id
WHERE run_tags.key = '.dagster/grpc_info' AND runs.status IN ('STARTING', 'STARTED', 'CANCELING')
"""


def has_loaded_definitions(address: str) -> bool:
    """Whether the web server answers and has loaded the definitions.

    Raises:
        LvmError: If they cannot be loaded.
    """
    state = ask(address, STATE_QUERY)
    if state is None:
        return False
    entries = state["workspaceOrError"].get("locationEntries", [])
    results = [entry["locationOrLoadError"] or {} for entry in entries]
    for result in results:
        if result.get("__typename") == "PythonError":
            raise LvmError(f"Dagster cannot load the definitions: {result['message'].strip().splitlines()[0]}")
    return bool(results) and all(result.get("__typename") == "RepositoryLocation" for result in results)


def has_healthy_daemons(address: str) -> bool:
    """Whether every daemon that the instance needs has sent its heartbeat."""
    state = ask(address, STATE_QUERY)
    if state is None:
        return False
    statuses = state["instance"]["daemonHealth"]["allDaemonStatuses"]
    return all(status["healthy"] for status in statuses if status["required"])


def cancel_code_server_runs(address: str, *, storage_url: str) -> int:
    """Cancel the unfinished runs that a code server executes or executed; return how many.

    Called before the code server stops and again when a new one has started: a run whose process was killed would
    else count as started, and hold its place in the pool, for ever. Runs of other processes are left alone.
    """
    with psycopg.connect(storage_url.replace("+psycopg2", "", 1)) as connection:
        run_ids = [row[0] for row in connection.execute(RUNS_OF_CODE_SERVERS)]
    if run_ids:
        ask(address, CANCEL_MUTATION, {"ids": run_ids})
    return len(run_ids)


def get(request: str | urllib.request.Request) -> bytes | None:
    """Return the answer of a server on loopback, None while there is none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know our loopback
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as response:
            return response.read()
    except OSError:
        return None


def ask(address: str, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Ask the web server; None while it does not answer."""
    body = json.dumps({"query": query, "variables": variables or {}}).encode()
    headers = {"Content-Type": "application/json"}
    answer = get(urllib.request.Request(f"{address}/graphql", data=body, headers=headers))
    return None if answer is None else json.loads(answer).get("data")
