"""`gpt2c serve`: the model over HTTP, compatible with OpenAI's API."""

from __future__ import annotations

import ctypes
import logging
import signal
from argparse import Namespace

from ..core.crossing import check_given
from ..core.labels import harmless
from ..model import GPT2
from .console import note
from .loading import load_any

__all__ = ["return_memory", "run"]

M_MMAP_THRESHOLD = -3  # malloc.h


def run(arguments: Namespace) -> None:
    """Serve until a signal."""
    try:
        from ..server.serving import bind, make_server
        from ..server.shell import is_loopback
        from ..server.state import Settings
    except ImportError as error:
        raise ImportError(f'gpt2c serve needs more packages: pip install "gpt2c[server]" ({error})') from None
    host = arguments.host
    keys = _keys(arguments.api_key_file) if arguments.api_key_file else ()
    if not keys and not is_loopback(host):
        raise ValueError(
            f"on {host} other machines could use the server: give --api-key-file FILE with a key that they "
            "must send, or serve only this machine, with --host 127.0.0.1"
        )
    return_memory()
    with bind(host, arguments.port) as bound:
        port = bound.getsockname()[1]
        settings = Settings(
            host=host,
            port=port,
            api_keys=keys,
            allow_origins=tuple(arguments.allow_origins),
            request_seconds=arguments.timeout,
            max_texts=arguments.max_texts,
            max_tokens=arguments.max_tokens,
            max_waiting=arguments.max_waiting,
        )
        model = load_any(arguments)
        check_given(model.config, model.name, model.cross)
        if isinstance(model, GPT2):
            model.prefix_cache = None if arguments.prefix_cache == "0" else arguments.prefix_cache
        where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        _log_to_stderr()
        server = make_server(model, settings, lambda: note(f"{model.name}: listening on {where}"))
        server.run([bound])
    if server.signal == signal.SIGINT:
        raise KeyboardInterrupt


def return_memory() -> None:
    """Let blocks of a mebibyte or more, such as caches, go back to the system when they are freed.

    Otherwise glibc soon keeps those of up to 32 MiB in its heaps, whose free parts no other block fits.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 20)


def _keys(path: str) -> tuple[str, ...]:
    """The keys in a file, one per line; empty lines and those that start with # are skipped."""
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ValueError(f"{path} has no key: write one per line")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise ValueError(f"a key in {path} has a space or a character other than ASCII's printable ones")
    return keys


class _Notes(logging.Handler):
    """Log to stderr, like everything that is not a result."""

    def emit(self, record: logging.LogRecord) -> None:
        note(harmless(record.getMessage()))


def _log_to_stderr() -> None:
    logger = logging.getLogger("gpt2c.server")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Notes())
    logger.propagate = False
    # It warns of every event that is written before it reports that a client has disconnected.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
