"""Text to token ids and back: GPT-2's byte-level BPE, run by tiktoken, offline.

`load_tokenizer` reads the files in a model's directory, `gpt2_tokenizer` is OpenAI's vocabulary from the
package, and `as_tokenizer` takes any other object with ``encode`` and ``decode``. Each gives a `Tokenizer`
(base.py).

load.py finds a tokenizer, files.py reads its files, vocabulary.py compiles what they describe, bpe.py runs
it, foreign.py wraps objects of other libraries, writing.py turns tokens that arrive one by one into text.
saving.py writes a tokenizer's files, and describing.py composes those that do not exist.
"""

from .base import Tokenizer
from .load import as_tokenizer, gpt2_tokenizer, load_tokenizer

__all__ = ["Tokenizer", "as_tokenizer", "gpt2_tokenizer", "load_tokenizer"]
