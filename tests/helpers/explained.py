"""Nasty texts, HTML taken apart, and a page of an explanation, for tests."""

import json
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np

from gpt2c.views.pages import explain_page

TEXT = "The king had three daughters,"
LAYER, HEAD = 3, 1
VIEWS = ["walk", "gallery", "heads", "overview", "scores", "lens", "text", "generation", "search"]
NASTY = [
    "He said \"hi\" & 'bye'; <b>bold</b> <img src=x onerror=pwned=1> &lt; &amp;",
    "</script><script>pwned=1</script><!-- </title>",
    "\u2028 \u2029 \x00 \x1b[31m \\u003c {data} ${pwned=1} ` $5 & $6",
    "one\u200btwo\u200dthree\ufeff \u00ad \u202eabc\u202c \u2066x",
    "שלום עולם، مرحبا بالعالم",
    "👩\u200d👩\u200d👧 🇩🇪 😀 e\u0301 \u0301 日本語 naïve",
    "  two  spaces\n\n\ttab\r\nend  ",
    "⟨F0⟩ ␣ ◌ ⏎ #12",
]


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""  # also that of the elements inside


class Page(HTMLParser):
    """The elements of a page, or of a piece of HTML; refuses what is not balanced."""

    def __init__(self, source):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append(Element(tag, dict(attributes)))
        if tag not in ("input", "link", "meta"):  # which have no end
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self._open.pop().tag == tag

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, tag):
        return [element for element in self.elements if element.tag == tag]

    def text(self, tag, **attributes):
        """The text of the only element with this tag and these attributes."""
        (found,) = (element for element in self.all(tag) if element.attributes == attributes)
        return found.text


def data_of(page):
    return json.loads(Page(page).text("script", type="application/json", id="data"))


@cache
def explained(model):
    """The page of TEXT, and what it must say, straight from the model."""
    logits, activations = model.run_with_cache(TEXT)
    ids = activations.token_ids.tolist()
    options = {"max_new_tokens": 8, "trace": True}
    return SimpleNamespace(
        page=explain_page(model, TEXT, layer=LAYER, head=HEAD, seed=5),
        logits=logits.astype(np.float64),
        cache=activations,
        ids=ids,
        T=len(ids),
        score=model.score(ids, bos=False, top=5),
        lens=activations.logit_lens(k=5),
        sampled=model.generate(ids, temperature=0.8, top_k=40, top_p=0.95, seed=5, **options),
        greedy=model.generate(ids, **options),
        found=model.generate(ids, num_beams=3, num_return_sequences=3, length_penalty=0.0, **options),
    )
