"""What every use of a model makes of tokenizers of other forms than GPT-2's: the library's own answers."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.tokenizer_kinds import MAKERS, TEXT, added, decoded, kind, logprobs
from helpers.toys import random_gpt2

from gpt2c.scoring.rows import score_rows
from gpt2c.scoring.vocabulary import word_edges
from gpt2c.tokenizer import load_tokenizer
from gpt2c.tokenizer.load import unpack

pytest.importorskip("tokenizers")

AROUND = {
    "wordpiece": ((2,), (3,)),
    "metaspace": ((1,), ()),
    "unigram": ((), (2,)),
    "byte fallback": ((1,), ()),
    "prefix space": ((0,), (1,)),
    "wordlevel": ((), ()),
    "suffix": ((), ()),
}
every_kind = pytest.mark.parametrize("name", MAKERS)


def alone(of, text: str) -> list[int]:
    return of.library.encode(text, add_special_tokens=False).ids


def continuations(of, prompt: list[int], n: int = 12):
    """Some token ids that could follow a prompt, one list per seed."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, of.n_vocab, n).tolist() for _ in range(8)]


# ---- what stands around a text


@every_kind
def test_prompts_keep_the_prefix_and_get_no_suffix(name):
    of = kind(name)
    prefix, suffix = AROUND[name]
    assert (of.tokenizer.prefix, of.tokenizer.suffix) == (prefix, suffix)
    assert of.library.encode("the king").ids == [*prefix, *alone(of, "the king"), *suffix]
    assert of.tokenizer.encode("the king") == alone(of, "the king")
    found = of.model.generate("the king", max_new_tokens=1)
    assert found.prompt_token_ids == [*prefix, *alone(of, "the king")]
    empty = of.model.generate("", max_new_tokens=1)
    assert empty.prompt_token_ids == ([*prefix] or [of.model.bos_token_id])


@every_kind
def test_special_tokens_in_prompts(name):
    of = kind(name)
    token, index = max(of.tokenizer.special_tokens.items(), key=lambda pair: pair[1])
    text = f"the king{token}"
    plain = of.model.generate(text, max_new_tokens=1).prompt_token_ids
    assert plain == [*of.tokenizer.prefix, *alone(of, text)]
    read = of.model.generate(text, max_new_tokens=1, special=True).prompt_token_ids
    assert read[-1] == index and (read != plain or name == "unigram")  # whose pieces it is one of
    assert read[:-1] == [*of.tokenizer.prefix, *alone(of, "the king")]
    with of.model.stream(text, max_new_tokens=1, special=True) as stream:
        assert "".join(stream) == of.model.generate(read, max_new_tokens=1).text
    assert of.model.suggest(text, special=True) == of.model.suggest(read)
    scored = of.model.score(text, special=True)
    assert scored.token_ids == read[len(of.tokenizer.prefix) :]


def test_a_prefix_that_is_written_out_stands_there_once():
    of = kind("wordpiece")
    assert of.model.generate("[CLS]the", max_new_tokens=1, special=True).prompt_token_ids == [2, 8]
    assert of.model.score([("[CLS]the", "king")], special=True)[0].contexts.tolist() == [2]


# ---- text that is generated


@every_kind
def test_text_is_decoded_after_the_prompt(name):
    of = kind(name)
    for prompt in ("the king", "the", "", "the king and "):
        before = of.model.generate(prompt, max_new_tokens=1).prompt_token_ids
        for seed in range(4):
            options = {"max_new_tokens": 12, "temperature": 5.0, "seed": seed, "num_return_sequences": 2}
            for found in of.model.generate(prompt, **options):
                ids = [token for token in found.token_ids if token not in of.model.config.eos_token_ids]
                if "byte" not in name or "\ufffd" not in decoded(of, [*before, *ids]):
                    assert found.text == added(of, before, ids)
            del options["num_return_sequences"]
            stream = of.model.stream(prompt, **options)
            pieces = list(stream)
            assert "".join(pieces) == stream.result.text
            assert stream.result.text == of.model.generate(prompt, **options).text


