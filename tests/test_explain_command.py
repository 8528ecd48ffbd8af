"""`gpt2c explain`: the page, the view for terminals, JSON, and how it fails."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.command_line import TIMEOUT, command, environment, run
from helpers.explained import NASTY, data_of
from helpers.toys import bundled_tokenizer, random_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli_surroundings import Terminal

from gpt2c.core.labels import columns, fitted, label, visible
from gpt2c.introspection.head_scores import opening
from gpt2c.views import terminal
from gpt2c.views.pages import explain_page

TEXT = "Once upon a time there was"


@pytest.fixture(scope="module")
def cache(bundled):
    return bundled.run_with_cache(TEXT)[1]


def view(model, text, width=80, encoding="utf-8", layer=None, head=None):
    """What is printed on a stream of this encoding."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    model.explain(text, layer=layer, head=head, max_new_tokens=4, num_beams=2).print(out, width)
    out.flush()
    return out.buffer.getvalue().decode(encoding)


def section(printed, title):
    """The lines of a part of the view, without its title."""
    lines = printed.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(title))
    end = next((i for i in range(begin, len(lines)) if not lines[i]), len(lines))
    return lines[begin + 1 : end]


# ---- the page


def test_the_page_is_written_and_its_place_and_size_are_noted(bundled, tmp_path):
    target = tmp_path / "page.html"
    done = run("explain", TEXT, "-o", target)
    assert (done.returncode, done.stdout) == (0, "")
    page = target.read_bytes()
    assert page.decode("utf-8") == explain_page(bundled, TEXT, max_new_tokens=8, num_beams=3)
    note = re.fullmatch(rf"{re.escape(str(target))}: ([\d.]+) KiB\n", done.stderr)
    assert float(note[1]) == pytest.approx(len(page) / 1024, abs=0.05)
    assert os.listdir(tmp_path) == ["page.html"]


