"""Counters and a histogram in Prometheus's text format, for one process."""

import bisect
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Requests by path and status, and the time in the server by path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def observe(self, path: str, status: int, seconds: float) -> None:
        with self._lock:
            self._requests[path, status] += 1
            buckets = self._buckets.setdefault(path, [0] * (len(SECONDS) + 1))
            buckets[bisect.bisect_left(SECONDS, seconds)] += 1
            self._seconds[path] = self._seconds.get(path, 0.0) + seconds

    def text(self, *, gauges: Mapping[str, tuple[str, float]], info: Mapping[str, str | None]) -> str:
        """Return all figures; `gauges` are further ones, each with its meaning, and `info` the labels of the model."""
        with self._lock:
            return "\n".join([*self._request_lines(), *_gauge_lines(gauges), *_info_lines(info), ""])

    def _request_lines(self) -> Iterator[str]:
        yield "# HELP lvm_requests_total Requests by path and status."
        yield "# TYPE lvm_requests_total counter"
        for (path, status), count in sorted(self._requests.items()):
            yield f'lvm_requests_total{{path="{path}",status="{status}"}} {count}'
        yield "# HELP lvm_request_seconds Time in the server, from the first byte of a request to its answer."
        yield "# TYPE lvm_request_seconds histogram"
        for path, buckets in sorted(self._buckets.items()):
            total = 0
            for limit, count in zip((*map(str, SECONDS), "+Inf"), buckets, strict=True):
                total += count
                yield f'lvm_request_seconds_bucket{{path="{path}",le="{limit}"}} {total}'
            yield f'lvm_request_seconds_sum{{path="{path}"}} {self._seconds[path]}'
            yield f'lvm_request_seconds_count{{path="{path}"}} {total}'


def _gauge_lines(gauges: Mapping[str, tuple[str, float]]) -> Iterator[str]:
    for name, (meaning, value) in gauges.items():
        yield f"# HELP {name} {meaning}"
        yield f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
        yield f"{name} {value}"


def _info_lines(info: Mapping[str, str | None]) -> Iterator[str]:
    labels = ",".join(f'{name}="{_escaped(value or "")}"' for name, value in info.items())
    yield "# HELP lvm_model_info The model that is served."
    yield "# TYPE lvm_model_info gauge"
    yield f"lvm_model_info{{{labels}}} 1"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
