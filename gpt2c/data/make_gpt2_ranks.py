"""Makes gpt2/ranks.bin, GPT-2's vocabulary: ``python make_gpt2_ranks.py encoder.json vocab.bpe``.

The two files are the ones that OpenAI published with GPT-2 (tiktoken pins them by the same hashes). The
result holds the 50,000 tokens that merges make, in merge order, joined by zero bytes, which no such token
contains: one split() loads it. The 256 tokens before them are the single bytes in GPT-2's order;
<|endoftext|> comes last.
"""

import hashlib
import json
import sys
from pathlib import Path

SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def main(encoder_json: str, vocab_bpe: str) -> None:
    data = {}
    for name, path in (("encoder.json", encoder_json), ("vocab.bpe", vocab_bpe)):
        data[name] = Path(path).read_bytes()
        found = hashlib.sha256(data[name]).hexdigest()
        if found != SHA256[name]:
            sys.exit(f"{path}: sha256 is {found}, but OpenAI's {name} has {SHA256[name]}")

    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # written as themselves
    others = [byte for byte in range(256) if byte not in printable]  # written as U+0100, U+0101, ...
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {chr(0x100 + index): byte for index, byte in enumerate(others)}

    merges = data["vocab.bpe"].decode("utf-8").split("\n")[1:-1]  # the first line is a version
    written = [merge.replace(" ", "") for merge in merges]
    expected = {token: rank for rank, token in enumerate([*byte_of, *written, "<|endoftext|>"])}
    if json.loads(data["encoder.json"]) != expected:
        sys.exit("encoder.json and vocab.bpe do not number the tokens alike")

    made = [bytes(byte_of[char] for char in token) for token in written]
    assert not any(b"\0" in token for token in made)
    result = b"\0".join(made)
    (Path(__file__).parent / "gpt2" / "ranks.bin").write_bytes(result)
    print(f"ranks.bin: {len(made)} tokens, {len(result)} bytes, sha256 {hashlib.sha256(result).hexdigest()}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