def test_every_option_arrives_at_the_page(bundled):
    options = ("--layer=-1", "--head=2", "-n", "3", "--num-beams=2", "--temperature=1.5", "--seed=7")
    done = run("explain", "-", "-o", "-", *options, stdin=b"The king\n", env={"PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, done.stderr) == (0, "")
    drawn = {"temperature": 1.5, "seed": 7}
    page = explain_page(bundled, "The king", layer=-1, head=2, max_new_tokens=3, num_beams=2, **drawn)
    assert done.stdout == page
    assert done.stdout != explain_page(bundled, "The king")


def test_the_empty_text_is_the_beginning_of_one(bundled):
    done = run("explain", "", "-n", "1", "-o", "-")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == explain_page(bundled, "", max_new_tokens=1)
    printed = run("explain", "", "-n", "1").stdout
    assert section(printed, "Tokens:")[1].split()[:3] == ["0", "0", "<|endoftext…"]


def test_special_tokens_are_read_as_such_where_that_is_asked(bundled):
    typed = "The end.<|endoftext|>"
    plain = run("explain", typed, "-n", "1", "--json")
    assert plain.stderr == "<|endoftext|> is read as plain text; --special reads it as one token\n"
    assert json.loads(plain.stdout)["token_ids"] == bundled.tokenizer.encode(typed)
    special = run("explain", typed, "-n", "1", "--json", "--special")
    assert special.stderr == "" and json.loads(special.stdout)["token_ids"][-1] == 0


def test_layers_of_a_long_text_are_chosen(bundled):
    text = "The king " * 230
    done = run("explain", "-", "-o", "-", "-n", "1", "--num-beams=1", "--layers=1,-1", stdin=text.encode())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == explain_page(bundled, text, layers=[1, 5], max_new_tokens=1, num_beams=1)
    assert data_of(done.stdout)["attention"]["layers"][-1] == 5


def test_a_page_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    target = tmp_path / "page.html"
    target.write_text("old")
    for arguments in ([TEXT, "--layer", "6"], ["x " * 600]):
        done = run("explain", *arguments, "-o", target)
        assert done.returncode == 1 and done.stdout == ""
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["page.html"]
    done = run("explain", TEXT, "-o", tmp_path / "no" / "page.html")
    assert done.returncode == 1 and "cannot be written: No such file or directory" in done.stderr


@pytest.mark.parametrize("found", [True, False])
def test_the_page_is_opened_in_a_browser(tmp_path, found):
    target, seen = tmp_path / "my page.html", tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    env = {
        "PATH": "/nowhere",
        "DISPLAY": "",
        "WAYLAND_DISPLAY": "",
        "BROWSER": f"{browser} %s" if found else "",
    }
    done = run("explain", TEXT, "-n", "1", "-o", target, "--open", env=env)
    assert (done.returncode, done.stdout) == (0, "")
    assert target.stat().st_size > 1000
    if found:
        assert seen.read_text() == f"file://{tmp_path}/my%20page.html\n"
    assert ("no browser was found" in done.stderr) == (not found)


# ---- how it fails


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 1, 'no text to explain: give it as an argument or on stdin; "" is the beginning of a text'),
        (["-"], 1, "no text to explain"),
        (["x " * 600], 1, "the prompt has 1200 tokens, but the model has 512 positions; shorten it"),
        ([TEXT, "--layer", "6"], 1, r"layer must be from -6 to 5.*not 6"),
        ([TEXT, "--layer", "-7"], 1, r"layer must be from -6 to 5.*not -7"),
        ([TEXT, "--head", "4"], 1, r"head must be from -4 to 3.*not 4"),
        ([TEXT, "-n", "0"], 1, "max_new_tokens must be at least 1, not 0"),
        (
            [TEXT, "--num-beams", "0"],
            1,
            "num_beams must be from 1 to 1024, each with its own cache, not 0",
        ),
        ([TEXT, "--open"], 1, "--open shows a page: give the file for it with -o FILE"),
        ([TEXT, "--open", "-o", "-"], 1, "--open shows a page"),
        ([TEXT, "--open", "--text", "-o", "FILE"], 1, "--open shows a page"),
        ([TEXT, "-o", ""], 1, "-o takes the name of a file, not an empty one"),
        ([TEXT, "--text", "--json"], 2, "not allowed with argument"),
        ([TEXT, "--layer", "x"], 2, "invalid int value: 'x'"),
        ([TEXT, "--layre", "1"], 2, r"did you mean --layer\?"),
        ([TEXT, "--layers", "1;2"], 2, "numbers with commas between them, such as 0,5,11, not '1;2'"),
        ([TEXT, "--layers", "1,6"], 1, "layers must be from -6 to 5.*not 6"),
        (["Once", "upon"], 2, "put a text of several words in quotes"),
        ([TEXT, "-m", "/nowhere/at/all"], 1, "/nowhere/at/all"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, arguments, status, message):
    done = run("explain", *arguments, cwd=tmp_path, env={"PYTHONPATH": os.getcwd()})
    assert (done.returncode, done.stdout) == (status, "")
    assert re.search(message, done.stderr.replace("\n", " ")) and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_other_commands_do_not_load_it():
    code = (
        "import sys; from gpt2c import cli; cli.main(['suggest', 'Once upon a', '-k', '1'])\n"
        "rooms = {f'gpt2c.{name}' for name in ('cli.explain', 'introspection.lens', 'views.terminal',\n"
        "         'views.pages', 'views.plots', 'views.notebook')}\n"
        "print(rooms & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), timeout=TIMEOUT
    )
    assert done.stdout.endswith(b"set()\n"), done


# ---- as text


def test_without_a_file_the_text_is_printed(bundled, tmp_path):
    done = run("explain", TEXT, "-n", "4", "--num-beams", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == view(bundled, TEXT)
    target = tmp_path / "inside.txt"
    again = run("explain", TEXT, "--text", "-n", "4", "--num-beams", "2", "-o", target)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert target.read_text(encoding="utf-8") == done.stdout
    wide = run("explain", TEXT, env={"COLUMNS": "120"}).stdout
    assert max(map(columns, done.stdout.splitlines())) <= 80 < max(map(columns, wide.splitlines())) <= 120


def test_embeddings_are_the_arrays(bundled, cache):
    rows = section(view(bundled, TEXT), "Tokens:")[1:]
    assert len(rows) == 6
    for at, row in enumerate(rows):
        position, token_id, token, *numbers = row.split()
        assert (int(position), int(token_id)) == (at, cache.token_ids[at])
        assert token == cache.tokens[at].replace(" ", "\u2423")
        parts = (cache["embed"][at, :2], cache["pos_embed"][at, :2], cache["resid_pre", 0][at, :2])
        assert numbers == [f"{value:z.2f}" for part in parts for value in part]


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (3, 2), (-1, -1)])
def test_attention_in_numbers_is_the_arrays(bundled, cache, layer, head):
    printed = view(bundled, TEXT, layer=layer, head=head)
    at = opening(cache, layer % 6, head % 4).token
    asks = cache.tokens[at].replace(" ", "\u2423")
    title = f"Attention, layer {layer % 6}, head {head % 4}: what token {at}, {asks}, takes from which"
    assert title in printed
    lines = section(printed, "Attention,")
    rows, result = lines[2:-1], lines[-1]
    q, k, v, z = (cache[name, layer][:, head] for name in "qkvz")
    scores, weights = cache["attn_scores", layer][head, at], cache["pattern", layer][head, at]
    assert re.findall(r"-?\d+\.\d+", lines[0]) == [f"{value:z.2f}" for value in q[at, :4]]
    assert len(rows) == at + 1
    for key, row in enumerate(rows):
        expected = [
            *(f"{value:z.2f}" for value in k[key, :2]),
            f"{scores[key]:.2f}",
            f"{weights[key]:.1%}",
            *(f"{value:z.2f}" for value in [*v[key, :2], *(weights[key] * v[key, :2])]),
        ]
        assert re.findall(r"-?\d+\.\d+%?", row[15:]) == expected
    assert re.findall(r"-?\d+\.\d+", result) == [f"{value:z.2f}" for value in z[at, :2]]