@every_kind
def test_beams_are_decoded_after_the_prompt(name):
    of = kind(name)
    before = [*of.tokenizer.prefix, *alone(of, "the king")]
    for found in of.model.generate("the king", max_new_tokens=6, num_beams=3, num_return_sequences=3):
        ids = [token for token in found.token_ids if token not in of.model.config.eos_token_ids]
        if "byte" not in name:
            assert found.text == added(of, before, ids)


@every_kind
def test_streams_of_any_tokens(name):
    of = kind(name)
    prompt = alone(of, "the king")
    for ids in continuations(of, prompt):
        decoder = of.tokenizer.decoder(prompt)
        pieces = [decoder.push(token) for token in ids]
        whole = "".join(pieces) + decoder.flush()
        if "byte" not in name:  # of bytes that make no character the library rewrites the earlier ones, too
            assert whole == added(of, prompt, ids)
    text = alone(of, TEXT)
    for cut in range(len(text)):
        if "byte" in name and decoded(of, text[:cut]).endswith("\ufffd"):
            continue
        decoder = of.tokenizer.decoder(text[:cut])
        pieces = [decoder.push(token) for token in text[cut:]]
        assert "".join(pieces) + decoder.flush() == added(of, text[:cut], text[cut:])


@every_kind
def test_stop_strings_at_the_seam(name):
    of = kind(name)
    for seed in range(3):
        options = {"max_new_tokens": 10, "temperature": 3.0, "seed": seed}
        whole = of.model.generate("the king", **options).text
        for stop in {whole[:2], whole[1:3], whole[-2:], " "} - {""}:
            found = of.model.generate("the king", stop=stop, **options)
            if stop in whole:
                assert (found.text, found.finish_reason) == (whole[: whole.index(stop)], "stop")
            else:
                assert found.text == whole


@every_kind
def test_suggestions_are_decoded_after_the_prompt(name):
    of = kind(name)
    before = [*of.tokenizer.prefix, *alone(of, "the king")]
    suggestions = of.model.suggest("the king", k=of.n_vocab)
    assert {s.token_id for s in suggestions} == set(range(of.n_vocab))
    for suggestion in suggestions:
        assert suggestion.text == added(of, before, [suggestion.token_id])


def test_skip_special_tokens():
    of = kind("wordpiece")
    special = set(of.tokenizer.special_tokens.values())
    left_out = 0
    for seed in range(6):
        options = {"max_new_tokens": 15, "temperature": 5.0, "seed": seed}
        found = of.model.generate("the king", skip_special_tokens=True, **options)
        ids = found.token_ids
        assert ids == of.model.generate("the king", **options).token_ids
        left_out += len(special.intersection(ids))
        before = [2, 8, 9]
        assert found.text == added(of, before, [token for token in ids if token not in special])
        assert found.text == "".join(of.model.stream("the king", skip_special_tokens=True, **options))
    assert left_out


@every_kind
def test_bad_words_are_those_inside_a_text(name):
    of = kind(name)
    spaced = alone(of, "the king and")[len(alone(of, "the king")) :]
    biases = {tuple(spaced[: n + 1]): 50.0 * (n + 1) for n in range(len(spaced))}
    options = {"max_new_tokens": len(spaced), "sequence_bias": biases}
    wanted = of.model.generate("the king", **options)
    assert tuple(spaced) == tuple(wanted.token_ids[: len(spaced)]), "without it, the word is written"
    found = of.model.generate("the king", bad_words=["and"], **options)
    assert found.token_ids[: len(spaced)] != spaced
    ing = of.library.token_to_id("ing")
    if ing is not None:
        options = {"max_new_tokens": 1, "logit_bias": {ing: 100.0}}
        assert of.model.generate("the d", **options).token_ids == [ing]
        assert of.model.generate("the d", bad_words=["ing"], **options).token_ids != [ing]


# ---- scores


