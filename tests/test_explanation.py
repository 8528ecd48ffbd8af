"""`model.explain`: one object for page, text and JSON, of the model as it is or edited."""

import base64
import io
import json
import os

import numpy as np
import pytest
from helpers.command_line import run
from helpers.explained import Page, data_of
from helpers.toys import random_gpt2, same

from gpt2c import ContextLengthError, edits
from gpt2c.introspection.head_scores import opening
from gpt2c.views.pages import explain_page

TEXT = "The princess was sad because"
SILENT = [
    ("blocks.3.attn.hook_z", edits.zero(heads=2)),
    ("blocks.5.hook_attn_out", edits.scale(0.5, positions=slice(4, None))),
]
WORDS = ["blocks.3.attn.hook_z: zero, heads 2", "blocks.5.hook_attn_out: scale 0.5, positions from 4 on"]
OPTIONS = (
    "--edit",
    "blocks.3.attn.hook_z:zero:heads=2",
    "--edit",
    "blocks.5.attn_out:scale=0.5:positions=4-",
)


def floats(array):
    return np.frombuffer(base64.b64decode(array["data"]), "<f4")


@pytest.fixture(scope="module")
def edited(bundled):
    return bundled.explain(TEXT, layer=3, head=2, edits=SILENT)


# ---- the object


def test_page_text_and_json_are_those_of_the_command(bundled, tmp_path):
    explanation = bundled.explain(TEXT, layer=2, head=-1, max_new_tokens=3, num_beams=2, seed=4)
    options = ("--layer", 2, "--head=-1", "-n", 3, "--num-beams", 2, "--seed", 4)
    assert run("explain", TEXT, *options, "-o", "-").stdout == explanation.html
    assert run("explain", TEXT, *options).stdout.strip("\n") == str(explanation)
    told = json.loads(run("explain", TEXT, *options, "--json").stdout)
    assert told == json.loads(json.dumps(explanation.to_dict()))
    assert told["edits"] == [] and "This is not the model" not in str(explanation)


def test_a_page_is_saved_once_it_is_complete(bundled, tmp_path, monkeypatch):
    target = tmp_path / "page.html"
    target.write_text("old")
    explanation = bundled.explain(TEXT, max_new_tokens=1, num_beams=1)
    renamed = []
    monkeypatch.setattr(os, "replace", lambda a, b: renamed.append((os.path.getsize(a), b)))
    explanation.save(target)
    assert renamed == [(len(explanation.html.encode()), str(target))] and target.read_text() == "old"
    monkeypatch.undo()
    explanation.save(str(target))
    assert target.read_text("utf-8") == explanation.html


def test_in_a_notebook_the_page_stands_in_a_frame_of_its_own(bundled):
    explanation = bundled.explain('<script>pwned=1</script> "', max_new_tokens=1, num_beams=1)
    page = Page(explanation._repr_html_())
    [frame] = page.elements
    assert frame.tag == "iframe" and frame.attributes["srcdoc"] == explanation.html
    assert frame.attributes["sandbox"] == "allow-scripts"  # not allow-same-origin: nothing outside is reached
    assert "height:720px" in frame.attributes["style"]
    assert repr(explanation) == (
        f"<Explanation of {len(explanation.token_ids)} tokens: print it, or .save(path) its page>"
    )


def test_token_ids_and_the_beginning_of_a_text(bundled):
    ids = bundled.tokenizer.encode(TEXT)
    by_ids, by_text = (bundled.explain(given, max_new_tokens=2) for given in (ids, TEXT))
    told, expected = by_ids.to_dict(), by_text.to_dict()
    assert [row["logprob"] for row in told.pop("score")] == [row["logprob"] for row in expected.pop("score")]
    assert told == expected and "perplexity" in str(by_ids)
    assert data_of(by_ids.html) == data_of(by_text.html) | {"text": TEXT}
    empty = bundled.explain("", max_new_tokens=2)
    assert empty.token_ids.tolist() == [bundled.config.bos_token_id]
    assert empty.to_dict()["score"] is None and "Next:" in str(empty) and data_of(empty.html)


def test_special_tokens_and_short_texts(bundled):
    text, new = "<|endoftext|>The king", {"max_new_tokens": 1, "num_beams": 1}
    for special in (False, True):
        ids = bundled.encode([text], special=special)[0].tolist()
        told = bundled.explain(text, special=special, **new).to_dict()
        assert [row["token_id"] for row in told["score"]] == ids[1:] and told["text"] == text
    assert len(bundled.explain([5, 6], **new).to_dict()["score"]) == 1
    assert bundled.explain("").text == "" and bundled.explain([0]).text == "<|endoftext|>"


