"""A loaded language model: what every module between the engine and the public class works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import numpy as np

from ..config import Config
from ..errors import ConfigError, TokenizerError
from . import _engine
from .checks import check_integer
from .crossing import Encoded, check_given
from .origins import pickled, takes_weights
from .prefixes import NothingKept
from .prompts import token_ids
from .roles import check_language_model, check_predicts_tokens
from .threads import check_threads

if TYPE_CHECKING:
    from ..tokenizer.base import Tokenizer
    from .prefixes import Prefixes

__all__ = ["LoadedModel"]


class LoadedModel:
    """Weights, configuration and tokenizer of one model, and what follows from all three.

    Generation, scoring, introspection and the views take a LoadedModel; :class:`gpt2c.GPT2` adds the public
    methods. It may be used from several Python threads at once.

    Parameters
    ----------
    weights : Weights
    tokenizer : Tokenizer, optional
    threads : int, optional
        1 to 1024; the default is OMP_NUM_THREADS, else the physical cores this process may use.
    name : str
        The source of the model.
    notes : iterable of str
        What was read from the checkpoint, and what was ignored.
    generation_config : mapping, optional
        The checkpoint's own defaults for generation.
    cache_dtype : str, optional
        The format in which new caches keep keys and values: "float32", "float16" or "bfloat16"; None: the one
        that goes with the weights.
    no_tokenizer : str
        Why it has no tokenizer, for the error when one is needed.
    source_sha256 : function
        Computes the hash of the files the weights were read from; "" if they did not come from a file.
    origin : mapping, optional
        The arguments of ``from_pretrained`` that load the model; a pickle holds these.
    """

    model_type: ClassVar[str | None] = None
    """The model type of this class; None: any."""

    @takes_weights
    def __init__(
        self,
        weights: _engine.Weights,
        tokenizer: Tokenizer | None = None,
        *,
        threads: int | None = None,
        name: str = "GPT-2",
        notes: Iterable[str] = (),
        generation_config: Mapping[str, Any] | None = None,
        cache_dtype: str | None = None,
        no_tokenizer: str = "",
        source_sha256: Callable[[], str] = str,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.weights = weights
        self.config: Config = weights.config
        self.name = name
        self.notes = list(notes)
        self.generation_config = dict(generation_config or {})
        self.threads = threads
        self.cache_dtype = cache_dtype
        self.prefixes: Prefixes = NothingKept()
        self.cross: Encoded | None = None  # set by `given` from the output of an encoder
        self.source_sha256 = source_sha256
        self._origin = origin
        self._tokenizer = tokenizer
        self._no_tokenizer = (
            no_tokenizer or "this model has no tokenizer: pass token ids, or load it with a tokenizer"
        )

    # ---- what the model is

    @property
    def threads(self) -> int:
        """The number of threads a call uses, 1 to 1024; may be set (None: the default)."""
        return self._threads

    @threads.setter
    def threads(self, threads: int | None) -> None:
        self._threads = check_threads(threads)

    @property
    def dtype(self) -> str:
        """The number format of the weights of dense layers: "float32", "bfloat16", "int8" or "int4"."""
        return self.weights.dtype

    @property
    def cache_dtype(self) -> str:
        """The number format of new caches; may be set (None: the one that goes with the weights)."""
        return self._cache_dtype

    @cache_dtype.setter
    def cache_dtype(self, dtype: str | None) -> None:
        if dtype is None:
            dtype = _engine.DEFAULT_CACHE_DTYPES[self.dtype]
        if dtype not in _engine.CACHE_DTYPES:
            allowed = " or ".join(map(repr, _engine.CACHE_DTYPES))
            raise ValueError(f"cache_dtype must be {allowed}, not {dtype!r}")
        self._cache_dtype = dtype

    @property
    def backend(self) -> str:
        """Which arithmetic the dense layers use: "native" or "blas"."""
        return self.weights.backend

    @property
    def numerics(self) -> str:
        """Everything besides the weights that results depend on: dtypes, back end, version of the arithmetic.

        With bfloat16 also the instruction set, if it has its own bfloat16 arithmetic.
        """
        usual = self.cache_dtype == _engine.DEFAULT_CACHE_DTYPES[self.dtype]
        cache = "" if usual else f"-cache-{self.cache_dtype}"
        own = "bfloat16" in (self.dtype, self.cache_dtype) and self.weights.isa in _engine.OWN_BFLOAT16
        dtype = f"{self.dtype}-{self.weights.isa}" if own else self.dtype
        return f"{dtype}-{self.backend}-{_engine.NUMERICS_VERSION}{cache}"

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model can turn text into tokens and back."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; without one, a TokenizerError that says why."""
        if self._tokenizer is None:
            raise TokenizerError(self._no_tokenizer)
        return self._tokenizer

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's Jinja template that writes a dialogue as one text, or None."""
        return None if self._tokenizer is None else self._tokenizer.chat_template

    @property
    def bos_token_id(self) -> int:
        """The token that starts a text: the configuration's bos, else its first eos.

        GPT-2 has one token, <|endoftext|>, for both. Raises ConfigError if there is neither.
        """
        if self.config.bos_token_id is not None:
            return self.config.bos_token_id
        if self.config.eos_token_ids:
            return self.config.eos_token_ids[0]
        raise ConfigError(
            "the configuration names neither a bos_token_id nor an eos_token_id that the model has, so "
            "no token starts a text: give a prompt that is not empty, and score with "
            "bos=False (--no-bos) or bos=ID (--bos ID)"
        )

    def check_language_model(self) -> None:
        """Raise ConfigError unless the model predicts the next token."""
        check_language_model(self.config, self.name, self.cross)

    @property
    def mask_token_id(self) -> int:
        """The mask token, such as [MASK]; without one, a TokenizerError."""
        found = self.tokenizer.mask_id
        if found is None or found >= self.config.n_vocab:
            raise TokenizerError(
                f"the tokenizer {self.tokenizer.name} has no mask token that the model knows, such as "
                "[MASK]: set mask_token in tokenizer_config.json"
            )
        return found

    @property
    def start_ids(self) -> tuple[int, ...]:
        """The ids that start a text: those the tokenizer puts there, else `bos_token_id`."""
        prefix = () if self._tokenizer is None else self._tokenizer.prefix
        return prefix or (self.bos_token_id,)

    @property
    def n_text_tokens(self) -> int:
        """The number of ids, from 0, that the model may generate.

        Ids past the tokenizer's end, which pad the embedding in some models, are left out.
        """
        n_vocab = self.config.n_vocab
        return n_vocab if self._tokenizer is None else min(n_vocab, self._tokenizer.n_vocab)

    def memory_plan(self) -> dict[str, int]:
        """Memory in bytes: weights once; a cache and a row of logits for every running text.

        Examples
        --------
        >>> model.memory_plan()["cache_full_context"], model.memory_plan()["logits_per_row"]
        (6291456, 16384)
        """
        # Room for the whole context; pages are committed on first use.
        full = _engine.KVCache(self.weights, None, self.cache_dtype).nbytes
        plan = {
            "weights": self.weights.nbytes,
            "cache_per_token": -(-full // self.config.n_ctx),
            "cache_full_context": full,
            "logits_per_row": 4 * self.config.n_vocab,
        }
        plan["one_text_of_full_context"] = plan["weights"] + full + plan["logits_per_row"]
        return plan

    def __repr__(self) -> str:
        c = self.config
        return (
            f"<{type(self).__name__} {self.name}: {c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, "
            f"context {c.n_ctx}, vocabulary {c.n_vocab}; "
            f"{self.dtype}, {self.backend}, {self.threads} thread{'s' * (self.threads != 1)}>"
        )

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        """A TypeError: calling a model is ambiguous here; in other libraries it is the forward pass."""
        raise TypeError(
            f"a {type(self).__name__} cannot be called: use generate, score or suggest for texts, or forward "
            "for the logits of token ids"
        )

    # ---- copies

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle records where the model comes from, and loads it again: it holds no weights."""
        if self.cross is not None:
            raise TypeError(
                "a model with the output of an encoder cannot be pickled: pickle the two apart, and call "
                "given again"
            )
        return pickled(self, self.threads, self._origin, cache_dtype=self.cache_dtype)

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with the same weights and tokenizer, which never change."""
        other = memo[id(self)] = copy(self)
        shared = (self.weights, self._tokenizer, self._origin, self.prefixes, self.cross)
        memo.update({id(part): part for part in shared})
        other.__dict__.update(deepcopy(self.__dict__, memo))
        return other

    # ---- tokens

    def token_bytes(self, token: int) -> bytes:
        """The text of a token as bytes; empty for a token without text, or without a tokenizer.

        Examples
        --------
        >>> model.token_bytes(635)
        b' king'
        """
        if self._tokenizer is None or token >= self.n_text_tokens:
            return b""
        return self._tokenizer.token_bytes(token)

    def token_text(self, token: int) -> str:
        """The text of a token for display; bytes that are not UTF-8 by themselves appear as ``\\xe5``.

        Examples
        --------
        >>> model.token_text(635)
        ' king'
        """
        return self.token_bytes(token).decode("utf-8", "backslashreplace")

    def encode(self, prompts: Sequence[Any], *, special: bool = False) -> list[np.ndarray]:
        """The token ids of prompts, int32 [at least 1] each, checked.

        A string gets the tokens that the tokenizer puts before a text, and none of those it puts after one;
        an empty string is the start of a text. With ``special``, special tokens are recognized in strings.

        Raises
        ------
        TypeError, ValueError
            A prompt is neither a string nor token ids, or has an id that the model does not have.

        Examples
        --------
        >>> model.encode(["The king", ""])
        [array([335, 635], dtype=int32), array([0], dtype=int32)]
        """
        if isinstance(prompts, str):
            raise TypeError("encode takes a list of prompts: encode([text])[0] has the token ids of one")
        arrays = []
        for index, prompt in enumerate(prompts):
            name = f"prompt {index}" if len(prompts) > 1 else "the prompt"
            if isinstance(prompt, str):
                before = list(self.tokenizer.prefix)
                ids = self.tokenizer.encode(prompt, special)
                if special and self.is_written_out(before, prompt, ids):
                    before = []
                prompt = [*before, *ids] or self.start_ids
            arrays.append(token_ids(prompt, self.config.n_vocab, name))
        return arrays

    def is_written_out(self, start: Sequence[int], text: Any, ids: Sequence[int]) -> bool:
        """Whether the tokens ``ids`` of a text start with the special tokens ``start``, written in it."""
        if not start or tuple(ids[: len(start)]) != tuple(start):
            return False
        # The unknown token does not count.
        return not isinstance(text, str) or text.lstrip().startswith(self.tokenizer.decode(start[:1]).strip())

    def encode_text(
        self, text: Any, name: str, *, special: bool = False, continued: bool = False
    ) -> np.ndarray:
        """The token ids of a text, or the given token ids: int32 [n], checked.

        Without the tokens that the tokenizer puts around a text; before a ``continued`` one, which follows
        another, also without a space. Errors call the text ``name``.
        """
        if isinstance(text, str) and text:
            text = self.tokenizer.encode(text, special, continued=continued)
        empty = text.shape == (0,) if isinstance(text, np.ndarray) else text in ("", [], ())
        return np.empty(0, np.int32) if empty else token_ids(text, self.config.n_vocab, name)

    # ---- the forward pass

    def new_cache(self, n_ctx: int | None = None) -> _engine.KVCache:
        """An empty cache with room for ``n_ctx`` tokens, 1 to the model's context, which is the default.

        ``len(cache)`` is the number of tokens in it, ``cache.truncate(n)`` keeps the first n,
        ``cache.fork()`` copies.

        Examples
        --------
        >>> cache = model.new_cache()
        >>> logits = model.forward([464, 1445], cache)
        >>> len(cache)
        2
        """
        if n_ctx is not None:
            n_ctx = check_integer("n_ctx", n_ctx, 1, self.config.n_ctx, note=", the model's context")
        check_given(self.config, self.name, self.cross)
        return _engine.KVCache(self.weights, n_ctx, self.cache_dtype, cross=self.cross and self.cross.keys)

    def forward(
        self,
        ids: list[int] | tuple[int, ...] | np.ndarray,
        cache: _engine.KVCache | None = None,
        *,
        types: list[int] | tuple[int, ...] | np.ndarray | None = None,
        logits_to_keep: int = 0,
    ) -> np.ndarray:
        """Compute the logits that follow each of ``ids``; for a BERT, those at the position of each.

        Parameters
        ----------
        ids : list, tuple or array of int, [n]
            At least one token id.
        cache : KVCache, optional
            The tokens before ``ids``, which are added to it. None: there are none, as always for a BERT.
        types : list, tuple or array of int, [n], optional
            The token types of a BERT: 0 for a text and the first of a pair, 1 for the second. None: all 0.
        logits_to_keep : int
            0: the logits of all n tokens; m: those of the last m.

        Returns
        -------
        np.ndarray, float32 [n or min(m, n), n_vocab]

        Raises
        ------
        ContextLengthError
            The tokens do not fit after those in the cache; the cache is unchanged.

        Examples
        --------
        >>> model.forward([464, 1445], logits_to_keep=1).shape
        (1, 4096)
        """
        check_predicts_tokens(self.config, self.name)
        keep = check_integer("logits_to_keep", logits_to_keep, 0, note=" (0 keeps all)")
        if isinstance(ids, str):
            raise TypeError("forward takes token ids, not text: use model.tokenizer.encode(text) first")
        empty = "at least one is needed: a text starts with model.start_ids"
        tokens = token_ids(ids, self.config.n_vocab, "ids", empty=empty)
        if cache is not None and self.config.is_bert:
            raise ValueError("a BERT reads a text as a whole: pass all of it, without a cache")
        if cache is None:
            cache = self.new_cache(min(len(tokens), self.config.n_ctx))
        given = None if types is None else token_ids(types, self.config.n_types, "types")
        return _engine.forward(self.weights, [(cache, tokens, given)], keep=keep, threads=self.threads)
