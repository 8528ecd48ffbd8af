"""`gpt2c info`: describe a model, and how it would run here."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from ..checkpoint.bundled import is_encoder_decoder
from ..checkpoint.hf_head import class_of
from ..core import _engine
from ..core.labels import harmless
from ..views.ansi import bold
from .console import open_output
from .formatting import print_json, quoted, size_text
from .loading import load_any, load_encoder_decoder

if TYPE_CHECKING:
    from ..config import Config
    from ..pretrained import Pretrained
    from .checking import Finding

__all__ = ["run"]

# Fields of Config -> their names here.
_SIZES = {
    "n_layer": "layers",
    "n_head": "heads",
    "n_kv_head": "heads of keys and values",
    "n_embd": "width",
    "n_inner": "width of the MLP",
    "n_ctx": "positions",
    "n_vocab": "rows of the vocabulary",
    "n_types": "token types",
    "activation": "activation",
}
# The kind of a head -> the end of the title; what its logits mean -> their use.
_TITLES = {
    "sequence": ", a classifier of texts",
    "token": ", a classifier of tokens",
    "choice": ", with a head that chooses between texts",
}
_PROBLEMS = {
    "single": "probabilities that sum to 1 (softmax)",
    "multi": "a probability for each label (sigmoid)",
    "regression": "the values themselves",
}
_MOST_LABELS = 32


def run(arguments: Namespace) -> None:
    """Describe a model, and how it runs here."""
    if arguments.source is not None:
        if arguments.model is not None:
            raise ValueError("give the model once: as an argument or with -m")
        arguments.model = arguments.source
    if is_encoder_decoder(arguments.model):
        _describe_parts(arguments)
        return
    with open_output(arguments.output) as out:
        model = load_any(arguments)
        checks = _checks(model, arguments)
        facts = _facts(model)
        if arguments.check:
            facts["checks"] = [finding._asdict() for finding in checks]
        if arguments.json:
            print_json(facts, out)
        else:
            _print_info(facts, out)
    if any(finding.result == "wrong" for finding in checks):
        raise SystemExit(1)


def _describe_parts(arguments: Namespace) -> None:
    """The same of an encoder and of a decoder."""
    if arguments.check:
        raise ValueError("--check is for a single model, not for an encoder-decoder model")
    with open_output(arguments.output) as out:
        model = load_encoder_decoder(arguments)
        facts = {"encoder": _facts(model.encoder), "decoder": _facts(model.decoder)}
        if arguments.json:
            print_json({"model": model.name, **facts, "notes": model.notes}, out)
            return
        for part in facts.values():
            _print_info(part, out)


def _facts(model: Pretrained) -> dict[str, Any]:
    """All information about a model, without checks."""
    tokenizer = model.tokenizer if model.has_tokenizer else None
    return {
        "model": model.name,
        "sizes": _sizes(model.config),
        "type": model.config.model_type,
        "head": _head(model.config),
        "pooling": None if model.config.pooling is None else dataclasses.asdict(model.config.pooling),
        "config": [setting._asdict() for setting in model.config.report],
        "generation_config": model.generation_config,
        "bos_token_id": model.config.bos_token_id,
        "eos_token_ids": model.config.eos_token_ids,
        "parameters": model.config.n_parameters,
        "vocabulary": {
            "kind": tokenizer.kind,
            "tokens": tokenizer.n_vocab,
            "special_tokens": tokenizer.special_tokens,
            "prefix": tokenizer.prefix,
            "suffix": tokenizer.suffix,
            "mask": tokenizer.mask_id,
        }
        if tokenizer
        else None,
        "notes": model.notes,
        "memory": model.memory_plan(),
        "numerics": model.numerics,
        "isa": model.weights.isa,
        "isas": _engine.isas(),
        "threads": model.threads,
    }


def _checks(model: Pretrained, arguments: Namespace) -> list[Finding]:
    if not arguments.check:
        return []
    from .checking import findings

    return list(findings(model, arguments))


def _sizes(config: Config) -> dict[str, Any]:
    """Key and value heads are shown if their number differs; token types for a BERT."""
    left_out = {"n_kv_head": not config.is_multi_query, "n_types": not config.is_bert}
    return {name: getattr(config, name) for name in _SIZES if not left_out.get(name)}


def _head(config: Config) -> dict[str, Any] | None:
    """The model's head for other tasks, as JSON."""
    if config.head is None:
        return None
    return {"class": class_of(config, config.head.kind), **dataclasses.asdict(config.head)}