def test_a_vocabulary_of_three():
    model, _ = random_gpt2(n_vocab=3)
    explanation = model.explain([1, 2], max_new_tokens=1, num_beams=1)
    told = explanation.to_dict()
    assert len(told["next"]) == told["sizes"]["best"] == 3 and "3 most probable" in str(explanation)
    assert data_of(explanation.html)["walk"]["shown"] == [0, 1]


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (TEXT, {"layer": 6}, ValueError, "layer must be from -6 to 5"),
        (TEXT, {"head": 4}, ValueError, "head must be from -4 to 3"),
        (TEXT, {"num_beams": 0}, ValueError, "num_beams must be from 1"),
        (TEXT, {"max_new_tokens": 0}, ValueError, "max_new_tokens must be at least 1"),
        (TEXT, {"temperature": -1}, ValueError, "temperature must be"),
        (TEXT, {"special": 1}, TypeError, "special must be True or False"),
        (
            TEXT,
            {"edits": [("blocks.9.attn.hook_z", edits.zero())]},
            ValueError,
            "this model has no value called",
        ),
        (TEXT, {"edits": [edits.zero]}, TypeError, "edits are pairs of a name and a function"),
        (TEXT, {"edits": 5}, TypeError, r"edits are pairs of a name and a function, such as .*, not 5"),
        (TEXT, {"top_p": 0.5}, TypeError, "top_p"),
        ([TEXT, TEXT], {}, TypeError, "explain takes one text, not a list of 2"),
        ("x " * 600, {}, ContextLengthError, "1200 tokens, but the model has 512 positions"),
    ],
)
def test_what_is_wrong_is_said_at_once(bundled, text, options, error, message):
    with pytest.raises(error, match=message):
        bundled.explain(text, **options)


# ---- edits


def test_all_numbers_are_of_the_edited_model(bundled, edited):
    """What the same edits give through the other methods."""
    told = edited.to_dict()
    _, cache = bundled.run_with_cache(TEXT, edits=SILENT)
    assert told["edits"] == edited.edits == WORDS
    assert repr(edited).startswith("<Explanation of 5 tokens, 2 edits: ")
    for name in ("q", "k", "v", "z"):
        assert np.array_equal(np.array(told[name], np.float32), cache[name, 3][:, 2])
    assert not np.any(told["z"])
    assert told["attribution"] == cache.attribution().to_dict()
    assert told["head_scores"] == cache.head_scores().to_dict()
    assert told["logit_lens"] == cache.logit_lens(5).to_dict()
    suggested = bundled.suggest(TEXT, 5, edits=SILENT)
    assert [one["probability"] for one in told["next"]] == [one.probability for one in suggested]
    assert told["score"] == bundled.score(TEXT, bos=False, edits=SILENT).rows()
    searched = bundled.generate(TEXT, max_new_tokens=8, num_beams=3, length_penalty=0.0, edits=SILENT)
    greedy = bundled.generate(TEXT, max_new_tokens=8, edits=SILENT)
    assert [one["logprobs"] for one in told["generations"]] == [greedy.logprobs, searched.logprobs]
    plain = bundled.explain(TEXT, layer=3, head=2).to_dict()
    differ = {name for name in told if told[name] != plain[name]}
    later = {"logit_lens", "attribution", "head_scores", "next", "score", "generations"}
    assert differ == {"edits", "z", *later}


def test_the_page_is_of_the_edited_model(bundled, edited):
    data = data_of(edited.html)
    logits, cache = bundled.run_with_cache(TEXT, edits=SILENT)
    assert data["edits"] == {"told": WORDS, "attention": []}
    walk, shown = data["walk"], data["walk"]["shown"]
    z = walk["layers"][3]["heads"]["z"]  # in 65,536 steps from low to high
    step = (z["high"] - z["low"]) / 65535
    codes = np.frombuffer(base64.b64decode(z["data"]), "<u2").reshape(len(shown), 4, 8)
    assert np.abs(z["low"] + step * codes - cache["z", 3][shown, :, :8]).max() <= 0.51 * step
    left = floats(walk["layers"][3]["resid_post"]).reshape(len(shown), -1)
    assert same(left, cache["resid_post", 3][shown, :8])
    last = floats(walk["candidates"]["logits"]).reshape(len(shown), -1)[-1]
    assert same(last, -np.sort(-logits[-1])[: len(last)])
    lens = cache.logit_lens()
    assert same(floats(data["lens"]["logprobs"]), lens.logprobs.ravel())
    ids = edited.token_ids.tolist()
    assert same(floats(data["scores"]["logprobs"]), bundled.score(ids, bos=False, edits=SILENT).logprobs)
    new = {"max_new_tokens": 8, "edits": SILENT}
    drawn = bundled.generate(TEXT, temperature=0.8, top_k=40, top_p=0.95, seed=0, **new)
    assert data["generation"]["logprobs"] == drawn.logprobs
    assert data["search"]["greedy"]["logprobs"] == bundled.generate(TEXT, **new).logprobs
    best = bundled.generate(TEXT, num_beams=3, num_return_sequences=3, length_penalty=0.0, **new)
    assert [one["logprobs"] for one in data["search"]["found"]] == [one.logprobs for one in best]
    assert "edits" not in data_of(explain_page(bundled, TEXT, max_new_tokens=1, num_beams=1))


