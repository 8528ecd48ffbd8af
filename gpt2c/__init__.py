"""gpt2c: GPT-2 on CPUs, from checkpoint to text, without a deep-learning framework.

>>> from gpt2c import GPT2
>>> model = GPT2.from_pretrained()                          # the bundled small model, offline
>>> model.generate("Once upon a time", max_new_tokens=20)   # doctest: +SKIP

Importing the package is cheap: NumPy, the compiled core and the tokenizer are loaded with the first name that
needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    CacheInUseError,
    CheckpointError,
    ConfigError,
    ContextLengthError,
    GPT2CError,
    TokenizerError,
    UnsupportedISAError,
)

if TYPE_CHECKING:
    from . import edits
    from ._engine import KVCache
    from .config import Config
    from .generation import Generation, Stream
    from .introspect import ActivationCache
    from .model import GPT2
    from .scoring import Score, Suggestion
    from .tokenizer import as_tokenizer, gpt2_tokenizer
    from .words import Word

__version__ = "0.1.0"

__all__ = [
    "GPT2",
    "ActivationCache",
    "CacheInUseError",
    "CheckpointError",
    "Config",
    "ConfigError",
    "ContextLengthError",
    "GPT2CError",
    "Generation",
    "KVCache",
    "Score",
    "Stream",
    "Suggestion",
    "TokenizerError",
    "UnsupportedISAError",
    "Word",
    "__version__",
    "as_tokenizer",
    "edits",
    "gpt2_tokenizer",
]

_HOMES = {
    "GPT2": "model",
    "ActivationCache": "introspect",
    "Config": "config",
    "Generation": "generation",
    "KVCache": "_engine",
    "Score": "scoring",
    "Stream": "generation",
    "Suggestion": "scoring",
    "Word": "words",
    "as_tokenizer": "tokenizer",
    "gpt2_tokenizer": "tokenizer",
}


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

        if find_spec(f"{__name__}._engine") is not None:
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
