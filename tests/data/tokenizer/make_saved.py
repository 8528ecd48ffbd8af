"""Makes saved/: a small GPT-2 tokenizer with three added tokens as transformers saves it, and expected.json.

Run with transformers installed (4.57.6 made the committed files): ``python make_saved.py``. The ids are not
in the order of the merges, as in many tokenizers that were trained for one language or one task.
"""

import json
import random
import shutil
import tempfile
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import GPT2TokenizerFast

HERE = Path(__file__).parent
CORPUS = """Once upon a time there was a fox, and the fox wanted to see the sea. "Is it far?" he asked at the
caf\u00e9. "It isn't," she said; "in 1919 they'd have walked there and back!!" So the fox and the others went
to the shore and saw the waves;    then they told the story.

The story of the fox is over. \U0001f999\U0001f999\U0001f999
"""
TEXTS = [
    "", " ", "once upon a time and the Story", "\n\nthe 1919 storys' end!!!!", "a\u00a0b\u3000c  \t d    ",
    "caf\u00e9 \U0001f999 \ud55c\uae00", "<|endoftext|>", "x[PAD]y", "one  two<sep>three  upper",
    "it's 'RE we'll'd", "<sep><sep> [PAD] <|endoftext|>",
]  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        trained = Tokenizer(BPE())
        trained.pre_tokenizer = ByteLevel(add_prefix_space=False)
        trained.train_from_iterator(
            [CORPUS], BpeTrainer(vocab_size=315, initial_alphabet=ByteLevel.alphabet())
        )
        model = json.loads(trained.to_str())["model"]
        tokens = ["<|endoftext|>", *model["vocab"]]
        random.Random(1).shuffle(tokens)
        vocab, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
        merges.write_text("\n".join(["#version: 0.2", *map(" ".join, model["merges"]), ""]), encoding="utf-8")
        tokenizer = GPT2TokenizerFast(str(vocab), str(merges))
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        tokenizer.add_tokens(["<sep>", "upper"])
        tokenizer.save_pretrained(folder)
        (HERE / "saved").mkdir(exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(Path(folder, name), HERE / "saved" / name)

    cases = []
    for text in TEXTS:
        plain = tokenizer.encode(text, split_special_tokens=True)
        special = tokenizer.encode(text, split_special_tokens=False)
        cases.append(
            {"text": text, "ids": plain, "ids_with_special": special, "decoded": tokenizer.decode(special)}
        )
    expected = {"n_vocab": len(tokenizer), "special_tokens": tokenizer.special_tokens_map, "cases": cases}
    (HERE / "saved" / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
