"""Keep the served model up to date: poll for another one, load it beside the present one, and swap."""

import logging
import threading
from collections.abc import Callable

from lvm_pipeline.serving.model import ServedModel, Source

logger = logging.getLogger(__name__)


class ModelHolder:
    """The model that is served now; requests keep the one that they began with."""

    def __init__(self, find: Callable[[], Source], load: Callable[[Source], ServedModel], *, poll_seconds: float):
        """Load the model that `find` names; `find` is called again every `poll_seconds`."""
        self._find, self._load, self._poll_seconds = find, load, poll_seconds
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.num_reloads = self.num_failures = 0
        self.last_error: str | None = None
        self.current = load(find())

    def start(self) -> None:
        self._thread = threading.Thread(target=self._poll, name="model reload", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def refresh(self) -> None:
        """Look once. A model that cannot be found or loaded leaves the present one in place."""
        try:
            wanted = self._find()
            if wanted != self.current.source:
                self.current = self._load(wanted)
                self.num_reloads += 1
                logger.warning("Now serving %s.", self.current.identity["trial_id"])
            self.last_error = None
        except Exception as error:  # noqa: BLE001 - the thread looks again whatever happens
            self.num_failures += 1
            problem = str(error) or type(error).__name__
            if problem != self.last_error:
                logger.warning("The model is not reloaded: %s", problem)
            self.last_error = problem

    def _poll(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            self.refresh()
