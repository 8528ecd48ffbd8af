"""Tokenizer files as transformers loads them, class by class.

What a tokenizer does depends, besides its files, on the class named in ``tokenizer_config.json``, else in
``config.json``: its constructor's arguments have defaults, and some of them change what ``tokenizer.json``
says. The rules are those of transformers 4.57. If no class is named it is GPT2Tokenizer, as for every model
of the type "gpt2"; classes that are not in the table below change nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ..errors import TokenizerError, shown

__all__ = ["BERT", "Settings", "apply_class", "bert_normalizer", "content", "template"]

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The settings that name a special token, in the order in which transformers adds them."""

_END = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_ANGLED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_BART = _ANGLED | {"sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>"}
_BERT = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
_CLASSIFYING = {"bos_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]", "cls_token": "[CLS]"}
_MASK = {"mask_token": {"content": "<mask>", "lstrip": True, "normalized": False}}
_LATE_MASK = {"mask_token": {"content": "<mask>", "lstrip": True, "normalized": True}}
_SQUARE_MASK = {"mask_token": {"content": "[MASK]", "lstrip": True, "normalized": False}}
_NOT_USED = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]
_ALBERT = _CLASSIFYING | {"unk_token": "<unk>", "pad_token": "<pad>"} | _SQUARE_MASK
_XLNET = _ANGLED | {"sep_token": "<sep>", "pad_token": "<pad>", "cls_token": "<cls>"} | _MASK

_ROBERTA = ("Bart", "Blenderbot", "LED", "Longformer", "Roberta")
_FRAMING = ("Cohere", "Gemma", "GPTNeoX", "Llama")

BERT = ("Bert", "ConvBert", "DistilBert", "Electra", "LayoutLM", "Lxmert", "MobileBert", "SqueezeBert")
"""BertTokenizer under other names."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "Albert": _ALBERT,
    "Bart": _BART | _LATE_MASK,
    "Barthez": _BART | _MASK,
    "BigBird": _ANGLED | {"sep_token": "[SEP]", "pad_token": "<pad>", "cls_token": "[CLS]"} | _SQUARE_MASK,
    "Blenderbot": _BART | _MASK,
    "Bloom": _ANGLED | {"pad_token": "<pad>"},
    "Camembert": _BART | _MASK | {"additional_special_tokens": _NOT_USED},
    "CodeGen": _END,
    "Cohere": {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "unk_token": "<UNK>"}
    | {"add_bos_token": True},
    "DebertaV2": _CLASSIFYING | {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"},
    "GPT2": _END,
    "GPTNeoX": _END | {"add_bos_token": False},
    "GPTSw3": {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "Gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    | {"add_bos_token": True},
    "Herbert": {name: token for name, token in _BART.items() if name not in ("bos_token", "eos_token")}
    | {"mask_token": "<mask>"},
    "LED": _BART | _LATE_MASK,
    "Llama": _ANGLED | {"add_bos_token": True, "add_prefix_space": None},
    "Longformer": _BART | _MASK,
    "OpenAIGPT": {"unk_token": "<unk>"},
    "Qwen2": {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "Reformer": {"eos_token": "</s>", "unk_token": "<unk>"},
    "RemBert": _ALBERT,
    "Roberta": _BART | _MASK,
    "T5": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    | {"extra_ids": 100, "add_prefix_space": None},
    "XLMRoberta": _BART | _MASK,
    "XLNet": _XLNET | {"additional_special_tokens": ["<eop>", "<eod>"]},
    **dict.fromkeys(BERT, _BERT),
}


class Settings(NamedTuple):
    """The class that loads a tokenizer, and its constructor's arguments."""

    tokenizer_class: str
    """Its name in the files; "" if they name none."""
    values: dict[str, Any]

    @classmethod
    def of(cls, name: Any, given: dict[str, Any], directory: Path | None = None) -> Settings:
        """The settings of the class that a file names: those of the files over the class's defaults.

        The defaults of one class depend on the name of the directory.
        """
        if name is not None and not isinstance(name, str):
            raise TokenizerError(f"tokenizer_class must be the name of a class, not {shown(name)}")
        found = cls(name or "", {})
        if found.family == "GPTSw3":
            given = _gptsw3(given, directory)
        values = _DEFAULTS.get(found.family, {}) | given
        extra = values.get("extra_ids", 0)
        if found.family == "T5" and not (type(extra) is int and 0 <= extra <= 10_000):
            raise TokenizerError(f"extra_ids must be an integer from 0 to 10,000, not {shown(extra)}")
        mask = _DEFAULTS.get(found.family, {}).get("mask_token")
        if isinstance(mask, dict) and isinstance(values["mask_token"], str):
            values["mask_token"] = mask | {"content": values["mask_token"]}
        return found._replace(values=values)

    @property
    def family(self) -> str:
        """The class whether fast or slow: "Bert" for BertTokenizerFast."""
        return self.tokenizer_class.removesuffix("Fast").removesuffix("Tokenizer") or "GPT2"

    def of_slow(self) -> Settings:
        """The settings as the classes in Python make them, which read vocab.json + merges.txt.

        They write a special token's name as an object whose flag "normalized" has another default.
        """
        named = {name: value for name, value in self.values.items() if name in _NAMED}
        objects = {
            name: {"content": value, "normalized": True}
            for name, value in named.items()
            if isinstance(value, str) and name != "mask_token"
        }
        return self._replace(values=self.values | objects)

    def special_tokens(self) -> list[Any]:
        """The special tokens that the settings name, as texts or objects, in transformers' order."""
        found = [self.values.get(name) for name in _NAMED]
        more: list[Any] = []
        for name in ("additional_special_tokens", "extra_special_tokens"):
            value = self.values.get(name) or []
            more += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        extra = range(self.values["extra_ids"]) if self.family == "T5" else ()
        if not any("<extra_id_" in (content(token) or "") for token in more):
            more += [f"<extra_id_{index}>" for index in extra]
        return [token for token in found + more if content(token)]