@every_kind
def test_scores_are_those_of_the_text(name):
    of = kind(name)
    start = [*of.tokenizer.prefix] or [of.model.bos_token_id]
    score = of.model.score(TEXT)
    encoding = of.library.encode(TEXT, add_special_tokens=False)
    assert score.token_ids == encoding.ids
    np.testing.assert_allclose(score.logprobs, logprobs(of.model, start, encoding.ids), atol=1e-5)
    assert score.contexts.tolist() == [len(start) + i for i in range(len(encoding.ids))]
    assert score.offsets == encoding.offsets
    assert (score.n_bytes, score.n_chars) == (len(TEXT.encode()), len(TEXT))
    rows = score.rows()
    assert [(row["text"], row["start"], row["end"]) for row in rows] == [
        (TEXT[start:end], start, end) for start, end in encoding.offsets
    ]


def test_two_tokens_of_a_chinese_text():
    of = kind("wordpiece")
    score = of.model.score("这是")
    assert (score.token_ids, score.contexts.tolist()) == ([5, 6], [1, 2])
    assert score.logprob == pytest.approx(logprobs(of.model, [2], [5, 6]).sum(), abs=1e-5)


@every_kind
def test_pairs_have_nothing_between_them(name):
    of = kind(name)
    compared = []
    for context, text in (
        ("the king", " and the kings"),
        ("the kings sing", " of the end"),
        ("the d", "ing"),
    ):
        whole, before = alone(of, context + text), alone(of, context)
        if whole[: len(before)] != before or whole == before:  # a word is cut in two that is one token
            continue
        (score,) = of.model.score([(context, text)])
        start = [*of.tokenizer.prefix] or [of.model.bos_token_id]
        assert score.token_ids == whole[len(before) :]
        expected = logprobs(of.model, [*start, *before], whole[len(before) :])
        np.testing.assert_allclose(score.logprobs, expected, atol=1e-5)
        assert score.n_bytes == len(text.encode())
        offsets = of.library.encode(context + text, add_special_tokens=False).offsets[len(before) :]
        assert score.offsets == [(start - len(context), end - len(context)) for start, end in offsets]
        compared.append(text)
        (empty,) = of.model.score([("", context)])
        assert empty.token_ids == before, "without a context it is a whole text"
    assert ("ing" in compared) == (name not in ("wordpiece", "wordlevel", "suffix")), "inside a word"


@every_kind
@pytest.mark.parametrize("bos", [False, 5])
def test_what_stands_before_a_text_may_be_chosen(name, bos):
    of = kind(name)
    ids = alone(of, TEXT)
    score = of.model.score(TEXT, bos=bos)
    before, scored = (ids[:1], ids[1:]) if bos is False else ([5], ids)
    assert score.token_ids == scored
    np.testing.assert_allclose(score.logprobs, logprobs(of.model, before, scored), atol=1e-5)


@every_kind
def test_the_bytes_of_a_text_that_is_cut(name):
    of = kind(name)
    encoding = of.library.encode(TEXT, add_special_tokens=False)
    data, in_characters = TEXT.encode(), "猫é"
    for n in range(1, len(encoding.ids) + 1):
        ((_, score, cut),) = score_rows(of.model, [("key", TEXT)], max_tokens=n)
        assert cut == (n < len(encoding.ids))
        end = encoding.offsets[n - 1][1]
        expected = len(TEXT[:end].encode())
        split = n < len(encoding.ids) and encoding.offsets[n][0] < end
        if split:  # a part of a character counts by its own bytes
            assert TEXT[end - 1] in in_characters
            parts = [i for i, (_, stop) in enumerate(encoding.offsets) if stop == end]
            whole = TEXT[end - 1].encode()
            expected -= len(whole) - len(whole[: n - parts[0] - (len(parts) > len(whole))])
        assert score.n_bytes == expected, (n, end)
        assert data.startswith(TEXT[:end].encode())