def test_the_row_in_numbers_is_the_one_that_the_page_opens_with(bundled):
    explanation = bundled.explain("The animal didn't cross the street because it was too tired")
    place = data_of(explanation.html)["start"]
    assert place["token"] < len(explanation.token_ids) - 1  # else the last row would pass
    assert {name: explanation.to_dict()[name] for name in place} == place
    title = f"Attention, layer {place['layer']}, head {place['head']}: what token {place['token']},"
    assert title in str(explanation)


def test_of_a_long_text_the_largest_weights_are_shown_and_the_rest_is_summed_up(bundled):
    text = TEXT * 5
    _, cache = bundled.run_with_cache(text)
    at = opening(cache, 2, 0).token
    weights = cache["pattern", 2][0, at, : at + 1]
    assert len(weights) > 12
    lines = section(view(bundled, text, layer=2, head=0), "Attention,")
    shown = [int(row.split()[0]) for row in lines[2:-2]]
    assert shown == sorted(np.argsort(-weights)[:12].tolist())
    rest = 1 - weights[shown].sum(dtype=float)
    assert lines[-2].strip() == f"and {len(weights) - 12} more, {rest:.1%} together"


def test_the_pattern_is_a_matrix_of_blocks(bundled, cache):
    lines = section(view(bundled, TEXT, layer=2, head=1), "Pattern of layer 2, head 1")
    pattern = cache["pattern", 2][1]
    levels = np.array([(i / 8) ** 2 for i in range(1, 9)])
    for at, row in enumerate(lines[1:7]):
        blocks = ["▁▂▃▄▅▆▇█"[np.searchsorted(levels, weight)] * 2 for weight in pattern[at, : at + 1]]
        assert row.split()[2:] == blocks + ["··"] * (5 - at)
    assert lines[7].startswith("up to ▁ 2%") and lines[7].endswith("█ 100%")
    assert "minus infinity" in lines[8]


