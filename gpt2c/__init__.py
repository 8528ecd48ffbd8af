"""gpt2c: GPT-2 on CPUs, from checkpoint to text, without a deep-learning framework.

>>> from gpt2c import GPT2
>>> model = GPT2.from_pretrained()                          # the bundled small model, offline
>>> model.generate("Once upon a time", max_new_tokens=20)   # doctest: +SKIP

Importing the package is cheap: NumPy, the compiled core and the tokenizer are loaded with the first name that
needs them.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    CacheInUseError,
    CheckpointError,
    ConfigError,
    ContextLengthError,
    DeadlineError,
    GPT2CError,
    QueueFullError,
    TokenizerError,
    UnsupportedISAError,
)
from .version import __version__

if TYPE_CHECKING:
    from . import edits
    from .bert import BERT
    from .config import Config
    from .core._engine import KVCache
    from .core.deadline import Deadline
    from .encoder_decoder import EncoderDecoder
    from .generation.results import Generation
    from .generation.streaming import Stream
    from .generation.watermark import WatermarkingConfig, WatermarkScore
    from .heads.results import Choice, Classification, Tagging
    from .introspection.passes import ActivationCache
    from .masks.results import Filled, Filling
    from .model import GPT2
    from .scoring.results import Score, Suggestion
    from .scoring.words import Word
    from .session.scheduler import Scheduler
    from .session.session import Session
    from .tokenizer import as_tokenizer, gpt2_tokenizer

__all__ = [
    "BERT",
    "GPT2",
    "ActivationCache",
    "CacheInUseError",
    "CheckpointError",
    "Choice",
    "Classification",
    "Config",
    "ConfigError",
    "ContextLengthError",
    "Deadline",
    "DeadlineError",
    "EncoderDecoder",
    "Filled",
    "Filling",
    "GPT2CError",
    "Generation",
    "KVCache",
    "QueueFullError",
    "Scheduler",
    "Score",
    "Session",
    "Stream",
    "Suggestion",
    "Tagging",
    "TokenizerError",
    "UnsupportedISAError",
    "WatermarkScore",
    "WatermarkingConfig",
    "Word",
    "__version__",
    "as_tokenizer",
    "edits",
    "gpt2_tokenizer",
]

_HOMES = {
    "BERT": "bert",
    "GPT2": "model",
    "ActivationCache": "introspection.passes",
    "Choice": "heads.results",
    "Classification": "heads.results",
    "Config": "config",
    "Deadline": "core.deadline",
    "EncoderDecoder": "encoder_decoder",
    "Filled": "masks.results",
    "Filling": "masks.results",
    "Generation": "generation.results",
    "KVCache": "core._engine",
    "Score": "scoring.results",
    "Scheduler": "session.scheduler",
    "Session": "session.session",
    "Stream": "generation.streaming",
    "Suggestion": "scoring.results",
    "Tagging": "heads.results",
    "WatermarkScore": "generation.watermark",
    "WatermarkingConfig": "generation.watermark",
    "Word": "scoring.words",
    "as_tokenizer": "tokenizer",
    "gpt2_tokenizer": "tokenizer",
}


def _refuse_subinterpreter() -> None:
    """Raise an ImportError that says what to do: NumPy's is vaguer, and on CPython 3.11 a mere warning."""
    try:
        interpreters = import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    except ImportError:  # this Python has none
        return
    if interpreters.get_current() != interpreters.get_main():
        raise ImportError(
            "gpt2c and NumPy work in the main interpreter only, and this is a subinterpreter: import "
            "gpt2c in the main one (mod_wsgi: WSGIApplicationGroup %{GLOBAL}), or use threads or "
            "processes instead"
        )


_refuse_subinterpreter()


def __getattr__(name: str) -> Any:
    if name == "edits":
        return import_module(f"{__name__}.edits")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gpt2c' has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{home}"), name)
    except ImportError:
        from importlib.util import find_spec

        if find_spec(f"{__name__}.core._engine") is not None:
            raise
        # A clone without its compiled core hides an installed gpt2c when Python starts in the clone's folder.
        raise ImportError(
            f"gpt2c was imported from {__path__[0]}, where its compiled core is not built: run "
            "`pip install -e .` there, or start Python in another folder to use an installed gpt2c"
        ) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