def test_the_bytes_of_tokens():
    assert [kind("byte fallback").tokenizer.token_bytes(i) for i in (3, 3 + 0xE3, 259, 4)] == [
        b"\0",
        b"\xe3",
        b" ",
        b"\1",
    ]
    metaspace = kind("metaspace")
    assert metaspace.tokenizer.token_bytes(metaspace.library.token_to_id("▁king")) == b" king"
    wordpiece = kind("wordpiece")
    assert wordpiece.tokenizer.token_bytes(wordpiece.library.token_to_id("##ing")) == b"ing"
    prefix = kind("prefix space")
    assert [prefix.tokenizer.token_bytes(prefix.library.token_to_id(t)) for t in ("Ġking", "ã")] == [
        b" king",
        b"\xe3",
    ]
    suffix = kind("suffix")
    assert suffix.tokenizer.token_bytes(suffix.library.token_to_id("the</w>")) == b"the "
    wordlevel = kind("wordlevel")
    assert [wordlevel.tokenizer.token_bytes(i) for i in (0, 1, 4)] == [b"?", b"", b"the"]


def test_ids_with_holes():
    of = kind("wordlevel")
    vocab = of.library.get_vocab()
    assert of.tokenizer.n_vocab == max(vocab.values()) + 1 > len(vocab)
    assert of.model.n_text_tokens == of.tokenizer.n_vocab
    last = max(vocab, key=vocab.get)
    found = of.model.generate("the king", max_new_tokens=1, logit_bias={vocab[last]: 100.0})
    assert found.token_ids == [vocab[last]], "the largest id can be written"


# ---- words


@every_kind
def test_words_of_every_kind(name):
    """By the definition, from the logits of each step, in float64."""
    of = kind(name)
    text = "the king and the kings sing."
    score = of.model.score(text, words=True)
    words = score.words()
    expected = ["the", "king", "and", "the", "kings", "sing."]
    if name == "wordpiece":
        expected = ["the", "king", "and", "the", "kings", "sing", "."]
    assert [word.text for word in words] == expected
    assert all(text[word.start : word.end] == word.text for word in words)
    begins = word_edges(of.model)[0]
    ids, start = alone(of, text), [*of.tokenizer.prefix] or [of.model.bos_token_id]
    logits = of.model.forward([*start, *ids])[len(start) - 1 :].astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    for word in words:
        first, last = word.first_token, word.first_token + word.n_tokens
        logprob = sum(math.log(p[i, ids[i]]) for i in range(first, last))
        if name != "suffix":  # whose tokens end words
            logprob += math.log(p[last, begins].sum())
            logprob -= math.log(p[first, begins].sum()) if first else 0.0
        assert word.logprob == pytest.approx(logprob, abs=1e-4)


def test_which_tokens_begin_words():
    of = kind("wordpiece")
    begins = word_edges(of.model)[0]
    pieces = {piece: begins[i] for piece, i in of.library.get_vocab().items()}
    assert [piece for piece, begin in pieces.items() if not begin] == [p for p in pieces if p[:2] == "##"]
    of = kind("unigram")
    begins = word_edges(of.model)[0]
    limits = {"</s>"}
    for piece, i in of.library.get_vocab().items():
        assert begins[i] == (piece.startswith("▁") or piece in limits)


# ---- packed files


@every_kind
def test_packed_and_unpacked(name):
    of = kind(name)
    packed = json.loads(json.dumps(of.tokenizer.packed()))
    again = unpack(packed, "there", of.n_vocab)
    for special in (False, True):
        for continued in (False, True):
            text = f"{TEXT} [SEP] </s>"
            ids = of.tokenizer.encode(text, special, continued=continued)
            assert again.encode(text, special, continued=continued) == ids
            assert again.decode(ids) == of.tokenizer.decode(ids)
    assert (again.prefix, again.suffix) == AROUND[name]
    assert again.special_tokens == of.tokenizer.special_tokens


def test_nothing_is_printed_of_holes(capfd):
    """Some versions of the library warn on stdout, where a command's answer stands."""
    library = MAKERS["wordlevel"]()
    description = json.loads(library.to_str())
    capfd.readouterr()
    tokenizer = unpack({"tokenizers": description}, "there", 31)
    assert tokenizer.encode("the king", special=True) == tokenizer.encode("the king", continued=True)
    assert tokenizer.packed()["tokenizers"]["model"] == description["model"]
    assert capfd.readouterr() == ("", "")