def test_what_comes_next_is_what_suggest_says(bundled):
    rows = section(view(bundled, TEXT), "Next:")
    suggestions = bundled.suggest(TEXT, k=5)
    assert [row.split()[:2] for row in rows] == [
        [f"{s.probability:.2%}", s.text.replace(" ", "\u2423")] for s in suggestions
    ]
    full = 50 * suggestions[0].probability  # columns
    assert rows[0].split()[2].count("█") == int(full)


def test_the_logit_lens_shows_the_best_of_every_layer_for_the_last_tokens(bundled, cache):
    lines = section(view(bundled, TEXT), "Logit lens:")
    lens = cache.logit_lens(1)
    assert lines[0].split() == ["\u2423upon", "\u2423a", "\u2423time", "\u2423there", "\u2423was"]
    assert [line[:9].strip() for line in lines[1:-1]] == list(reversed(lens.names))
    for line, ids, logprobs in zip(
        lines[1:-1], lens.top_ids[::-1, 1:, 0], lens.top_logprobs[::-1, 1:, 0], strict=True
    ):
        expected = []
        for token, logprob in zip(ids.tolist(), logprobs, strict=True):
            expected += [
                label(bundled.token_bytes(token).decode("utf-8", "backslashreplace"), token),
                f"{np.exp(logprob):.0%}",
            ]
        assert line[9:].split() == expected
    assert lines[-1].split()[2:] == ["\u2423a", "\u2423time", "\u2423there", "\u2423was", "?"]


def test_the_text_stands_over_its_probabilities(bundled):
    text, blocks, total = section(view(bundled, TEXT), "The text:")
    score = bundled.score(TEXT, bos=False)
    assert text == TEXT and total == f"{score.bits:.1f} bits, perplexity {score.perplexity:.2f}"
    levels = np.array([(i / 8) ** 2 for i in range(1, 9)])
    expected = " " * 4
    for logprob, (start, end) in zip(score.logprobs, score.offsets, strict=True):
        expected += "▁▂▃▄▅▆▇█"[np.searchsorted(levels, np.exp(logprob))] * (end - start)
    assert blocks == expected


def test_heads_are_ranked_by_their_scores(bundled):
    text = TEXT + " " + TEXT
    _, cache = bundled.run_with_cache(text)
    scores = cache.head_scores()
    lines = section(view(bundled, text, layer=1, head=2), "Heads:")
    for line, name in zip(
        lines, ("previous_token", "duplicate_token", "induction", "first_token"), strict=False
    ):
        values = getattr(scores, name)
        order = np.argsort(-values, axis=None, kind="stable")[:3]
        expected = ["L1H2", f"{values[1, 2]:.0%}"]
        for i in order.tolist():
            expected += [f"L{i // 4}H{i % 4}", f"{values.flat[i]:.0%}"]
        assert line[16:].split() == expected and line.startswith(name.replace("_", " "))
    assert lines[4].split() == ["entropy", "L1H2", f"{scores.entropy[1, 2]:.2f}", "nats"]
    nothing = section(view(bundled, TEXT), "Heads:")
    assert "no token of this text qualifies" in nothing[2]


def test_the_parts_of_the_logit_are_told(bundled, cache):
    printed = view(bundled, TEXT)
    found = cache.attribution()
    word = bundled.suggest(TEXT, k=1)[0].text.replace(" ", "\u2423")
    assert f"Contributions to the logit of the next token, {word}: {cache.logits[-1].max():.2f}" in printed
    lines = section(printed, "Contributions to the logit")
    for layer, line in enumerate(lines[1:7]):
        values = [found.components[f"{part} {layer}"] for part in ("attn", "mlp")]
        assert re.findall(r"-?\d+\.\d+", line) == [f"{value:.2f}" for value in values]
        most = max(map(abs, found.components.values()))
        assert line.count("░") == sum(round(-25 * value / most) for value in values if value < 0)


