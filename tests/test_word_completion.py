"""Completion inside words: probabilities are those of all ways to write a text in tokens, enumerated."""

from __future__ import annotations

import codecs
import itertools
from collections import defaultdict

import numpy as np
import pytest
from helpers.toys import random_gpt2

import gpt2c
from gpt2c import GPT2
from gpt2c.core.deadline import Deadline
from gpt2c.generation.covers import REMAINING, best_of, covers_of
from gpt2c.generation.spelling import end_of_word, split_last
from gpt2c.tokenizer.base import Tokenizer

PIECES = [
    *(b"", b"a", b"b", b" ", b" a", b" b", b"ab", b"ba", b"aa", b" ab", b" ba", b"aba", b".", b", ", b"'"),
    *(b"\xc3", b"\xa9", b"\xc3\xa9", b" \xc3", b"'a", b"a'", b"..", b" \xc3\xa9a", b"bab", b","),
]


class Toy(Tokenizer):
    """Takes the longest piece that fits, which is not the only way to write a text."""

    name = kind = "toy"
    n_vocab = len(PIECES)

    def __init__(self):
        self.special_tokens = {"<end>": 0}

    def encode(self, text, special=False, *, continued=False):
        data, ids = text.encode(), []
        while data:
            token = max(
                (i for i, piece in enumerate(PIECES) if piece and data.startswith(piece)),
                key=lambda i: len(PIECES[i]),
            )
            ids.append(token)
            data = data[len(PIECES[token]) :]
        return ids

    def token_bytes(self, token_id):
        return PIECES[token_id]


@pytest.fixture(scope="module")
def model():
    found, _ = random_gpt2(3, n_vocab=len(PIECES), tokenizer=Toy(), std=0.6, eos_token_ids=(0,))
    return found


class Enumeration:
    """All that follows a context, by plain passes over whole texts."""

    def __init__(self, model, context, pieces=PIECES):
        self.model, self.context, self.pieces, self._known = model, list(context), pieces, {}

    def after(self, tokens):
        """The probabilities of the next token, in float64."""
        if tokens not in self._known:
            logits = self.model.forward([*self.context, *tokens])[-1].astype(np.float64)
            exact = np.exp(logits - logits.max())
            self._known[tokens] = exact / exact.sum()
        return self._known[tokens]

    def covers(self, word):
        """(tokens, bytes, probability) of every way to cover ``word``."""
        found, open_paths = [], [((), b"", 1.0)]
        while open_paths:
            tokens, data, mass = open_paths.pop()
            for token, probability in enumerate(self.after(tokens)[: len(self.pieces)]):
                longer = data + self.pieces[token]
                if self.pieces[token] and word.startswith(longer) and longer != word:
                    open_paths.append(((*tokens, token), longer, mass * probability))
                elif self.pieces[token] and longer.startswith(word):
                    found.append(((*tokens, token), longer, mass * probability))
        return found

    def words(self, typed, least=2e-5):
        """The probabilities of words, by what they add to those typed, and of what is less than ``least``."""
        ways = self.covers(typed)
        total = sum(mass for *_, mass in ways)
        exact, left, n_typed = defaultdict(float), 0.0, len(typed.decode("utf-8", "replace"))
        open_paths = list(ways)
        written = [token for token, piece in enumerate(self.pieces) if piece]
        while open_paths:
            tokens, data, mass = open_paths.pop()
            try:
                word, n_read = codecs.utf_8_decode(data, "strict", False)
            except UnicodeDecodeError:
                left += mass / total
                continue
            end = end_of_word(word, n_typed)
            if end is not None:
                exact[word[n_typed:end]] += mass / total
            elif mass < least * total or len(tokens) > 8:
                left += mass / total
            else:
                p = self.after(tokens)
                open_paths += [((*tokens, t), data + self.pieces[t], mass * p[t]) for t in written]
                # The end of the text ends a word that has begun, as what cannot be a part of it does.
                unwritten = mass * (1 - sum(p[t] for t in written)) / total
                whole = n_read == len(data)
                if whole and end_of_word(word + "\n", n_typed) == len(word) and word.strip():
                    exact[word[n_typed:]] += unwritten
                else:
                    left += unwritten
        return exact, left


