"""A page of an explanation for tests, and nasty texts."""

import json
from functools import cache
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np

from gpt2c.pages import explain_page

TEXT = "The king had three daughters,"
LAYER, HEAD = 3, 1
VIEWS = ["walk", "heads", "overview", "scores", "lens", "text", "generation", "search"]
NASTY = [
    "He said \"hi\" & 'bye'; <b>bold</b> <img src=x onerror=pwned=1> &lt;",
    "</script><script>pwned=1</script><!-- </title>",
    "\u2028 \u2029 \x00 \x1b[31m \\u003c {data} ${pwned=1} `",
    "one\u200btwo\u200dthree\ufeff \u00ad \u202eabc\u202c \u2066x",
    "שלום עולם، مرحبا بالعالم",
    "👩\u200d👩\u200d👧 🇩🇪 😀 e\u0301 \u0301 日本語 naïve",
    "  two  spaces\n\n\ttab\r\nend  ",
    "⟨F0⟩ ␣ ⏎ #12",
]


class Page(HTMLParser):
    """The elements of a page with their attributes, and the texts of script and style."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = self.elements[-1]

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.texts.append((self.inside, data))

    def text(self, tag, **attributes):
        found = [text for (name, given), text in self.texts if name == tag and given == attributes]
        assert [one for one in self.elements if one == (tag, attributes)] == [(tag, attributes)]
        return "".join(found)


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