def test_a_text_that_the_library_cannot_encode():
    from tokenizers import Tokenizer, models, pre_tokenizers

    from gpt2c import TokenizerError, as_tokenizer

    library = Tokenizer(models.WordLevel({"the": 0}, unk_token="?"))  # which is not in the vocabulary
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(TokenizerError, match=r"the tokenizer words cannot encode 'a king': WordLevel error"):
        as_tokenizer(library, name="words").encode("a king")
    library.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(object())
    with pytest.raises(TokenizerError, match=r"the tokenizer words cannot be copied .*written in Python"):
        as_tokenizer(library, name="words")


def test_a_beginning_that_is_written_out_is_not_scored():
    of = kind("wordpiece")
    plain, written = of.model.score("the king"), of.model.score("[CLS] the king", special=True)
    assert (written.token_ids, written.contexts.tolist()) == ([8, 9], [1, 2])
    assert written.logprobs.tobytes() == plain.logprobs.tobytes()
    assert written.offsets == [(6, 9), (10, 14)]
    rows = [("a", "[CLS] the king"), ("b", "[CLS]"), ("c", "the")]
    found = [(key, score and score.token_ids) for key, score, _ in score_rows(of.model, rows, special=True)]
    assert found == [("a", [8, 9]), ("b", None), ("c", [8])]
    of = kind("unigram")  # without a prefix it is the begin-of-text token
    assert of.model.bos_token_id == of.library.token_to_id("</s>")
    assert of.model.score("</s> the", special=True).token_ids == alone(of, "the")


def test_a_space_that_was_put_there_is_no_word():
    of = kind("unigram")
    score = of.model.score("猫 the", words=True)
    assert score.offsets[:2] == [(0, 1), (0, 1)], "the space, and the character"
    assert [(w.text, w.start, w.end, w.first_token, w.n_tokens) for w in score.words()] == [
        ("猫", 0, 1, 0, 2),
        ("the", 2, 5, 2, 1),
    ]


def test_windows_of_a_text_that_formats_are_compared_on():
    from gpt2c.scoring.comparison import windows

    of = kind("wordpiece")
    ids = alone(of, "the king and " * 50)
    found = windows(of.model, "the king and " * 50 + "<|endoftext|>the")
    assert [len(window) for window in found] == [65, 65, 23, 2], "64 positions, and what is only predicted"
    assert all(window[0] == 2 for window in found), "[CLS] begins each"
    assert np.concatenate([window[1:] for window in found[:-1]]).tolist() == ids
    model, _ = random_gpt2(
        n_vocab=of.n_vocab, n_ctx=64, tokenizer=kind("suffix").tokenizer, bos_token_id=None
    )
    found = windows(model, "the king and " * 50)
    assert len(found[0]) == 65
    assert np.concatenate(found).tolist() == alone(kind("suffix"), "the king and " * 50)


# ---- what reading it again brought to light


@pytest.mark.parametrize(
    ("name", "text"),
    [("wordpiece", "A"), ("wordpiece", "the   "), ("wordpiece", "the\n"), ("wordlevel", "THE")],
)
def test_the_size_of_a_text_that_the_tokenizer_changes(name, text):
    score = kind(name).model.score(text)
    assert (score.n_bytes, score.n_chars) == (len(text), len(text))


def test_special_tokens_that_an_object_does_not_name():
    from gpt2c.tokenizer.huggingface import HuggingFaceTokenizer

    description = json.loads(MAKERS["metaspace"]().to_str())
    tokenizer = HuggingFaceTokenizer(description, name="named", special_tokens={"</s>": 2})
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}


