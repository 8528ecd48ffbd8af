"""Makes sentencepiece/: a Unigram and a BPE model, each of two kilobytes.

Run with sentencepiece installed (0.2.3 made the committed files): ``python make_sentencepiece.py``.
"""

import io
import random
import tempfile
from pathlib import Path

import sentencepiece

HERE = Path(__file__).parent / "sentencepiece"
TEXT = (
    "the quick brown fox jumps over lazy dog hello world numbers kul svenska \u00e4r p\u00e5 b\u00e5t "
    "\u4eca\u65e5 \u5929\u6c17 \u543e\u8f29 \u306f \u732b \u3067 \u3042\u308b \u826f\u3044 \u3067\u3059"
)
SENTENCE = (
    "\u543e\u8f29\u306f\u732b\u3067\u3042\u308b\u3002 \u4eca\u65e5\u306f\u826f\u3044\u5929\u6c17\u3067"
    "\u3059\u306d\u3002 Hello 123, world!"
)


def train(name: str, **settings: object) -> None:
    random.seed(0)
    corpus = [" ".join(random.choices(TEXT.split(), k=8)) for _ in range(400)] + [SENTENCE] * 20
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, minloglevel=2, hard_vocab_limit=False, **settings
    )
    (HERE / name).write_bytes(model.getvalue())


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("41\t61\n48\t68\nFF21\t61\n")  # A, H and a full-width A become small letters
        rules.flush()
        train("unigram.model", vocab_size=120, model_type="unigram", normalization_rule_tsv=rules.name,
              user_defined_symbols=["<sep>"], control_symbols=["[CLS]"])  # fmt: skip
    train("bpe.model", vocab_size=160, model_type="bpe", normalization_rule_name="identity", pad_id=3)
