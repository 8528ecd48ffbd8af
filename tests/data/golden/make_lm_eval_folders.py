"""Makes lm_eval_folders.json: what lm-eval's own "hf" answers where tokenizers put something around a text.

python tests/data/golden/make_lm_eval_folders.py    (pip install "lm_eval[hf]==0.4.13" transformers==4.57.6)
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parents[1])]
from helpers.small_tokenizers import END, write_folder  # noqa: E402

# Folder and arguments of the model.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("bert", {}),
    ("bert", {"add_bos_token": False}),
    ("bert", {"add_bos_token": True, "prefix_token_id": 0}),
    ("other-ends", {}),
    ("metaspace", {}),
    ("metaspace", {"add_bos_token": False, "prefix_token_id": 2}),
    ("end-only", {}),
    ("add-bos", {}),
    ("add-bos", {"add_bos_token": False}),
    ("pair", {}),
    ("pair", {"add_bos_token": True}),
    ("gpt2", {}),
    ("gpt2", {"add_bos_token": True}),
]
TEXTS = [
    *("the king had a son", " the king", "", " ", "he was.", "[SEP] he", f"{END}the king", "[CLS] the king"),
    *("<s>the king", "</s> he", "the son 這是"),
]
PAIRS = [
    *(("the king", " had a son"), ("the king ", "had"), ("", "the king"), ("", " he was"), ("he was", ".")),
    *(("the", " old horse and his son"), (f"{END}the king", " had"), ("<s>he", " was"), ("[CLS]he", " was")),
    ("the king had a son and he was very fond of his old horse so they went to sea " * 3, " and the king"),
]
DOCUMENTS = ["the king had a son", "he", "the king had a son and he was very fond of his old horse " * 6]
PROMPTS = ["the king", "he was very fond of ", f"{END}the", "<s>the king", "[CLS] the king"]
ASKED = {"until": ["."], "max_gen_toks": 12, "do_sample": False}


def answers(lm: Any) -> dict[str, Any]:
    """All that is compared, of a model of lm-eval."""
    from lm_eval.api.instance import Instance

    def ask(kind: str, requests: list[tuple[Any, ...]]) -> list[Any]:
        """One by one: hf 0.4.13 errs where contexts with parts of continuations are equal in one call."""
        method = getattr(lm, kind)
        return [method([Instance(kind, {}, request, 0)], disable_tqdm=True)[0] for request in requests]

    return {
        "prefix_token_id": lm.prefix_token_id,
        "eot_token_id": lm.eot_token_id,
        "tok_encode": [list(lm.tok_encode(text)) for text in TEXTS],
        "tok_encode_bare": [list(lm.tok_encode(text, add_special_tokens=False)) for text in TEXTS],
        "encode_pair": [[list(ids) for ids in lm._encode_pair(*pair)] for pair in PAIRS if pair[0]],
        "loglikelihood": [list(answer) for answer in ask("loglikelihood", PAIRS)],
        "loglikelihood_rolling": ask("loglikelihood_rolling", [(text,) for text in DOCUMENTS]),
        "generate_until": ask("generate_until", [(text, dict(ASKED)) for text in PROMPTS]),
    }


def answers_of_hf(folder: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """What lm-eval's hf answers; one text at a time, since the first of a batch decides for the others."""
    from lm_eval.models.huggingface import HFLM

    return answers(HFLM(str(folder), device="cpu", dtype="float32", batch_size=1, **arguments))


def main() -> None:
    found = []
    for name, arguments in CASES:
        with tempfile.TemporaryDirectory() as place:
            told = answers_of_hf(write_folder(Path(place), name), arguments)
        found.append({"folder": name, "arguments": arguments, "answers": told})
    versions = {package: version(package) for package in ("lm_eval", "transformers", "torch")}
    text = json.dumps({"versions": versions, "found": found}, ensure_ascii=False)
    lines = text.replace('{"folder"', '\n{"folder"').replace(', "', ',\n "')
    (FOLDER / "lm_eval_folders.json").write_text(lines + "\n", "utf-8")


if __name__ == "__main__":
    main()