def test_continuations_and_their_probabilities(bundled):
    greedy, search = section(view(bundled, TEXT), "Continued")
    one = bundled.generate(TEXT, max_new_tokens=4)
    two = bundled.generate(TEXT, max_new_tokens=4, num_beams=2, length_penalty=0.0)
    assert greedy.split(maxsplit=2) == ["greedy", f"{sum(one.logprobs):.4f}", one.text.strip()]
    assert search.split(maxsplit=3) == ["2", "beams", f"{sum(two.logprobs):.4f}", two.text.strip()]


def test_long_continuations_are_shown_whole(bundled):
    text = bundled.generate(TEXT, max_new_tokens=60).text
    out = io.StringIO()
    bundled.explain(TEXT, max_new_tokens=60, num_beams=1).print(out, 72)
    lines = out.getvalue().split("(nats)\n")[1].splitlines()
    assert len(lines) > 2 and all(columns(line) <= 72 for line in lines)
    shown = "".join(line[22:] for line in lines)
    assert shown == "".join(map(visible, text))


def test_notes_of_what_one_may_not_expect(tmp_path):
    (tmp_path / "The king").write_text("A queen.")
    done = run("explain", "The king", "-n", "1", cwd=tmp_path)
    assert (
        "explaining the words 'The king'; for the contents of the file: gpt2c explain - < The king"
        in done.stderr
    )
    done = run("explain", "-", "-n", "5", stdin=b" the" * 510)
    assert done.stderr == "room for 2 of 5 new tokens: the model has 512 positions\n" and done.returncode == 0


def test_the_search_is_for_the_most_probable_text_whatever_its_length():
    ends = tuple(range(1500))  # many tokens end a text
    model, _ = random_gpt2(0, n_vocab=4096, tokenizer=bundled_tokenizer(), eos_token_ids=ends, std=0.5)
    _, search = section(view(model, "The king"), "Continued")
    best = model.generate("The king", max_new_tokens=4, num_beams=2, length_penalty=0.0)
    by_token = model.generate("The king", max_new_tokens=4, num_beams=2)
    assert best.token_ids != by_token.token_ids
    assert search.split() == ["2", "beams", f"{sum(best.logprobs):.4f}", *best.text.split()]


def test_a_single_token_and_a_text_that_fills_the_model(bundled):
    printed = view(bundled, "The")
    assert "The text:" not in printed and "Continued" in printed
    ids = bundled.tokenizer.encode("The king " * 300)[:512]
    full = view(bundled, bundled.tokenizer.decode(ids))
    assert "Continued" not in full and "Pattern" in full


@settings(max_examples=15)
@given(
    text=st.text(min_size=1, max_size=12),
    width=st.integers(72, 130),
    encoding=st.sampled_from(["utf-8", "ascii"]),
)
def test_no_text_breaks_the_lines(bundled, text, width, encoding):
    printed = view(bundled, text, width, encoding)
    for line in printed.splitlines():
        assert columns(line) <= width
        assert all(character.isprintable() for character in line)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_where_the_encoding_lacks_blocks_plain_signs_stand_for_them(bundled, encoding):
    printed = view(bundled, TEXT, encoding=encoding)
    assert printed.isascii() and printed.count("?") == 1  # after the text
    assert re.search(r"  0 Once +@@ \.\. \.\.", printed) and "#####" in printed
    for text in NASTY:
        odd = view(bundled, text, encoding=encoding)
        assert all(character.isprintable() for line in odd.splitlines() for character in line)


def test_colours_on_a_terminal_and_nowhere_else(bundled):
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        terminal = Terminal("explain", TEXT, "-n", "1", env={"COLUMNS": "100", **env})
        seen = terminal.rest()
        assert terminal.close() == 0
        assert ("\x1b[1mNext:" in seen and "\x1b[32m upon\x1b[0m" in seen) == coloured
        assert ("\x1b" in seen) == coloured and "upon" in seen
    assert "\x1b" not in run("explain", TEXT, "-n", "1").stdout