@pytest.mark.parametrize("name", ["metaspace", "byte fallback"])
def test_a_prefix_that_the_model_lacks(name):
    from gpt2c import TokenizerError

    description = json.loads(MAKERS[name]().to_str())
    n_vocab = max(description["model"]["vocab"].values()) + 1
    new = {"id": n_vocab, "content": "[BOS]", "special": True, "normalized": False}
    description["added_tokens"].append(new | dict.fromkeys(("single_word", "lstrip", "rstrip"), False))
    description["post_processor"]["single"][0]["SpecialToken"]["id"] = "[BOS]"
    description["post_processor"]["pair"] = description["post_processor"]["single"]
    tokens = {"[BOS]": {"id": "[BOS]", "ids": [n_vocab], "tokens": ["[BOS]"]}}
    description["post_processor"]["special_tokens"] = tokens
    assert unpack({"tokenizers": description}, "there", n_vocab + 1).prefix == (n_vocab,)
    with pytest.raises(
        TokenizerError, match=rf"the token '\[BOS\]' has the id {n_vocab}, but the model's end"
    ):
        unpack({"tokenizers": description}, "there", n_vocab)


def test_an_unknown_character_is_no_written_beginning():
    of = kind("suffix")
    unknown = of.library.token_to_id("<unk>")
    assert of.model.bos_token_id == unknown
    assert of.model.score("[the", special=True).token_ids == alone(of, "[the")
    with pytest.raises(ValueError, match=r"the text consists only of start tokens, which are not scored"):
        kind("wordpiece").model.score("[CLS]", special=True)


class Python:
    """A tokenizer of whole words that puts a space before every text, of no library."""

    pieces = ("▁the", "▁king", "the", "king", ".", "▁.", "▁")

    def encode(self, text):
        if not text:
            raise IndexError(text)  # as some do
        words = f"▁{text}".replace(" ", "▁")
        ids = []
        while words:
            index, piece = max(
                ((i, p) for i, p in enumerate(self.pieces) if words.startswith(p)),
                key=lambda pair: len(pair[1]),
            )
            ids.append(index)
            words = words[len(piece) :]
        return ids

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids).replace("▁", " ").removeprefix(" ")


def test_an_object_that_puts_a_space_before_every_text():
    from gpt2c import as_tokenizer

    tokenizer = as_tokenizer(Python())
    assert (tokenizer.prefix, tokenizer.suffix) == ((), ())
    assert tokenizer.encode("king") == [1]
    assert tokenizer.encode("king", continued=True) == [3]
    assert tokenizer.encode(" king", continued=True) == [1]
    model, _ = random_gpt2(n_vocab=7, tokenizer=tokenizer)
    (score,) = model.score([("the", "king")])
    assert score.token_ids == [3]
    assert [s.text for s in sorted(model.suggest("the", k=7), key=lambda s: s.token_id)] == [
        " the", " king", "the", "king", ".", " .", " ",
    ]  # fmt: skip


def test_suggestions_behind_a_long_prompt():
    of = kind("byte fallback")
    prompt = alone(of, "the king and 猫 " * 4)[:63]
    for cut in (1, 17, 40, 63):
        before = prompt[:cut]
        if decoded(of, before).endswith("\ufffd"):
            before = before[:-1]
        for suggestion in of.model.suggest(before, k=of.n_vocab):
            assert suggestion.text == added(of, before, [suggestion.token_id])


def test_a_prompt_that_is_truncated_keeps_its_beginning():
    of = kind("wordpiece")
    ids = alone(of, "the king and " * 30)
    found = of.model.generate("the king and " * 30, max_new_tokens=4, overflow="truncate_left")
    assert found.prompt_token_ids == [2, *ids[-60:]]
    whole = of.model.generate(ids[:61], max_new_tokens=4, overflow="truncate_left")
    assert whole.prompt_token_ids == ids[:61]
    assert of.model.generate(ids, max_new_tokens=4, overflow="truncate_left").prompt_token_ids == ids[-61:]
    found = of.model.generate("the king", max_new_tokens=64, overflow="truncate_left")
    assert found.prompt_token_ids == [9], "there is no room for more"


def test_ids_that_no_token_has():
    for of in map(kind, MAKERS):
        with pytest.raises(ValueError, match="token ids must be at least 0; these run from -1 to 3"):
            of.tokenizer.decode([3, -1])


