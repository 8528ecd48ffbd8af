"""The state shared by a server's endpoints: the model, the scheduler, the settings and the metrics."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from .rendering import Renderer
from .sessions import Sessions

if TYPE_CHECKING:
    from ..bert import BERT
    from ..model import GPT2
    from ..session.scheduler import Scheduler
    from .metrics import Metrics

__all__ = ["Settings", "State", "client_of"]


@dataclass(frozen=True)
class Settings:
    """Access to a server, and the limits of requests; times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Any of these grants access; without any, no key is required."""
    allow_origins: tuple[str, ...] = ()
    """Pages of other sites that may use the server, such as "https://example.org"."""

    max_body: int = 1 << 20
    max_header: int = 16 << 10
    header_seconds: float = 5.0
    body_seconds: float = 10.0
    write_seconds: float = 10.0
    """How long a client may leave its response unread."""
    keep_alive_seconds: float = 30.0
    request_seconds: float = 60.0
    drain_seconds: float = 10.0
    max_connections: int = 512

    max_n: int = 8
    """Maximum of n and of best_of."""
    max_logprobs: int = 20
    max_texts: int = 64
    max_tokens: int | None = None
    """For all texts together; None: the scheduler's default."""
    max_waiting: int = 64


class State:
    """The state shared by the endpoints; see `State.of`.

    Parameters
    ----------
    model : GPT2 or BERT
    scheduler : Scheduler
    settings : Settings
    metrics : Metrics
    """

    def __init__(
        self, model: GPT2 | BERT, scheduler: Scheduler, settings: Settings, metrics: Metrics
    ) -> None:
        self.model, self.scheduler, self.settings, self.metrics = model, scheduler, settings, metrics
        self.sessions = Sessions(scheduler.counts.max_tokens // 4)
        self.renderer = Renderer()
        self.ending = False
        """Whether the server is shutting down."""
        self.created = int(time.time())
        short = Path(model.name).name.removesuffix(".gpt2c") if os.path.exists(model.name) else model.name
        self.model_id = re.sub(r"[^\w./-]+", "-", short)
        """The model's name in answers."""
        self.model_ids = frozenset({self.model_id, model.name, "gpt2c"})
        """Its names in requests."""

    @staticmethod
    def of(request: HTTPConnection) -> State:
        """The state of the server that received a request."""
        state: State = request.app.state.gpt2c
        return state


def client_of(request: HTTPConnection, user: str = "") -> str:
    """The client, for fair sharing: the number of its key, or else the address; and the user."""
    client: str = request.scope.get("gpt2c.client", "")
    return f"{client} {user}" if user else client
