"""The errors gpt2c raises on purpose, and how their messages show a value.

Each message says what was given, what is allowed and what to do.
"""

from collections.abc import Iterator
from typing import Any

__all__ = [
    "CacheInUseError",
    "CheckpointError",
    "ConfigError",
    "ContextLengthError",
    "DeadlineError",
    "GPT2CError",
    "QueueFullError",
    "TokenizerError",
    "UnsupportedISAError",
    "counted",
    "shown",
]


class GPT2CError(Exception):
    """Base class of every error that gpt2c raises on purpose.

    Examples
    --------
    >>> try:
    ...     GPT2.from_pretrained("no/such/folder/")
    ... except gpt2c.GPT2CError as error:
    ...     print(error)
    no file or directory is named 'no/such/folder/'
    """


class CheckpointError(GPT2CError, OSError):
    """A model file is missing, damaged, or does not hold the tensors that its configuration asks for.

    Examples
    --------
    >>> GPT2.from_pretrained("no/such/folder/")
    gpt2c.errors.CheckpointError: no file or directory is named 'no/such/folder/'
    """


class ConfigError(GPT2CError, ValueError):
    """A configuration asks for something invalid, or for something gpt2c cannot do.

    Examples
    --------
    >>> gpt2c.Config(n_layer=0, n_head=2, n_embd=8, n_inner=32, n_ctx=16, n_vocab=100)
    gpt2c.errors.ConfigError: n_layer is 0; allowed: an integer from 1 to 1000
    """


class ContextLengthError(GPT2CError, ValueError):
    """A text has more tokens than the model has positions, or than a cache has room for.

    Examples
    --------
    >>> try:
    ...     model.generate("Once upon a time", max_new_tokens=100_000)
    ... except gpt2c.ContextLengthError:
    ...     print("too long")
    too long
    """


class DeadlineError(GPT2CError, TimeoutError):
    """A call reached its deadline or was cancelled before it had a result.

    Examples
    --------
    >>> limit = Deadline()
    >>> limit.cancel()
    >>> model.score("The king", deadline=limit)
    gpt2c.errors.DeadlineError: the call was cancelled before it had a result
    """


class QueueFullError(GPT2CError, RuntimeError):
    """A scheduler's queue of waiting requests is full.

    Examples
    --------
    >>> with model.scheduler(max_texts=1, max_waiting=2) as busy:
    ...     for _ in range(4):
    ...         request = busy.submit("Once upon a time", max_new_tokens=400, eos_token_id=[])
    gpt2c.errors.QueueFullError: 2 requests waiting, the maximum (max_waiting): try again later
    """


class TokenizerError(GPT2CError, ValueError):
    """The tokenizer files are missing, damaged, or of a kind that the base install cannot run exactly.

    Examples
    --------
    >>> try:
    ...     model.mask_token_id
    ... except gpt2c.TokenizerError:
    ...     print("this model has no mask token")
    this model has no mask token
    """


class UnsupportedISAError(GPT2CError, RuntimeError):
    """The requested instruction set is unknown, not compiled in, or missing from this CPU.

    Examples
    --------
    >>> issubclass(gpt2c.UnsupportedISAError, RuntimeError)
    True
    """


class CacheInUseError(GPT2CError, RuntimeError):
    """A KVCache was passed to two calls at once, or twice to one call.

    Examples
    --------
    >>> issubclass(gpt2c.CacheInUseError, RuntimeError)
    True
    """


def shown(value: Any) -> str:
    """A value for a message: on one line, unprintable characters escaped, not too long."""
    text = ""
    try:
        for piece in _pieces(value):
            text += piece
            if len(text) > 80:
                break
    except (RecursionError, ValueError):  # nested too deeply; an integer of more than 4,300 digits
        text = f"a value too long to be shown ({type(value).__name__})"
    return text if len(text) <= 80 else text[:77] + "..."


_BRACKETS: dict[type, str] = {list: "[]", tuple: "()", dict: "{}"}


def _pieces(value: Any) -> Iterator[str]:
    """The output of repr(), piece by piece: for lists in a file that contain one another it may never end."""
    brackets = _BRACKETS.get(type(value))
    if brackets is None:
        yield repr(value)
        return
    yield brackets[0]
    for number, item in enumerate(value):
        yield ", " if number else ""
        yield from _pieces(item)
        if brackets == "{}":
            yield ": "
            yield from _pieces(value[item])
    yield ",)" if brackets == "()" and len(value) == 1 else brackets[1]


def counted(n: int, what: str) -> str:
    """A number and its unit, as in "1 token" or "2000 tokens"."""
    return f"{n} {what}{'s' * (n != 1)}"
