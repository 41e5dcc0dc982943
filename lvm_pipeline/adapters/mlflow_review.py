"""Review queues of MLflow: items for raters, one queue per rater, and their answers.

The status of an item is shared by all reviewers of a queue, and without authentication the server does not know who
answered. So every rater has a queue and traces of their own, and an answer belongs to the rater of its trace.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lvm_pipeline.adapters import mlflow_store
from lvm_pipeline.evaluation.preference_study import ANSWERS, QUESTION, Answer
from lvm_pipeline.settings import Settings

INSTRUCTION = (
    "Read the passage, then both texts. Choose the one that continues the passage better, in content and language. "
    "Then mark the item as complete."
)
TRACE_NAME = "Two continuations"
PAGE_SIZE = 100


@dataclass(frozen=True, kw_only=True)
class CreatedQueue:
    """A rater's queue, the trace of each item in the order given, and the review page."""

    queue_id: str
    trace_ids: tuple[str, ...]
    url: str


@dataclass(frozen=True, kw_only=True)
class QueueStatus:
    """Items of a queue by their state."""

    pending: int
    complete: int
    declined: int


def create_experiment(settings: Settings, name: str) -> str:
    """Create the experiment of a study with its question and return its id."""
    from mlflow.genai.label_schemas import InputCategorical

    experiment_id = mlflow_store.experiment_id(settings, name)
    with mlflow_store.store_errors():
        _store(settings).create_label_schema(
            experiment_id=experiment_id,
            name=QUESTION,
            type="feedback",
            input=InputCategorical(options=list(ANSWERS)),
            instruction=INSTRUCTION,
            enable_comment=True,
        )
    return experiment_id


def create_queue(
    settings: Settings, rater: str, items: Sequence[Mapping[str, Any]], *, experiment_id: str, order: Sequence[int]
) -> CreatedQueue:
    """Create a rater's queue with a trace for each item, which shows `passage`, `A` and `B`.

    `order` has the positions of the items in the order in which the rater is shown them.
    """
    store = _store(settings)
    with mlflow_store.store_errors():
        traces = dict(
            zip(order, _create_traces(settings, [items[index] for index in order], experiment_id), strict=True)
        )
        schema = store.get_label_schema_by_name(experiment_id, QUESTION)
        queue = store.create_review_queue(
            experiment_id, name=rater, queue_type="custom", users=[rater], schema_ids=[schema.schema_id]
        )
        store.add_items_to_review_queue(queue.queue_id, item_ids=[traces[index] for index in order])
    return CreatedQueue(
        queue_id=queue.queue_id,
        trace_ids=tuple(traces[index] for index in range(len(items))),
        url=f"{mlflow_store.ui_url(settings)}/#/experiments/{experiment_id}/review-queue",
    )


def queue_status(settings: Settings, queue_id: str) -> QueueStatus:
    """Return how far a rater is."""
    states = [str(item.status) for item in _items(settings, queue_id)]
    return QueueStatus(
        pending=states.count("pending"), complete=states.count("complete"), declined=states.count("declined")
    )


def answers(settings: Settings, queue_id: str) -> dict[str, Answer]:
    """Return the latest answer to each trace of a queue; declined items have none."""
    client, found = mlflow_store.open_client(settings), {}
    for item in _items(settings, queue_id):
        if str(item.status) == "declined":
            continue
        with mlflow_store.store_errors():
            assessments = client.get_trace(item.item_id, display=False).info.assessments
        latest = _latest(assessments)
        if latest is not None:
            found[item.item_id] = latest
    return found


def _latest(assessments: Sequence[Any]) -> Answer | None:
    """Return the last answer to the question that was not corrected since."""
    given = [each for each in assessments if each.name == QUESTION and getattr(each, "valid", True) is not False]
    if not given:
        return None
    last = max(given, key=lambda each: each.last_update_time_ms or 0)
    return Answer(value=str(last.value), is_human=str(last.source.source_type) == "HUMAN")


def _create_traces(settings: Settings, items: Sequence[Mapping[str, Any]], experiment_id: str) -> list[str]:
    """Write one trace for each item and return their ids."""
    import mlflow

    client, trace_ids = mlflow_store.open_client(settings), []
    with _fluent_store(settings):
        for item in items:
            span = client.start_trace(TRACE_NAME, inputs={"passage": item["passage"]}, experiment_id=experiment_id)
            client.end_trace(span.trace_id, outputs={"A": item["A"], "B": item["B"]})
            trace_ids.append(span.trace_id)
        mlflow.flush_trace_async_logging()
    client.get_trace(trace_ids[-1], display=False)  # the export logs its errors; this raises if nothing was stored
    return trace_ids


@contextmanager
def _fluent_store(settings: Settings) -> Iterator[None]:
    """Let MLflow's tracing, which knows one store per process, write to ours while the block runs."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(mlflow_store.tracking_uri(settings))
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def _items(settings: Settings, queue_id: str) -> list[Any]:
    store, items, token = _store(settings), [], None
    with mlflow_store.store_errors():
        while True:
            page = store.list_review_queue_items(queue_id, max_results=PAGE_SIZE, page_token=token)
            items += page
            token = page.token
            if not token:
                return items


def _store(settings: Settings) -> Any:
    """Return the store that has label schemas and review queues."""
    mlflow_store.open_client(settings)
    from mlflow.tracing.client import TracingClient

    return TracingClient(tracking_uri=mlflow_store.tracking_uri(settings)).store