TEXTS = ["", "a", "ab", "abab", "a ab", "ab ", "a. aba", "b,", "a'", "a'a", "b é", "éa bab", "..", "a  "]


@pytest.mark.parametrize("text", TEXTS)
def test_the_ways_to_cover_a_word_are_all_there_are(model, text):
    session = model.session(text)
    context, word = session.unfinished(8)
    covers = covers_of(session.rows(context, Deadline()), word)
    exact = Enumeration(model, context).covers(word)
    total = sum(mass for *_, mass in exact)
    assert covers.left <= REMAINING * (covers.mass + covers.left)
    assert covers.mass <= total * (1 + 1e-5) and total <= (covers.mass + covers.left) * (1 + 1e-5)
    found = {path.tokens: path.mass for path in best_of(covers.groups, model, len(PIECES) ** 2)}
    for tokens, _, mass in exact:
        if tokens in found:
            assert found[tokens] == pytest.approx(mass, rel=1e-4, abs=1e-9)
        else:
            assert mass <= covers.left * (1 + 1e-5)
    assert {tokens for tokens in found} <= {tokens for tokens, *_ in exact}


@pytest.mark.parametrize("text", TEXTS)
def test_words_have_the_probability_of_all_their_spellings(model, text):
    session = model.session(text)
    context, typed = session.unfinished(32)
    exact, left = Enumeration(model, context).words(typed)
    found = session.suggest_words(6)
    assert found.finished
    assert [word.probability for word in found] == sorted((w.probability for w in found), reverse=True)
    for word in found:
        assert word.probability <= exact[word.text] + left + 1e-6
        assert exact[word.text] <= word.probability + found.remaining + left + 1e-6
        follows = word.text[:1].isspace()  # what was typed is another word, or marks
        assert word.word == (("" if follows else typed.decode("utf-8", "replace")) + word.text).strip()
    seen = {word.text for word in found}
    worst = found[-1].probability
    assert all(
        p <= max(worst, found.remaining) + left + 1e-6 for text, p in exact.items() if text not in seen
    )


@pytest.mark.parametrize("text", TEXTS)
def test_completions_have_the_probability_of_their_tokens_after_all_ways(model, text):
    session = model.session(text)
    context, typed = session.unfinished(3)
    enumeration = Enumeration(model, context)
    groups = defaultdict(list)
    for tokens, data, mass in enumeration.covers(typed):
        groups[data].append((tokens, mass))
    total = sum(mass for ways in groups.values() for _, mass in ways)
    exact = {}
    for data, ways in groups.items():
        for token in range(1, len(PIECES)):
            mass = sum(mass * enumeration.after(tokens)[token] for tokens, mass in ways)
            exact.setdefault((data + PIECES[token])[len(typed) :], []).append(mass / total)
    found = session.complete(12, max_new_tokens=2)
    assert len(found) == 12 and found.finished
    for completion in found:
        assert np.prod(completion.probabilities) == pytest.approx(completion.probability, rel=1e-5)
        if completion.finish_reason == "length":
            text = completion.text
            candidates = [
                p
                for data, several in exact.items()
                for p in several
                if data.decode("utf-8", "ignore") == text
            ]
            off = min(abs(p - completion.probability) for p in candidates)
            # Of the ways to write the word, each with less than that share of it was left out.
            assert off <= found.remaining + 8 * REMAINING * completion.probabilities[0] + 1e-6
    assert [c.probability for c in found] == sorted((c.probability for c in found), reverse=True)


