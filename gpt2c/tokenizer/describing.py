"""The tokenizer.json of a byte-level BPE that `vocabulary` has compiled for tiktoken."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ..errors import TokenizerError
from .classes import Settings, template
from .merges import from_vocab_and_merges
from .vocabulary import Vocabulary, written

__all__ = ["describe"]


def describe(vocabulary: Vocabulary, where: str) -> dict[str, Any]:
    """The content of a tokenizer.json that `compile_vocabulary` compiles to this vocabulary.

    Parameters
    ----------
    vocabulary : Vocabulary
    where : str
        Its name, for messages.

    Raises
    ------
    TokenizerError
        Two of its ids have the same bytes, which the file could not tell apart.
    """
    added = {token.id: token.text for token in vocabulary.added}
    spelling = {i: added.get(i, written(token)) for i, token in enumerate(vocabulary.tokens) if token}
    vocab = {text: i for i, text in spelling.items()}
    if len(vocab) != len(spelling):
        raise TokenizerError(f"{where}: two token ids have the same text, which a tokenizer.json cannot have")
    # The first line of a merges.txt is skipped.
    lines = ["", *(f"{written(a)} {written(b)}" for a, b in _merges(vocabulary.ranks)), ""]
    made = {vocabulary.ids[rank] for rank in vocabulary.ranks.values()}
    unmade = {text for text, i in vocab.items() if i not in made}
    found = from_vocab_and_merges(vocab, "\n".join(lines), Settings.of(None, {}), unmade, where)
    found["added_tokens"] = [
        {"id": token.id, "content": token.text, "single_word": False, "lstrip": token.lstrip}
        | {"rstrip": token.rstrip, "normalized": token.late, "special": token.special}
        for token in sorted(vocabulary.added, key=lambda token: token.id)
    ]
    around = vocabulary.around
    offsets = {"trim_offsets": around.trims, "add_prefix_space": around.spares_first}
    found["post_processor"] |= offsets
    if around.prefix or around.suffix:
        prefix, suffix = ([spelling[i] for i in ids] for ids in (around.prefix, around.suffix))
        steps = [found["post_processor"], template(prefix, suffix, vocab)]
        found["post_processor"] = {"type": "Sequence", "processors": steps}
    return found


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The two parts of every BPE token except single bytes, by rank.

    The earlier merges turn the token's bytes into these two (the third rule in `vocabulary`).
    """
    found = []
    for token in sorted((token for token, rank in ranks.items() if rank >= 256), key=ranks.__getitem__):
        limit = ranks[token]
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            at, _ = min(enumerate(pairwise(parts)), key=lambda item: ranks.get(b"".join(item[1]), limit))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        found.append((parts[0], parts[1]))
    return found