def test_a_suggestion_that_is_picked_is_its_token(monkeypatch, capsys):
    from gpt2c.cli.suggest import _keyboard

    of = kind("wordpiece")
    first = of.model.suggest([2, 8], of.n_vocab)
    unknown = next(i for i, suggestion in enumerate(first) if suggestion.text == " [UNK]")
    lines = iter(["the", str(unknown + 1), " king"])

    def typed(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    _keyboard(of.model, of.n_vocab, special=False, edits=())
    printed = [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines() if "%" in line]
    second = of.model.suggest([2, 8, 1], of.n_vocab)
    third = of.model.suggest([2, 8, 1, 9], of.n_vocab)
    assert printed == [f'"{s.text}"' for found in (first, second, third) for s in found]


def test_a_token_that_is_added_to_a_vocabulary_with_holes(tmp_path):
    """As transformers 4.57.6: GPT2Tokenizer adds <|endoftext|> behind the largest id, 31 here."""
    MAKERS["wordlevel"]().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    tokenizer = load_tokenizer(tmp_path, SimpleNamespace(n_vocab=32))
    again = unpack(tokenizer.packed(), "there", 32)
    for found in (tokenizer, again):
        assert found.encode("the king<|endoftext|>", special=True) == [4, 6, 31]
        assert found.decode([4, 31]) == "the <|endoftext|>"
        assert (found.n_vocab, found.bos_token_id) == (32, 31)


@pytest.mark.parametrize("name", ["prefix space", "byte fallback", "unigram"])
@pytest.mark.parametrize("text", ["猫猫", "the 猫", "zebra", "é"])
def test_the_size_of_what_stands_behind_the_first_token(name, text):
    """Without bos the first token is not scored: the space that was put there, or a part of a character."""
    of = kind(name)
    ids = alone(of, text)
    whole = of.model.score(text, bos=False)
    assert ids[0] == of.library.token_to_id({"prefix space": "Ġ"}.get(name, "▁")) or text.startswith("the")
    n_first = len(text[:3]) if text.startswith("the") else 0
    assert (whole.n_bytes, whole.n_chars) == (len(text.encode()) - n_first, len(text) - n_first)
    if name == "unigram":
        return
    for n in range(2, len(ids) + 1):
        ((_, score, _),) = score_rows(of.model, [("key", text)], max_tokens=n, bos=False)
        assert score.n_bytes == sum(len(of.tokenizer.token_bytes(token)) for token in ids[1:n])


def test_the_size_of_a_character_that_is_not_scored_from_its_beginning(bundled):
    text = "😀"
    ids = bundled.tokenizer.encode(text)
    assert b"".join(map(bundled.token_bytes, ids)) == text.encode() and len(ids) > 1
    score = bundled.score(text, bos=False)
    assert score.n_bytes == 4 - len(bundled.token_bytes(ids[0]))


def test_an_object_that_cuts_at_white_space_loses_no_word():
    from gpt2c import as_tokenizer

    words = ["?", "the", "king", "sings"]
    library = SimpleNamespace(
        encode=lambda text: [words.index(w) if w in words else 0 for w in text.split()],
        decode=lambda ids: " ".join(words[i] for i in ids),
    )
    tokenizer = as_tokenizer(library)
    assert tokenizer.encode("king sings", continued=True) == [2, 3]
    library.decode = lambda ids: words[ids[0]] + words[9]
    from gpt2c import TokenizerError

    with pytest.raises(TokenizerError, match=r"cannot decode \[1, 2\]: IndexError"):
        tokenizer.decode([1, 2])


def test_a_word_piece_without_a_decoder():
    from gpt2c import as_tokenizer

    library = MAKERS["wordpiece"]()
    library.decoder = None
    tokenizer = as_tokenizer(library)
    plural = library.token_to_id("##s")
    assert (tokenizer.token_bytes(plural), tokenizer.begins_word(plural)) == (b"s", False)


def test_a_suggestion_that_changes_the_characters_before_it():
    """A byte that ends no character makes U+FFFD of all bytes in a row, by the library's rule."""
    of = kind("byte fallback")
    before = alone(of, "the " + "😀" * 5)
    for suggestion in of.model.suggest(before, k=of.n_vocab):
        assert suggestion.text == added(of, before, [suggestion.token_id])
