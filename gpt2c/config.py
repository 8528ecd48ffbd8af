"""The shape of a model and its switches: sizes, activation, scaling, special tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .errors import ConfigError, shown

__all__ = ["ACTIVATIONS", "MODEL_TYPES", "POOLINGS", "Config", "Head", "Pooling", "Setting"]

ACTIVATIONS = ("gelu", "gelu_new", "quick_gelu", "relu", "silu", "tanh")

# The largest sizes accepted: well above every GPT-2, and small enough that no product of two overflows.
_LIMITS = {
    "n_layer": 1_000,
    "n_head": 65_536,
    "n_kv_head": 65_536,
    "n_embd": 65_536,
    "n_inner": 1_048_576,
    "n_ctx": 1_048_576,
    "n_vocab": 4_194_304,
    "n_types": 1_024,
}
MODEL_TYPES = ("gpt2", "bert")
POOLINGS = ("mean", "cls", "last", "max", "mean_sqrt_len", "weighted_mean")
_FLAGS = (
    "add_cross_attention",
    "masked_head",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "tie_word_embeddings",
)
# Fields with another name in config.json: errors give both.
_KEYS = {"n_ctx": "n_positions", "n_vocab": "vocab_size", "activation": "activation_function"}


class Setting(NamedTuple):
    """One line of :attr:`Config.report`: a key of ``config.json`` and what became of it."""

    key: str
    value: Any  # as given, or the default
    status: str  # "honoured", "default" (not given), "ignored" or "unknown" (ignored too)
    note: str = ""  # why, or what it was turned into


@dataclass(frozen=True)
class Head:
    """A head besides, or in place of, the language model's. Immutable and checked.

    Attributes
    ----------
    kind : str
        "sequence": labels a text; "token": labels every token; "choice": scores how well a text fits, beside
        the language model's head.
    labels : tuple of str
        The names of the labels, by id; none for a "choice".
    problem : str
        What the logits of a "sequence" mean. "single": exactly one label is true; "multi": each may be;
        "regression": they are numbers.
    pad_token_id : int or None
        The token that pads batches: a "sequence" is classified at its last token that is not this one.
    pooled : bool
        For a "sequence": whether the first token passes through a dense layer as wide as the model and
        ``activation`` before it is classified, as in BERT.
    activation : str or None
        For a "choice": "tanh" or None. With ``pooled``: "tanh" or "relu".
    """

    kind: str
    labels: tuple[str, ...] = ()
    problem: str = "single"
    pad_token_id: int | None = None
    activation: str | None = None
    pooled: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "kind": ("sequence", "token", "choice"),
            "problem": ("single", "multi", "regression"),
            "activation": ("tanh", "relu") if self.pooled else (None, "tanh"),
            "pooled": (False, True) if self.kind == "sequence" else (False,),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise _error(name, getattr(self, name), f"one of {', '.join(map(repr, values))}")
        labels = self.labels
        if not isinstance(labels, (tuple, list)) or not all(isinstance(label, str) for label in labels):
            raise _error("labels", labels, "a tuple of str")
        object.__setattr__(self, "labels", tuple(labels))
        if (self.kind == "choice") == bool(labels):
            raise _error("labels", labels, "none for a choice, else at least one")
        seen: set[str] = set()
        for label in labels:
            if label in seen:
                raise ConfigError(
                    f"two labels have the name {shown(label)}; give each label a different name"
                )
            seen.add(label)
        if self.pad_token_id is not None and not _is_int(self.pad_token_id):
            raise _error("pad_token_id", self.pad_token_id, "a token id or null")

    def shapes(self, n_embd: int) -> dict[str, tuple[int, ...]]:
        """The names and shapes of its tensors, in a model of this width."""
        n = len(self.labels)
        classifier = {"classifier.weight": (n, n_embd), "classifier.bias": (n,)}
        if self.pooled:
            return {"pooler.weight": (n_embd, n_embd), "pooler.bias": (n_embd,), **classifier}
        if self.kind == "sequence":
            return {"score.weight": (n, n_embd)}
        if self.kind == "token":
            return classifier
        return {
            "multiple_choice_head.summary.weight": (1, n_embd),
            "multiple_choice_head.summary.bias": (1,),
        }


@dataclass(frozen=True)
class Pooling:
    """How a model of sentence-transformers makes one vector of a text. Immutable and checked.

    Attributes
    ----------
    mode : str
        How the last hidden states are pooled: one of `POOLINGS`, see :meth:`gpt2c.BERT.embed`.
    normalize : bool
        Whether vectors are scaled to length 1.
    max_tokens : int or None
        Longer texts are cut to this many tokens.
    lower : bool
        Whether texts are lower-cased first.
    problem : str
        What gpt2c does not support of it, if anything; computing embeddings then raises this as an error.
    """

    mode: str = "mean"
    normalize: bool = False
    max_tokens: int | None = None
    lower: bool = False
    problem: str = ""

    def __post_init__(self) -> None:
        if self.mode not in POOLINGS:
            raise _error("pooling", self.mode, f"one of {', '.join(POOLINGS)}")
        for name in ("normalize", "lower"):
            if not isinstance(getattr(self, name), bool):
                raise _error(name, getattr(self, name), "true or false")
        if self.max_tokens is not None and (not _is_int(self.max_tokens) or self.max_tokens < 1):
            raise _error("max_seq_length", self.max_tokens, "an integer of at least 1, or null")
        if not isinstance(self.problem, str):
            raise _error("problem", self.problem, "a text")


@dataclass(frozen=True)
class Config:
    """The shape and the switches of one model. Immutable; every value is checked on construction.

    Attributes
    ----------
    model_type : str
        "gpt2": every token sees those before it, and each part of a layer reads the LayerNorm of the
        residual stream (pre-norm). "bert": every token sees the whole text, and LayerNorm follows each sum of
        the residual stream and a part's output, as it follows the embedding (post-norm).
    n_layer, n_head, n_embd, n_inner, n_ctx, n_vocab : int
        Layers, attention heads, width, width of the feed-forward layer (``None`` becomes ``4 * n_embd``),
        positions, vocabulary. ``n_head`` must divide ``n_embd``.
    n_kv_head : int
        Heads of keys and values: ``n_head`` (the default, ``None``), or 1 that all heads share, as in models
        of type gpt_bigcode (multi-query attention: Shazeer, "Fast Transformer Decoding", 2019).
    activation : str
        "gelu_new", "gelu", "quick_gelu", "relu", "silu" or "tanh".
    layer_norm_epsilon : float
        Added to the variance in every LayerNorm; from 1e-37 to 1.
    scale_attn_weights, scale_attn_by_inverse_layer_idx : bool
        See :meth:`attention_scale`.
    reorder_and_upcast_attn : bool
        Attention in float32. Honoured either way: gpt2c's attention is always in float32.
    tie_word_embeddings : bool
        The head uses the token embedding ``wte``; if False it has its own matrix, ``lm_head.weight``.
    bos_token_id : int or None
        The token that unconditional generation starts from.
    eos_token_ids : tuple of int
        The tokens that end a text; may be empty.
    head : Head or None
        A head for tasks other than the next token. One that labels texts or tokens replaces the language
        model's head: ``tie_word_embeddings`` is then true, as no matrix is stored.
    n_types : int
        Token types of a BERT, which tell the sentences of a pair apart; 0 if it has no such embedding.
    masked_head : bool
        Whether a BERT has the head that predicts tokens: a dense layer, the activation and LayerNorm, the
        matrix of ``tie_word_embeddings``, and a bias.
    add_cross_attention : bool
        Whether the layers of a GPT-2 also attend to the output of an encoder of the same width.
    pooling : Pooling or None
        How texts become vectors, if the model's files specify it.
    report : tuple of Setting
        What became of every key of ``config.json``; empty if the object was not made from one.

    Raises
    ------
    ConfigError
        An invalid value; the message names the field, what was given and what is allowed.

    Examples
    --------
    >>> from gpt2c import Config
    >>> config = Config(n_layer=2, n_head=2, n_embd=8, n_inner=None, n_ctx=16, n_vocab=100)
    >>> config.n_inner, config.head_dim, config.n_parameters
    (32, 4, 2688)
    """

    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_ctx: int
    n_vocab: int
    activation: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    head: Head | None = None
    n_kv_head: int = None  # type: ignore[assignment]  # becomes n_head
    model_type: str = "gpt2"
    n_types: int = 0
    masked_head: bool = False
    add_cross_attention: bool = False
    pooling: Pooling | None = None
    report: tuple[Setting, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.n_inner is None:
            _check_size("n_embd", self.n_embd)
            object.__setattr__(self, "n_inner", 4 * self.n_embd)
        if self.n_kv_head is None:
            object.__setattr__(self, "n_kv_head", self.n_head)
        for name in _LIMITS:
            _check_size(name, getattr(self, name), 0 if name == "n_types" else 1)
        if self.n_embd % self.n_head:
            raise ConfigError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        self._check_kv_heads()
        self._check_model_type()
        if self.activation not in ACTIVATIONS:
            raise _error("activation", self.activation, f"one of {', '.join(ACTIVATIONS)}")
        epsilon = self.layer_norm_epsilon
        if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 1e-37 <= epsilon <= 1:
            raise _error(
                "layer_norm_epsilon", epsilon, "a number from 1e-37 (it must not vanish in float32) to 1"
            )
        object.__setattr__(self, "layer_norm_epsilon", float(epsilon))
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise _error(name, getattr(self, name), "true or false")
        if self.is_classifier and not self.tie_word_embeddings:
            raise ConfigError(
                "tie_word_embeddings is false; a classifier has no head for tokens and allows only true"
            )
        if not isinstance(self.eos_token_ids, (tuple, list)):
            raise _error("eos_token_ids", self.eos_token_ids, "a tuple of token ids")
        object.__setattr__(self, "eos_token_ids", tuple(self.eos_token_ids))
        given = [("eos_token_ids", token) for token in self.eos_token_ids]
        if self.bos_token_id is not None:
            given.append(("bos_token_id", self.bos_token_id))
        for name, token in given:
            if not _is_int(token) or not 0 <= token < self.n_vocab:
                raise _error(name, token, f"token ids from 0 to {self.n_vocab - 1}")

    def _check_model_type(self) -> None:
        """Refuse settings that models of this type do not have."""
        if self.model_type not in MODEL_TYPES:
            raise _error("model_type", self.model_type, f"one of {', '.join(MODEL_TYPES)}")
        of_gpt2 = ("add_cross_attention", "is_multi_query", "scale_attn_by_inverse_layer_idx")
        for name in of_gpt2 if self.is_bert else ("n_types", "masked_head"):
            if getattr(self, name):
                raise ConfigError(
                    f"{name} is {shown(getattr(self, name))}, which no model of type "
                    f'"{self.model_type}" has; leave it out'
                )
        if self.is_bert and not self.masked_head and not self.tie_word_embeddings:
            raise ConfigError(
                "tie_word_embeddings is false; only true is allowed for a BERT that predicts no tokens "
                "(masked_head is false)"
            )
        if self.add_cross_attention and (self.is_multi_query or self.head is not None):
            raise ConfigError(
                "add_cross_attention is true; allowed only for a language model in which every head has its "
                "own keys and values"
            )

    def _check_kv_heads(self) -> None:
        """Refuse a number of key and value heads that no model has, alone or with other settings."""
        if self.n_kv_head not in (1, self.n_head):
            raise ConfigError(
                f"n_kv_head is {self.n_kv_head}; allowed: {self.n_head} (n_head), or 1 for all heads"
            )
        if self.is_multi_query and self.scale_attn_by_inverse_layer_idx:
            raise ConfigError(
                "scale_attn_by_inverse_layer_idx is true; where all heads share keys and values (n_kv_head "
                "1) only false is allowed"
            )
        if self.is_multi_query and self.head is not None and self.head.kind == "choice":
            raise ConfigError(
                "head is that of a choice; where all heads share keys and values (n_kv_head 1), allowed: "
                "one that labels texts or tokens, or none"
            )

    @property
    def is_bert(self) -> bool:
        """Whether ``model_type`` is "bert"."""
        return self.model_type == "bert"

    @property
    def is_multi_query(self) -> bool:
        """Whether several attention heads share one head of keys and values."""
        return self.n_kv_head < self.n_head

    @property
    def n_qkv(self) -> int:
        """The width of queries, keys and values side by side, ``n_embd + 2 * n_kv_head * head_dim``."""
        return self.n_embd + 2 * self.n_kv_head * self.head_dim

    @property
    def head_dim(self) -> int:
        """The width of one attention head, ``n_embd / n_head``."""
        return self.n_embd // self.n_head

    @property
    def is_classifier(self) -> bool:
        """Whether it labels texts or tokens, and so is not a language model."""
        return self.head is not None and self.head.kind != "choice"

    @property
    def n_parameters(self) -> int:
        """Weights and biases of the whole model; a head that is tied to the embedding counts once."""
        attention = (self.n_embd + 1) * (self.n_qkv + self.n_embd)
        layer = attention + 2 * self.n_embd * self.n_inner + 5 * self.n_embd + self.n_inner
        if self.add_cross_attention:
            layer += 4 * self.n_embd * (self.n_embd + 1) + 2 * self.n_embd
        rows = self.n_vocab * (1 if self.tie_word_embeddings else 2) + self.n_ctx + self.n_types
        head = {} if self.head is None else self.head.shapes(self.n_embd)
        masked = self.n_embd * (self.n_embd + 3) + self.n_vocab if self.masked_head else 0
        total = self.n_layer * layer + (rows + 2) * self.n_embd
        return total + masked + sum(map(math.prod, head.values()))

    def attention_scale(self, layer: int) -> float:
        """The factor on the attention scores ``q . k`` of a layer, counted from 0.

        ``1 / sqrt(head_dim)`` if ``scale_attn_weights`` else 1; with ``scale_attn_by_inverse_layer_idx`` also
        divided by ``layer + 1``.

        Parameters
        ----------
        layer : int
            From 0.

        Examples
        --------
        >>> model.config.head_dim, model.config.attention_scale(0)
        (64, 0.125)
        """
        scale = 1 / math.sqrt(self.head_dim) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_size(name: str, value: Any, least: int = 1) -> None:
    if not _is_int(value) or not least <= value <= _LIMITS[name]:
        raise _error(name, value, f"an integer from {least} to {_LIMITS[name]}")


def _error(name: str, value: Any, allowed: str) -> ConfigError:
    label = f"{_KEYS[name]} ({name})" if name in _KEYS else name
    return ConfigError(f"{label} is {shown(value)}; allowed: {allowed}")