def _gptsw3(given: dict[str, Any], directory: Path | None) -> dict[str, Any]:
    """The arguments of GPTSw3Tokenizer: null means the default, and one model has other defaults."""
    given = {name: value for name, value in given.items() if value is not None}
    if "gpt-sw3-7b" not in str(directory):
        return given
    end, unknown = given.get("eos_token", "<|endoftext|>"), given.get("unk_token", "<unk>")
    return {"bos_token": end, "pad_token": unknown} | given


def content(token: Any) -> str | None:
    """The text of a token written as a string or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def apply_class(description: dict[str, Any], settings: Settings, ids: dict[str, int]) -> None:
    """Change a ``tokenizer.json`` as its class does when it loads it; ``ids`` are the added tokens'."""
    values, family = settings.values, settings.family
    for part in ("pre_tokenizer", "decoder"):
        _modernise(description.get(part))
    step = description.get("pre_tokenizer")
    # Only if it is the only step: inside a sequence it stays. A Metaspace's prepend_scheme stays, too.
    if isinstance(step, dict) and step.get("type") == "ByteLevel":
        asked = values.get("add_prefix_space", False)
        step["add_prefix_space"] = step.get("add_prefix_space", True) if asked is None else bool(asked)
    step = description.get("normalizer")
    if family in BERT and isinstance(step, dict) and step.get("type") == "BertNormalizer":
        step |= bert_normalizer(values)
    step = description.get("post_processor")
    if family in _ROBERTA and isinstance(step, dict):
        arguments = {"add_prefix_space": False, "trim_offsets": True}
        step |= {name: bool(values.get(name, arguments[name])) for name in arguments.keys() & step.keys()}
    if family in _FRAMING:
        before = [values.get("bos_token")] if values.get("add_bos_token") else []
        behind = [values.get("eos_token")] if values.get("add_eos_token") else []
        description["post_processor"] = template(before, behind, ids)


def _modernise(step: Any) -> None:
    """Spell out add_prefix_space of an old file's Metaspace as a prepend_scheme.

    The tokenizers library does so for true, but refuses false without a prepend_scheme.
    """
    for child in (step, *_children(step)):
        old = isinstance(child, dict) and child.get("type") == "Metaspace" and "add_prefix_space" in child
        if old and child["add_prefix_space"] is False:
            child.setdefault("prepend_scheme", "never")


def _children(step: Any) -> list[Any]:
    found = step.get("pretokenizers", step.get("decoders")) if isinstance(step, dict) else None
    return found if isinstance(found, list) else []


def bert_normalizer(values: dict[str, Any]) -> dict[str, Any]:
    """Apply BertTokenizer's settings to its normalizer."""
    return {
        "lowercase": bool(values.get("do_lower_case", True)),
        "strip_accents": values.get("strip_accents"),
        "handle_chinese_chars": bool(values.get("tokenize_chinese_chars", True)),
    }


def template(before: list[Any], behind: list[Any], ids: dict[str, int]) -> dict[str, Any]:
    """The post-processor that puts special tokens before and after a text."""
    texts = [content(token) for token in (*before, *behind)]
    for text in texts:
        if text not in ids:
            raise TokenizerError(
                f"the settings put the token {shown(text)} around every text, but the files lack it"
            )
    pieces = [{"SpecialToken": {"id": text, "type_id": 0}} for text in texts]
    single = [*pieces[: len(before)], {"Sequence": {"id": "A", "type_id": 0}}, *pieces[len(before) :]]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],  # gpt2c encodes no pairs
        "special_tokens": {
            text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in texts if text
        },
    }