def test_where_words_end():
    for text, begin, end in [
        ("queen", 2, None),
        ("queen ", 2, 5),
        ("queen's", 2, None),
        ("queen's ", 2, 7),
        ("queen'", 2, None),
        ("queen' ", 2, 5),
        ("queen,", 2, 5),
        ("queen", 5, None),
        ("queen king", 5, 5),
        ("a ", 2, None),
        ("a king", 2, None),
        ("a king.", 2, 6),
        ("a,", 2, None),
        ("a, ", 2, None),
        ("a, b.", 2, 4),
        ("a. ...", 2, None),
        ("a. ...b", 2, 6),
        ("", 0, None),
        (" 3.5", 0, 2),
        ("e\u0301 ", 0, 2),
        ("nai\u0308ve ", 3, 6),
        ("nai\u0308", 3, None),
        ("nai\u0308 ", 4, 4),
        ("don\u2019t ", 3, 5),
        ("don\u2019 ", 3, 3),
        ("don\u2019", 3, None),
        (" \u2019n\u2019 roll", 2, 3),
        ("n\u2019 roll.", 2, 7),
    ]:
        assert end_of_word(text, begin) == end, (text, begin)


def test_what_is_unfinished():
    model = GPT2.from_pretrained(threads=1)
    for text, kept, rest in [
        ("The king and the qu", "The king and the", b" qu"),
        ("The king and the ", "The king and the", b" "),
        ("The king and the", "The king and", b" the"),
        ("Hello,", "Hello", b","),
        ("I don't", "I", b" don't"),
        ("in 1984", "in", b" 1984"),
        ("one\n\n", "one", b"\n\n"),
        ("so nai\u0308", "so", " nai\u0308".encode()),
        ("so nai\u0308ve", "so", " nai\u0308ve".encode()),
        ("I don\u2019", "I", " don\u2019".encode()),
        ("I don\u2019t", "I", " don\u2019t".encode()),
        ("rock \u2019", "rock", " \u2019".encode()),
        ("rock \u2019n", "rock \u2019", b"n"),
        ("rock \u2019n\u2019", "rock \u2019", "n\u2019".encode()),
        ("rock \u2019n\u2019 roll", "rock \u2019n\u2019", b" roll"),
        ("a''", "a", b"''"),
        ("snake_", "snake", b"_"),
    ]:
        ids = model.encode([text])[0]
        n, last = split_last(model, ids)
        assert (model.tokenizer.decode(ids[:n]), last) == (kept, rest)
    ended = np.array([*model.encode(["Hello"])[0], model.config.eos_token_ids[0]])
    assert split_last(model, ended) == (len(ended), b"")


def test_a_keyboard():
    model = GPT2.from_pretrained(threads=1)
    session = model.session("The king and the qu")
    [first, *_] = session.suggest_words(3)
    assert (first.text, first.word) == ("een", "queen") and first.probability > 0.9
    session.text = "The king and the "
    assert all(word.text.isalpha() for word in session.suggest_words(3))
    session.text = "Once upon a ti"
    [best, *_] = session.complete(2, max_new_tokens=4)
    assert best.text.startswith("me ")
    session.text += best.text
    assert session.text.startswith("Once upon a time ")


def test_completion_leaves_the_session_as_it_was():
    model = GPT2.from_pretrained(threads=1)
    session = model.session("The king and the qu")
    words = session.suggest_words(4)
    expected = model.generate(session.text, max_new_tokens=5)
    assert session.generate(max_new_tokens=5) == expected
    assert session.suggest_words(4) == words
    completions = session.complete(3, max_new_tokens=5)
    assert session.suggest() == model.suggest(session.text)
    assert session.complete(3, max_new_tokens=5) == completions
    assert model.session(session.text).complete(3, max_new_tokens=5) == completions


