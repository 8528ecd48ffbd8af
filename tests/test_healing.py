"""heal=True: a prompt goes on inside its last word, with the probabilities of all ways to write it."""

from collections import Counter

import pytest
from helpers.toys import random_gpt2
from test_word_completion import PIECES, TEXTS, Enumeration, Toy

from gpt2c import GPT2


@pytest.fixture(scope="module")
def model():
    found, _ = random_gpt2(3, n_vocab=len(PIECES), tokenizer=Toy(), std=0.6, eos_token_ids=(0,))
    return found


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_what_is_drawn_has_the_probability_of_all_ways(model, text):
    context, word = model.session(text).unfinished(8)
    ways = Enumeration(model, context).covers(word)
    total = sum(mass for *_, mass in ways)
    n = 3000
    drawn = model.generate(text, max_new_tokens=1, temperature=1, seed=5, num_return_sequences=n, heal=True)
    counts = Counter(tuple(result.token_ids) for result in drawn)
    exact = {tokens: mass / total for tokens, _, mass in ways}
    assert set(counts) <= set(exact)
    for tokens, p in exact.items():
        # Five standard deviations, and what the search may leave out.
        assert abs(counts[tokens] / n - p) < 5 * (p * (1 - p) / n) ** 0.5 + 2e-3
    for result in drawn[:200]:
        data = b"".join(PIECES[token] for token in result.token_ids)
        assert data.startswith(word)
        assert result.prompt_token_ids == context.tolist()
        assert result.text == data.decode("utf-8", "replace")[len(word.decode()) :]


def test_a_word_is_completed():
    model = GPT2.from_pretrained(threads=1)
    plain = model.generate("The king and the qu", max_new_tokens=4)
    healed = model.generate("The king and the qu", max_new_tokens=4, heal=True)
    assert healed.text.startswith("een") and not plain.text.startswith("een")
    assert len(healed.token_ids) == 4  # " queen" is a token
    again = model.generate("The king and the queen", max_new_tokens=3)
    assert healed.token_ids[1:] == again.token_ids and "een" + again.text == healed.text
    spaced = model.generate("Once upon a time ", max_new_tokens=6, heal=True)
    assert spaced.text == model.generate("Once upon a time", max_new_tokens=6).text.removeprefix(" ")
    assert spaced.prompt_token_ids == model.encode(["Once upon a time"])[0].tolist()


def test_it_is_the_same_in_streams_batches_and_sessions():
    model = GPT2.from_pretrained(threads=2)
    prompts = ["The king and the qu", "Once upon a ti", "Once", "It was ", "<|endoftext|>", ""]
    options = {"max_new_tokens": 6, "temperature": 0.8, "seed": 3, "heal": True, "stop": ["zz"]}
    alone = [model.generate(prompt, **options) for prompt in prompts]
    together = model.generate(prompts, **options)
    for prompt, one, other in zip(prompts, alone, together, strict=True):
        assert (one.text, one.token_ids, one.logprobs) == (other.text, other.token_ids, other.logprobs)
        stream = model.stream(prompt, **options)
        assert "".join(stream) == one.text and stream.result == one
        assert model.session(prompt).generate(**options) == one


def test_nothing_to_heal():
    model = GPT2.from_pretrained(threads=1)
    [end] = model.config.eos_token_ids
    ids = [*model.encode(["Hello"])[0].tolist(), end]
    assert model.generate(ids, max_new_tokens=3, heal=True) == model.generate(ids, max_new_tokens=3)


def test_what_does_not_go_together():
    model = GPT2.from_pretrained(threads=1)
    with pytest.raises(ValueError, match="num_beams=1 only"):
        model.generate("Once", heal=True, num_beams=2)
    with pytest.raises(ValueError, match="without edits and names_filter"):
        model.generate("Once", heal=True, names_filter="*")
    with pytest.raises(TypeError, match="heal"):
        model.generate("Once", heal="yes")


@pytest.mark.parametrize("missing", range(6))
def test_a_full_window_slides_so_far_that_the_word_has_room(missing):
    model = GPT2.from_pretrained(threads=2)
    [many], [last] = model.encode(["the " * 600]), model.encode(["x internationaliz"])
    ids = [*many[: model.config.n_ctx - missing], *last[1:]]
    options = {"heal": True, "overflow": "slide", "max_new_tokens": 5, "temperature": 0}
    found = model.generate(ids, **options)
    written = model.tokenizer.decode([*found.prompt_token_ids, *found.token_ids])
    assert written == model.tokenizer.decode(ids) + found.text
    assert model.generate(ids, draft="prompt", **options) == found
    assert model.session(ids).generate(**options) == found


