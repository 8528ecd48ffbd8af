"""What the tokenizers library makes of a tokenizer.json, compared with gpt2c.

gpt2c does not read all fields of a byte-level BPE, and a file is of use where others are damaged. So the
library gets the file with usual values in these: truncation and padding, the template of pairs, the types of
sequences, the unknown token of a BPE that knows every byte. Everything else is the file's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpt2c.tokenizer.bpe import BPETokenizer

__all__ = ["TEXTS", "answers", "usual"]

TEXTS = ["A test, of 12 words.", " the king  sang\n", "猫é </s><|endoftext|>[MASK]", "unaffable ▁x"]


def answers(path: Path, tokenizer: Any) -> list[tuple[str, Any, Any]]:
    """Questions, each with the answers of gpt2c and of the library."""
    import tokenizers

    content = json.loads(path.read_bytes().decode("utf-8-sig"))
    before = content.get("pre_tokenizer")
    if isinstance(before, dict) and before.get("type") == "ByteLevel":
        before["add_prefix_space"] = False  # GPT2TokenizerFast decides this, not the file
    if isinstance(tokenizer, BPETokenizer):
        content = usual(content)
    theirs = tokenizers.Tokenizer.from_str(
        json.dumps(content | {"truncation": None, "padding": None, "added_tokens": _added(content)})
    )
    theirs.add_special_tokens(["<|endoftext|>"])  # as GPT2TokenizerFast does
    theirs.encode_special_tokens = True
    found: list[tuple[str, Any, Any]] = []
    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=False).ids
        found.append((f"tokens of {text!r}", list(tokenizer.encode(text)), ids))
        found.append((f"text of {ids}", tokenizer.decode(ids), theirs.decode(ids, skip_special_tokens=False)))
    inside = theirs.encode(TEXTS[0], add_special_tokens=False).ids
    whole = theirs.encode(TEXTS[0]).ids
    found.append(("tokens around a text", [*tokenizer.prefix, *inside, *tokenizer.suffix], whole))
    return found


def _added(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The added tokens with every flag: gpt2c takes any value as true or false, none as usual."""
    names = ("single_word", "lstrip", "rstrip")
    return [
        {"id": token["id"], "content": token["content"], "special": bool(token.get("special"))}
        | {name: bool(token.get(name)) for name in names}
        | {"normalized": bool(token.get("normalized", not token.get("special")))}
        for token in content.get("added_tokens") or []
    ]


def usual(content: dict[str, Any]) -> dict[str, Any]:
    """A description of a byte-level BPE, in which unused fields have their usual values."""
    model = content["model"]
    names = ("continuing_subword_prefix", "end_of_word_suffix", "dropout")
    plain = {name: model.get(name) or None for name in names}
    plain |= {"type": model.get("type", "BPE"), "vocab": model["vocab"], "merges": model["merges"]}
    plain |= {name: bool(model.get(name)) for name in ("byte_fallback", "ignore_merges")}
    return {
        "version": "1.0",
        "model": plain,
        "normalizer": content.get("normalizer"),
        "pre_tokenizer": _step(content.get("pre_tokenizer"), "pretokenizers"),
        "decoder": _step(content.get("decoder"), "decoders"),
        "post_processor": _step(content.get("post_processor"), "processors"),
        "added_tokens": content.get("added_tokens"),
    }


def _step(node: Any, children: str) -> Any:
    """A step, or several."""
    if node is None:
        return None
    kind = node["type"]
    if kind == "Sequence":
        return {"type": kind, children: [_step(child, children) for child in node.get(children) or []]}
    if kind == "ByteLevel":
        flags = ("add_prefix_space", "trim_offsets", "use_regex")
        return {"type": kind} | {name: bool(node.get(name, True)) for name in flags}
    if kind == "TemplateProcessing":
        return _template(node)
    if kind in ("BertProcessing", "RobertaProcessing"):
        pairs = {name: ["x", node[name][1]] for name in ("sep", "cls")}
        flags = {"trim_offsets": True, "add_prefix_space": True} if kind == "RobertaProcessing" else {}
        return {"type": kind} | pairs | flags
    return node


def _template(node: dict[str, Any]) -> dict[str, Any]:
    single: list[Any] = []
    special: dict[str, Any] = {}
    for piece in node["single"]:
        if "Sequence" in piece:
            single.append({"Sequence": {"id": "A", "type_id": 0}})
            continue
        name = piece["SpecialToken"]["id"]
        ids = node["special_tokens"][name]["ids"]
        single.append({"SpecialToken": {"id": name, "type_id": 0}})
        special[name] = {"id": name, "ids": ids, "tokens": ["x"] * len(ids)}
    pair = [{"Sequence": {"id": which, "type_id": 0}} for which in "AB"]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