def test_results_do_not_depend_on_threads_or_history():
    texts = ["The king and the qu", "The king and the queen ", "The king", "Once upon a ti", ""]
    expected = []
    for threads in (1, 2):
        model = GPT2.from_pretrained(threads=threads)
        session = model.session()
        for text in itertools.chain(texts, reversed(texts)):
            session.text = text
            found = (text, repr(session.suggest_words(3)), repr(session.complete(2, max_new_tokens=3)))
            expected.append(found)
    assert len(set(expected)) == len(texts)


def test_a_deadline_gives_what_there_is():
    model = GPT2.from_pretrained(threads=1)
    session = model.session("Once upon a time there was a little gi")
    deadline = gpt2c.Deadline()
    deadline.cancel()
    assert (
        session.suggest_words(deadline=deadline) == []
        and not session.suggest_words(deadline=deadline).finished
    )
    assert not session.complete(deadline=deadline).finished
    whole = session.complete(2, max_new_tokens=40)
    cut = session.complete(2, max_new_tokens=40, deadline=1e-9 + 0.02)
    assert all(completion.finish_reason in ("deadline", "length", "eos") for completion in cut)
    assert whole.finished
    assert session.complete(2, max_new_tokens=40) == whole


def test_a_text_longer_than_the_context():
    model = GPT2.from_pretrained(threads=1)
    n_ctx = model.config.n_ctx
    session = model.session("the king said to the queen that " * (n_ctx // 4) + "the qu")
    assert len(session.token_ids) > n_ctx
    assert session.suggest_words(1)[0].word == "queen"
    session.text += "een and the ki"
    assert session.suggest_words(1)[0].word == "king"
    assert session.n_reused > n_ctx // 4
    assert session.complete(1, max_new_tokens=30)[0].text
    with pytest.raises(ValueError, match="half of the context"):
        session.complete(max_new_tokens=n_ctx)


LONG = [
    "中文" * 30,
    "日本語のテキスト" * 10,
    "🙂" * 30,
    "http://example.com/barbazquxxyzzy",
    "a" * 200,
    "asdkjfhwqieury",
]


@pytest.mark.parametrize("text", LONG)
def test_words_that_are_long_or_improbable(text):
    model = GPT2.from_pretrained(threads=2)
    session = model.session(text)
    words, texts = session.suggest_words(3), session.complete(2, max_new_tokens=4)
    assert texts and all(0 < found.probability < 1 for found in (*words, *texts))
    assert 0 <= words.remaining < 1 and 0 <= texts.remaining < 1
    context, typed = session.unfinished(32)
    typed.decode("utf-8")  # it begins and ends with whole characters
    healed = model.generate(text, heal=True, max_new_tokens=4, temperature=0)
    assert model.tokenizer.decode(healed.prompt_token_ids + healed.token_ids) == text + healed.text or (
        len(context) == 1 and model.tokenizer.decode(healed.token_ids) == text + healed.text
    )


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_text_that_ends_inside_a_character(missing):
    model = GPT2.from_pretrained(threads=2)
    whole = model.tokenizer.encode("I like 🙂")
    assert [model.token_bytes(token) for token in whole[-4:]] == [bytes([byte]) for byte in "🙂".encode()]
    ids = whole[:-missing]
    data = "I like 🙂".encode()[:-missing]
    for found in model.suggest_words(ids, 3):
        assert (data.decode("utf-8", "ignore") + found.text).endswith(found.word)
    healed = model.generate(ids, heal=True, max_new_tokens=3, temperature=0)
    written = b"".join(map(model.token_bytes, healed.prompt_token_ids + healed.token_ids))
    assert written.startswith(data)
    assert data.decode("utf-8", "ignore") + healed.text == written.decode("utf-8", "replace")


def test_a_word_that_follows_marks_is_named_without_them():
    model = GPT2.from_pretrained(threads=2)
    following = [found for found in model.suggest_words("It was...", 20) if found.text[:1].isspace()]
    assert following
    for found in following:
        assert found.word == found.text.strip()
