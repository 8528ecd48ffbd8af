"""`gpt2c info`: what a model is, and how it would run here."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from ..core import _engine
from ..core.labels import harmless
from ..views.ansi import bold
from .console import open_output
from .formatting import print_json, quoted, size_text
from .loading import load_model

if TYPE_CHECKING:
    from ..model import GPT2
    from .checking import Finding

__all__ = ["run"]


def run(arguments: Namespace) -> None:
    """Describe a model, and how it runs here."""
    if arguments.source is not None:
        if arguments.model is not None:
            raise ValueError("give the model once: as an argument or with -m")
        arguments.model = arguments.source
    with open_output(arguments.output) as out:
        model = load_model(arguments)
        checks = _checks(model, arguments)
        tokenizer = model.tokenizer if model.has_tokenizer else None
        told = {
            "model": model.name,
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
        if arguments.check:
            told["checks"] = [finding._asdict() for finding in checks]
        if arguments.json:
            print_json(told, out)
        else:
            _print_info(told, out)
    if any(finding.result == "wrong" for finding in checks):
        raise SystemExit(1)


def _checks(model: GPT2, arguments: Namespace) -> list[Finding]:
    if not arguments.check:
        return []
    from .checking import findings

    return list(findings(model, arguments))


def _print_info(told: dict[str, Any], out: TextIO) -> None:
    def section(title: str) -> None:
        print("\n" + bold(title, out), file=out)

    def line(name: str, value: object) -> None:
        print(harmless(f"  {name:<32} {value}"), file=out)

    print(f"{bold(harmless(told['model']), out)}: GPT-2 with {told['parameters']:,} parameters", file=out)
    section("Configuration")
    for setting in told["config"]:
        remark = setting["status"] + (f": {setting['note']}" if setting["note"] else "")
        line(setting["key"], f"{_short(setting['value']):<12} {remark}")
    if told["generation_config"]:
        section("Its defaults for generation (not applied, but for bos and eos ids)")
        for name, value in told["generation_config"].items():
            line(name, _short(value))
    section("Vocabulary")
    if told["vocabulary"]:
        line("kind", told["vocabulary"]["kind"])
        line("tokens", f"{told['vocabulary']['tokens']:,}")
        for token, number in told["vocabulary"]["special_tokens"].items():
            line(f"special token {number}", quoted(token))
        for name, what in (("prefix", "put before a text"), ("suffix", "put after a text")):
            if told["vocabulary"][name]:
                line(what, _ids(told["vocabulary"][name]))
    else:
        print("  none: token ids only", file=out)
    line("beginning of a text", "none" if told["bos_token_id"] is None else told["bos_token_id"])
    line("end of a text", _ids(told["eos_token_ids"]) or "none")
    section("What was read")
    for remark in told["notes"] or ["nothing remarkable"]:
        print(harmless(f"  {remark}"), file=out)
    section("Memory")
    for name, size in told["memory"].items():
        line(name.replace("_", " "), size_text(size))
    section("Here")
    line("instruction set", f"{told['isa']} (usable: {', '.join(told['isas'])})")
    line("threads", told["threads"])
    line("numerics", told["numerics"])
    if "checks" in told:
        section("Checks")
        for found in told["checks"]:
            line(found["check"], f"{found['result']:<6}{found['text']}")


def _ids(tokens: Iterable[int]) -> str:
    return ", ".join(map(str, tokens))


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