def test_without_a_layer_it_is_of_the_most_telling_head(bundled):
    _, cache = bundled.run_with_cache(TEXT, "attn.hook_pattern")
    layer, head, _ = opening(cache)
    told = bundled.explain(TEXT).to_dict()
    assert (told["layer"], told["head"]) == (layer, head)
    assert f"Attention, layer {layer}, head {head}:" in str(bundled.explain(TEXT))
    assert bundled.explain(TEXT, layer=2).to_dict()["head"] == opening(cache, 2).head


def test_results_of_heads_that_are_edited_count_in_the_attribution(bundled):
    changes = [("blocks.3.attn.hook_result", edits.zero(heads=2))]
    told = bundled.explain(TEXT, edits=changes).to_dict()["attribution"]
    _, cache = bundled.run_with_cache(TEXT, ["*", "*result"], edits=changes)
    assert told["heads"][3][2] == 0 != bundled.explain(TEXT).to_dict()["attribution"]["heads"][3][2]
    assert np.allclose(told["heads"], cache.attribution().heads, atol=1e-5)


def test_the_command_shows_the_same_and_says_so(bundled, edited, tmp_path):
    place = ("--layer", 3, "--head", 2)
    printed = run("explain", TEXT, *place, *OPTIONS).stdout
    assert printed.strip("\n") == str(edited)
    lines = printed.splitlines()
    at = lines.index("This is not the model as it is: these edits change what it computes")
    assert lines[at + 1 : at + 3] == [f"  {one}" for one in WORDS]
    assert run("explain", TEXT, *place, *OPTIONS, "-o", "-").stdout == edited.html
    assert json.loads(run("explain", TEXT, *place, *OPTIONS, "--json").stdout)["edits"] == WORDS


def test_an_edit_is_refused_where_it_does_not_fit(tmp_path):
    page = tmp_path / "page.html"
    for words, status, message in (
        ("z:nought", 2, "'nought' is not an edit"),
        ("z:zero:positions=5", 1, "positions of blocks.0.attn.hook_z must be from 0 to 4, not 5"),
        ("resid_pre:scale=1e30", 1, "the edits make logits infinite or NaN"),
    ):
        done = run("explain", TEXT, "--edit", words, "-o", page)
        assert done.returncode == status and message in done.stderr and "Traceback" not in done.stderr
        assert os.listdir(tmp_path) == []


def test_scores_are_left_out_where_weights_do_not_follow_from_them(bundled):
    for name in ("pattern", "attn_scores"):
        changes = [(f"blocks.{layer}.attn.hook_{name}", edits.scale(3, heads=1)) for layer in (1, 4)]
        data = data_of(bundled.explain(TEXT, max_new_tokens=1, num_beams=1, edits=changes).html)
        assert data["edits"]["attention"] == [1, 4]
        assert data["attention"]["layers"] == list(range(6))
        assert data["attention"]["scores"]["layers"] == [0, 2, 3, 5]
    everywhere = bundled.explain(TEXT, max_new_tokens=1, edits=[("pattern", edits.scale(-2))])
    assert "scores" not in data_of(everywhere.html)["attention"] and "Pattern" in str(everywhere)


def test_shares_are_told_as_they_are(bundled):
    """Weights that are edited need not add up to 1."""
    phrase = ": each row shares out 100%"
    pairs = [("pattern", edits.scale(0.25, heads=0))]
    for head, says in ((0, False), (1, True)):
        told = str(bundled.explain(TEXT, layer=2, head=head, max_new_tokens=1, num_beams=1, edits=pairs))
        assert (phrase in told) == says
    long = "The animal didn't cross the street because it was too tired. " * 2
    options = {"layer": 2, "head": 0, "max_new_tokens": 1, "num_beams": 1}
    told = str(bundled.explain(long, **options, edits=pairs))
    _, cache = bundled.run_with_cache(long, "pattern", edits=pairs)
    at = opening(cache, 2, 0).token
    rest = np.sort(cache["pattern", 2][0, at, : at + 1])[:-12].astype(float)
    assert len(rest) > 0
    assert f"    and {len(rest)} more, {rest.sum():.1%} together" in told


def test_a_name_of_an_edit_is_only_text():
    def change(value, hook):
        value *= 2

    change.__name__ = "</script><b>\x1b[31m"
    model, _ = random_gpt2()
    explanation = model.explain([1, 2, 3], max_new_tokens=1, edits=[("z", change)])
    assert data_of(explanation.html)["edits"]["told"] == ["z (2 values): </script><b>\x1b[31m"]
    out = io.StringIO()
    explanation.print(out, 80)
    assert "</script><b>\\x1b[31m" in out.getvalue() and "\x1b" not in out.getvalue()