def test_a_word_that_is_longer_than_the_context():
    model, _ = random_gpt2(3, n_vocab=len(PIECES), n_ctx=8, tokenizer=Toy(), std=0.6, eos_token_ids=(0,))
    for text in ("ababababababababab", "ab ab ab ab ab"):
        session = model.session(text)
        for found in (session.suggest_words(2), session.complete(2, max_new_tokens=4)):
            assert 0 <= found.remaining <= 1 and all(0 < item.probability < 1 for item in found)


def test_a_word_takes_no_more_positions_than_it_needs():
    model = GPT2.from_pretrained(threads=2)
    n_ctx = model.config.n_ctx
    prompt = "the " * 502 + "the xylophon"
    ids = model.encode([prompt])[0].tolist()
    n_kept = 503
    assert model.tokenizer.decode(ids[:n_kept]) == prompt.removesuffix(" xylophon")
    # The last token is never computed with, and the last one of the word is no new one.
    fits = n_ctx + 1 - (len(ids) - 1)
    options = {"heal": True, "temperature": 0}
    found = [model.generate(prompt, max_new_tokens=n, **options) for n in range(1, fits + 1)]
    for one in found:
        written = model.tokenizer.decode([*one.prompt_token_ids, *one.token_ids])
        assert written == prompt + one.text and one.finish_reason == "length"
        assert one.token_ids == found[-1].token_ids[: len(one.token_ids)]
        assert model.generate(prompt, max_new_tokens=len(found), overflow="slide", **options).text
    besides = len(ids) - n_kept - 1
    message = rf"503 tokens and max_new_tokens is {fits + 1} \(besides {besides} for its last word\)"
    with pytest.raises(ValueError, match=f"{message}.* at most {fits} new token"):
        model.generate(prompt, max_new_tokens=fits + 1, **options)
    cut = model.generate(prompt, max_new_tokens=fits + 1, overflow="truncate_left", **options)
    assert len(cut.prompt_token_ids) == n_ctx + 1 - (fits + 1) - (len(" xylophon") - 1)
    assert model.tokenizer.decode([*cut.prompt_token_ids, *cut.token_ids]).endswith("xylophon" + cut.text)
    whole = model.generate(prompt, max_new_tokens=n_ctx - besides, overflow="truncate_left", **options)
    assert len(whole.prompt_token_ids) == 1 and whole.finish_reason == "length"
    with pytest.raises(ValueError, match=rf"\(-n\) to at most {n_ctx - besides}, or"):
        model.generate(prompt, max_new_tokens=n_ctx - besides + 1, overflow="truncate_left", **options)


@pytest.mark.parametrize("inside", range(3))
def test_ways_for_which_there_is_no_room_are_not_drawn(inside):
    model, _ = random_gpt2(3, n_vocab=len(PIECES), n_ctx=8, tokenizer=Toy(), std=0.6, eos_token_ids=(0,))
    context, word = model.session("a ab").unfinished(1)
    assert (len(context), word) == (1, b" ab")
    ways = Enumeration(model, context).covers(word)
    exact = {tokens: mass for tokens, _, mass in ways if len(tokens) <= inside + 1}
    assert len(exact) < len(ways) or inside == 2
    n, total = 1000, sum(exact.values())
    options = {"temperature": 1, "seed": 5, "num_return_sequences": n, "heal": True}
    drawn = model.generate("a ab", max_new_tokens=8 - inside, **options)
    counts = Counter(
        next(tokens for tokens in exact if tokens == tuple(one.token_ids[: len(tokens)])) for one in drawn
    )
    for tokens, mass in exact.items():
        p = mass / total
        assert abs(counts[tokens] / n - p) < 5 * (p * (1 - p) / n) ** 0.5 + 2e-3


def test_a_word_that_is_forbidden_is_written_again_all_the_same():
    model = GPT2.from_pretrained(threads=2)
    prompt = "a little é and a little é"
    options = {"heal": True, "max_new_tokens": 4, "temperature": 0, "no_repeat_ngram_size": 3}
    found = model.generate(prompt, **options)
    written = model.tokenizer.decode([*found.prompt_token_ids, *found.token_ids])
    assert written == prompt + found.text
