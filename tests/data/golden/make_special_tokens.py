"""Makes special_tokens.json: which bos and eos token AutoTokenizer of transformers 4.57.6 reports for files.

python tests/data/golden/make_special_tokens.py          (pip install transformers==4.57.6)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parents[1])]
from helpers.small_tokenizers import END, FOLDERS, write_files  # noqa: E402

_JSON, _PAIR, _BERT = (
    {name: content for name, content in FOLDERS[folder].items() if name.startswith(("tok", "voc", "mer"))}
    for folder in ("metaspace", "pair", "bert")
)
_VOCAB = {"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nking\n"}
_DECODER = {
    str(i): {"content": text, "special": True, **dict.fromkeys(("lstrip", "rstrip", "normalized"), False)}
    | {"single_word": False}
    for i, text in enumerate(("<unk>", "<s>", "</s>"))
}
_MAP = {"bos_token": "</s>", "eos_token": {"content": "<s>", "lstrip": False, "normalized": False}}


def _with(files: dict[str, Any], config: Any = None, **more: Any) -> dict[str, Any]:
    rest = {name: content for name, content in files.items() if name != "tokenizer_config.json"}
    settings = {} if config is None else {"tokenizer_config.json": config}
    return {"config.json": {"model_type": "gpt2"}} | rest | settings | more


CASES: dict[str, dict[str, Any]] = {
    "no settings": _with(_PAIR),
    "class GPT2Tokenizer": _with(_PAIR, {"tokenizer_class": "GPT2Tokenizer"}),
    "bos is null": _with(_PAIR, {"bos_token": None, "add_bos_token": False}),
    "tokenizer.json, no class": _with(_JSON),
    "no class, eos named": _with(_JSON, {"eos_token": "</s>"}),
    "fast, none named": _with(_JSON, {"tokenizer_class": "PreTrainedTokenizerFast"}),
    "fast, both named": _with(
        _JSON, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    ),
    "the map comes first": _with(
        _JSON,
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"},
        **{"special_tokens_map.json": _MAP},
    ),
    "the map is not read": _with(
        _JSON,
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "added_tokens_decoder": _DECODER},
        **{"special_tokens_map.json": _MAP},
    ),
    "class in config.json": _with(
        _JSON, **{"config.json": {"model_type": "gpt2", "tokenizer_class": "PreTrainedTokenizerFast"}}
    ),
    "class in both": _with(
        _JSON,
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        **{"config.json": {"model_type": "gpt2", "tokenizer_class": "GPT2Tokenizer"}},
    ),
    "bert": _with(_BERT, {"tokenizer_class": "BertTokenizer"}),
    "bert, vocab.txt": _with(_VOCAB, {"tokenizer_class": "BertTokenizer"}),
    "bert, vocab.txt, named": _with(
        _VOCAB, {"tokenizer_class": "BertTokenizer", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    ),
    "bert, vocab.txt, not in it": _with(
        _VOCAB, {"tokenizer_class": "BertTokenizerFast", "bos_token": END, "eos_token": END}
    ),
    "t5": _with(_JSON, {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}),
    "llama": _with(_JSON, {"tokenizer_class": "LlamaTokenizerFast"}),
}


def main() -> None:
    import transformers

    found = {}
    for name, files in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), files)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        found[name] = {
            "n_vocab": len(tokenizer),
            "bos": tokenizer.bos_token_id,
            "eos": tokenizer.eos_token_id,
        }
    report = {"transformers": transformers.__version__, "found": found}
    (FOLDER / "special_tokens.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
