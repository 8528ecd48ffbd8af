"""The metrics of a server, for Prometheus."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import HTTPConnection

if TYPE_CHECKING:
    from ..session.scheduler import Scheduler

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one server, in a separate registry.

    Parameters
    ----------
    scheduler : Scheduler
        Reports the running and waiting texts on request.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "gpt2c_requests", "Requests, by endpoint and status", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "gpt2c_request_seconds", "A whole request", ["path"], buckets=_SECONDS, registry=registry
        )
        self.first = Histogram(
            "gpt2c_first_event_seconds", "To the first event of a stream", buckets=_SECONDS, registry=registry
        )
        self.between = Histogram(
            "gpt2c_between_events_seconds", "Between events of a stream", buckets=_SECONDS, registry=registry
        )
        self._tokens = Counter("gpt2c_tokens", "Tokens, by what was done", ["kind"], registry=registry)
        for kind in ("read", "written", "reused"):
            self._tokens.labels(kind)
        for name, count, about in (
            ("running", "running", "Texts that are computed"),
            ("waiting", "waiting", "Requests that wait"),
            ("reserved_positions", "tokens", "Positions that running texts may fill"),
        ):
            gauge = Gauge(f"gpt2c_{name}", about, registry=registry)
            gauge.set_function(partial(attrgetter(f"counts.{count}"), scheduler))

    def count_tokens(
        self, request: HTTPConnection, *, read: int = 0, written: int = 0, reused: int = 0
    ) -> None:
        """Add to the tokens of a request, for the metrics and its line in the log.

        ``read`` are those of prompts and texts, ``written`` those that were generated, and ``reused`` those
        of ``read`` that were not computed again.
        """
        for kind, n in (("read", read), ("written", written), ("reused", reused)):
            self._tokens.labels(kind).inc(n)
        scope = request.scope
        scope["gpt2c.tokens"] = scope.get("gpt2c.tokens", 0) + read + written