class _Page:
    """Lines of names and values, in sections."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def section(self, title: str) -> None:
        print("\n" + bold(title, self.out), file=self.out)

    def line(self, name: str, value: object, width: int = 32) -> None:
        print(harmless(f"  {name:<{width}} {value}"), file=self.out)


def _print_info(facts: dict[str, Any], out: TextIO) -> None:
    page = _Page(out)
    _print_model(facts, page)
    _print_vocabulary(facts, page)
    page.section("What was read")
    for remark in facts["notes"] or ["nothing remarkable"]:
        print(harmless(f"  {remark}"), file=page.out)
    page.section("Memory")
    for name, size in facts["memory"].items():
        page.line(name.replace("_", " "), size_text(size))
    page.section("Here")
    page.line("instruction set", f"{facts['isa']} (usable: {', '.join(facts['isas'])})")
    page.line("threads", facts["threads"])
    page.line("numerics", facts["numerics"])
    if "checks" in facts:
        page.section("Checks")
        width = max(len(found["check"]) for found in facts["checks"])
        for found in facts["checks"]:
            page.line(found["check"], f"{found['result']:<6}{found['text']}", width)


def _print_model(facts: dict[str, Any], page: _Page) -> None:
    head = facts["head"]
    kind = "BERT" if facts["type"] == "bert" else "GPT-2"
    what = f"{kind} with {facts['parameters']:,} parameters" + (_TITLES[head["kind"]] if head else "")
    print(f"{bold(harmless(facts['model']), page.out)}: {what}", file=page.out)
    page.section("Sizes")
    for name, value in facts["sizes"].items():
        page.line(_SIZES[name], f"{value:,}" if isinstance(value, int) else value)
    if head:
        page.section(f"Head of a {head['class']}")
        for number, label in enumerate(head["labels"][:_MOST_LABELS]):
            page.line(f"label {number}", label)
        if len(head["labels"]) > _MOST_LABELS:
            page.line("more labels", f"{len(head['labels']) - _MOST_LABELS:,}; --json has all")
        if head["kind"] == "sequence":
            page.line("logits become", _PROBLEMS[head["problem"]])
    if facts["pooling"]:
        page.section("Vectors of texts, as sentence-transformers makes them")
        for name, value in facts["pooling"].items():
            if value != "":
                page.line(name, _short(value))
    if facts["config"]:
        page.section("Configuration")
    for setting in facts["config"]:
        remark = setting["status"] + (f": {setting['note']}" if setting["note"] else "")
        page.line(setting["key"], f"{_short(setting['value']):<12} {remark}")
    defaults = {
        name: value
        for name, value in facts["generation_config"].items()
        if not name.startswith("_") and name != "transformers_version"
    }
    if defaults:
        page.section("Its defaults for generation (not applied, except for bos and eos ids)")
        for name, value in defaults.items():
            page.line(name, _short(value))


def _print_vocabulary(facts: dict[str, Any], page: _Page) -> None:
    page.section("Vocabulary")
    if facts["vocabulary"]:
        page.line("kind", facts["vocabulary"]["kind"])
        page.line("tokens", f"{facts['vocabulary']['tokens']:,}")
        for token, number in facts["vocabulary"]["special_tokens"].items():
            page.line(f"special token {number}", quoted(token))
        for name, what in (("prefix", "put before a text"), ("suffix", "put after a text")):
            if facts["vocabulary"][name]:
                page.line(what, _ids(facts["vocabulary"][name]))
        if facts["vocabulary"]["mask"] is not None:
            page.line("mask", facts["vocabulary"]["mask"])
    else:
        print("  none: token ids only", file=page.out)
    page.line("beginning of a text", "none" if facts["bos_token_id"] is None else facts["bos_token_id"])
    page.line("end of a text", _ids(facts["eos_token_ids"]) or "none")


def _ids(tokens: Iterable[int]) -> str:
    return ", ".join(map(str, tokens))


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
