"""Make a model write JSON that fits a schema, with a grammar of llguidance: pip install llguidance.

python docs/json_schema.py [MODEL]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import llguidance
import llguidance.numpy
import numpy as np

from gpt2c import GPT2

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
        "kind": {"enum": ["king", "queen", "miller"]},
        "brave": {"type": "boolean"},
    },
    "required": ["name", "age", "kind", "brave"],
    "additionalProperties": False,
}


class Vocabulary:
    """The interface of a tokenizer that llguidance expects."""

    def __init__(self, model: GPT2) -> None:
        self.eos_token_id = model.config.eos_token_ids[0]
        self.bos_token_id = None
        self.tokens = [model.token_bytes(token) for token in range(model.n_text_tokens)]
        self.special_token_ids = [self.eos_token_id]
        self._encode = model.tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def bitmask_of(model: GPT2, grammar: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a token_bitmask for `generate`: the tokens that the grammar allows next."""
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary(model)))
    mask = llguidance.numpy.allocate_token_bitmask(1, tokenizer.vocab_size)

    def allowed(new_ids: np.ndarray) -> np.ndarray:
        matcher = llguidance.LLMatcher(tokenizer, grammar)
        if len(new_ids) and not matcher.consume_tokens(new_ids.tolist()):
            raise ValueError(matcher.get_error())
        llguidance.numpy.fill_next_token_bitmask(matcher, mask)
        return mask[0]

    return allowed


def main() -> None:
    """Write some objects, sampled and searched, and parse each as JSON."""
    model = GPT2.from_pretrained(sys.argv[1] if len(sys.argv) > 1 else None)
    compact = {"whitespace_flexible": False}  # otherwise the model may spend its tokens on line breaks
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA), defaults=compact)
    options = {"max_new_tokens": 80, "token_bitmask": bitmask_of(model, grammar)}
    prompt = "The old king's name was "
    found = model.generate(prompt, temperature=1.0, seed=3, num_return_sequences=3, **options)
    found.append(model.generate(prompt, num_beams=3, **options))
    for result in found:
        print(json.loads(result.text))


if __name__ == "__main__":
    main()
