"""Queries of a running Dagster web server, through its GraphQL API."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

import psycopg

from lvm_pipeline.errors import LvmError, first_line
from lvm_pipeline.words import counted

ANSWER_SECONDS = 10
NOT_READY = (502, 503)  # HTTP status while a server starts
STATE_QUERY = """query {
  workspaceOrError { ... on Workspace { locationEntries {
    locationOrLoadError { __typename ... on PythonError { message } } } } }
  instance { daemonHealth { allDaemonStatuses { required healthy } } }
}"""
CANCEL_MUTATION = """mutation($ids: [String!]!) {
  terminateRuns(runIds: $ids, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) {
    __typename
    ... on TerminateRunsResult { terminateRunResults {
      __typename ... on TerminateRunFailure { message } ... on RunNotFoundError { message }
      ... on PythonError { message } } }
    ... on PythonError { message }
  }
}"""
# Dagster 1.13 marks a run that a code server executes with this tag, which GraphQL does not show.
RUNS_OF_CODE_SERVERS = """
SELECT runs.run_id FROM runs JOIN run_tags ON run_tags.run_id = runs.run_id
WHERE run_tags.key = '.dagster/grpc_info' AND runs.status IN ('STARTING', 'STARTED', 'CANCELING')
"""


def has_loaded_definitions(address: str) -> bool:
    """Whether the web server answers and has loaded the definitions. Raises LvmError if they cannot be loaded."""
    state = ask(address, STATE_QUERY)
    if state is None:
        return False
    entries = state["workspaceOrError"].get("locationEntries", [])
    results = [entry["locationOrLoadError"] or {} for entry in entries]
    for result in results:
        if result.get("__typename") == "PythonError":
            raise LvmError(f"Dagster cannot load the definitions: {first_line(result['message'])}")
    return bool(results) and all(result.get("__typename") == "RepositoryLocation" for result in results)


def has_healthy_daemons(address: str) -> bool:
    """Whether every daemon that the instance needs has sent its heartbeat."""
    state = ask(address, STATE_QUERY)
    if state is None:
        return False
    statuses = state["instance"]["daemonHealth"]["allDaemonStatuses"]
    return all(status["healthy"] for status in statuses if status["required"])


def code_server_runs(storage_url: str) -> list[str]:
    """Return the ids of the unfinished runs that code servers execute; none before Dagster has made its tables."""
    with psycopg.connect(storage_url.replace("+psycopg2", "", 1)) as connection:
        try:
            return [row[0] for row in connection.execute(RUNS_OF_CODE_SERVERS)]
        except psycopg.errors.UndefinedTable:
            return []


def cancel_code_server_runs(address: str, *, storage_url: str) -> int:
    """Cancel the unfinished runs of code servers and return how many there were.

    Called before the code server stops and after a new one has started: a run whose process was killed would otherwise
    stay STARTED and keep its slot in the pool. Runs of other processes are not touched.

    Raises:
        LvmError: If the web server does not answer or a run could not be cancelled.
    """
    run_ids = code_server_runs(storage_url)
    if not run_ids:
        return 0
    answer = ask(address, CANCEL_MUTATION, {"ids": run_ids})
    if answer is None:
        raise LvmError(
            f"{counted(len(run_ids), 'unfinished run was', 'unfinished runs were')} "
            "not cancelled: the Dagster web server does not answer."
        )
    result = answer["terminateRuns"]
    results = result.get("terminateRunResults", [result])
    failed = [one for one in results if one["__typename"] != "TerminateRunSuccess"]
    if failed:
        reason = failed[0].get("message") or failed[0]["__typename"]
        raise LvmError(f"{len(failed)} of {len(run_ids)} unfinished runs were not cancelled: {first_line(reason)}")
    return len(run_ids)


class NoAnswerError(LvmError):
    """A server accepted a request and did not answer in time."""


def get(request: str | urllib.request.Request) -> bytes | None:
    """Return the response of a server on loopback, None while it is not ready.

    Raises:
        LvmError: If it answers with an HTTP error.
        NoAnswerError: If it does not answer in time.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach this loopback
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        if error.code in NOT_READY:
            return None
        reason = first_line(error.read().decode(errors="replace"))
        raise LvmError(f"{error.url} answered with HTTP status {error.code}: {reason or error.reason}") from None
    except (OSError, http.client.HTTPException) as error:  # a timeout while connecting is wrapped in a URLError
        if isinstance(getattr(error, "reason", error), TimeoutError):
            url = request if isinstance(request, str) else request.full_url
            raise NoAnswerError(f"{url} does not answer within {ANSWER_SECONDS} s.") from None
        return None


def ask(address: str, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Run a GraphQL query; None while the web server is not ready.

    Raises:
        LvmError: If the query fails, or is not answered in time (`NoAnswerError`).
    """
    body = json.dumps({"query": query, "variables": variables or {}}).encode()
    headers = {"Content-Type": "application/json"}
    response = get(urllib.request.Request(f"{address}/graphql", data=body, headers=headers))
    if response is None:
        return None
    answer = json.loads(response)
    if answer.get("errors"):
        raise LvmError(f"A query of the Dagster web server failed: {first_line(answer['errors'][0]['message'])}")
    return answer["data"]
