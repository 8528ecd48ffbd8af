"""What the endpoints of a server share: the model, the scheduler, the settings and the metrics."""

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
    """How a server is reached, and what a request may ask for; times are in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Any of these opens the server; without one, nobody is asked for a key."""
    allow_origins: tuple[str, ...] = ()
    """Pages of other sites that may use the server, such as "https://example.org"."""

    max_body: int = 1 << 20
    max_header: int = 16 << 10
    header_seconds: float = 5.0
    body_seconds: float = 10.0
    write_seconds: float = 10.0
    """How long a client may leave unread what it was sent."""
    keep_alive_seconds: float = 30.0
    request_seconds: float = 60.0
    drain_seconds: float = 10.0
    max_connections: int = 512

    max_n: int = 8
    """Of n and of best_of."""
    max_logprobs: int = 20
    max_texts: int = 64
    max_tokens: int | None = None
    """Of all texts together; None: what the scheduler finds."""
    max_waiting: int = 64


class State:
    """What the endpoints share; see `State.of`.

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
        """Whether the server only finishes what it has begun."""
        self.created = int(time.time())
        short = Path(model.name).name.removesuffix(".gpt2c") if os.path.exists(model.name) else model.name
        self.model_id = re.sub(r"[^\w./-]+", "-", short)
        """What the model is called in answers."""
        self.model_ids = frozenset({self.model_id, model.name, "gpt2c"})
        """What it may be called in requests."""

    @staticmethod
    def of(request: HTTPConnection) -> State:
        """The state of the server that got a request."""
        state: State = request.app.state.gpt2c
        return state


def client_of(request: HTTPConnection, user: str = "") -> str:
    """Who asks, for a fair share: the number of the key that was given, or else the address; and the user."""
    client: str = request.scope.get("gpt2c.client", "")
    return f"{client} {user}" if user else client