def test_columns_of_wide_and_combining_characters():
    assert [columns(text) for text in ("abc", "你好", "🙂", "e\u0301", "\u200b")] == [3, 4, 2, 1, 0]
    assert (
        fitted("你好吗", 5, "~") == "你好~" and fitted("你好吗", 4, "~") == "你~ " and fitted("a", 3) == "a  "
    )
    assert label(" a\n\u200b\u202e\x1b") == "\u2423a\\n\\u200b\\u202e\\x1b"
    assert (label("", 7), label("\u0301")) == ("token 7", "\u25cc\u0301")


# ---- JSON


def test_json_has_the_arrays(bundled, cache):
    done = run("explain", TEXT, "--json", "--layer", "2", "--head", "1", "-n", "4")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    def array(values, dtype=np.float32):
        return np.array([[-np.inf if x is None else x for x in row] for row in values], dtype)

    assert (told["layer"], told["head"], told["text"]) == (2, 1, TEXT)
    assert told["token_ids"] == cache.token_ids.tolist() and told["tokens"] == cache.tokens
    for name in ("q", "k", "v", "z"):
        assert np.array_equal(array(told[name]), cache[name, 2][:, 1])
    for name in ("pattern", "attn_scores"):
        assert np.array_equal(array(told[name]), cache[name, 2][1])
    assert told["attn_scores"][0][1] is None and told["pattern"][0][1] == 0
    lens = cache.logit_lens(5)
    for name in ("top_ids", "top_logprobs", "entropies", "token_ids", "ranks", "logprobs"):
        assert np.array_equal(
            np.array(told["logit_lens"][name], getattr(lens, name).dtype), getattr(lens, name)
        )
    assert told["logit_lens"]["names"] == list(lens.names)
    scores = cache.head_scores()
    for name in ("previous_token", "duplicate_token", "induction", "first_token", "entropy"):
        found = np.array(told["head_scores"][name], np.float32)  # None: NaN
        assert np.array_equal(found, getattr(scores, name), equal_nan=True)
    attribution = cache.attribution()
    assert told["attribution"]["logit"] == attribution.logit
    assert told["attribution"]["components"] == attribution.components
    assert np.array_equal(np.array(told["attribution"]["heads"], np.float32), attribution.heads)
    assert told["attribution"]["token_id"] == told["next"][0]["token_id"] == int(cache.logits[-1].argmax())
    assert [s["probability"] for s in told["next"]] == [s.probability for s in bundled.suggest(TEXT, k=5)]
    rows = bundled.score(TEXT, bos=False).rows()
    assert told["score"] == json.loads(json.dumps(rows))
    greedy, search = told["generations"]
    assert (
        greedy["token_ids"] == bundled.generate(TEXT, max_new_tokens=4).token_ids and greedy["num_beams"] == 1
    )
    assert search["num_beams"] == 3

    sizes = {**told["sizes"], "n_layer + 1": told["sizes"]["n_layer"] + 1}
    for name, shape in told["shapes"].items():
        value = told
        for part in name.split("."):
            value = value[part]
        assert list(np.shape(value)) == [sizes[size] for size in shape.strip("[]").split(", ")], name


def test_json_keeps_every_character_in_any_encoding():
    text = "".join(NASTY)
    for encoding in ("utf-8", "ascii"):
        done = subprocess.run(
            command("explain", "-", "--json", "-n", "1"),
            input=text.encode("utf-8"),
            capture_output=True,
            timeout=TIMEOUT,
            env=environment(PYTHONIOENCODING=encoding),
        )
        assert json.loads(done.stdout.decode(encoding))["text"] == text


def test_the_view_has_a_least_width():
    assert terminal.Screen(io.StringIO(), 20).width == 72
