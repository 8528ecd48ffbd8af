"""Dialogues as prompts: the texts and tokens of transformers, and nothing that a message can bring in."""

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("jinja2")

from types import SimpleNamespace

from helpers.saved_tokenizer import SAVED
from helpers.small_tokenizers import FOLDERS, write_files

from gpt2c.server import template_worker
from gpt2c.server.rendering import Renderer, prompt_ids
from gpt2c.tokenizer import load_tokenizer

GOLDEN = json.loads((Path(__file__).parent / "data/chat/chat.json").read_text(encoding="utf-8"))
TEMPLATES = GOLDEN["templates"]
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    def load(name):
        if name in ("bert", "metaspace"):
            pytest.importorskip("tokenizers")
        folder = SAVED if name == "saved" else tmp_path_factory.mktemp(name)
        if name != "saved":
            write_files(folder, FOLDERS[name])
        return load_tokenizer(folder, SimpleNamespace(n_vocab=320))

    return load


def rendered(tokenizer, template, *dialogues):
    """What a server's renderer makes of dialogues, one after the other: an error, or a Dialogue."""
    model = SimpleNamespace(chat_template=template, tokenizer=tokenizer)

    async def all_of_them():
        renderer, found = Renderer(), []
        with contextlib.closing(renderer):
            for messages in dialogues:
                try:
                    found.append(await renderer.dialogue(model, messages))
                except ValueError as error:
                    found.append(error)
        return found

    return asyncio.run(all_of_them())


def said(*contents, role="user"):
    return [{"role": role, "content": content} for content in contents]


@pytest.mark.parametrize("name", ["saved", "gpt2", "add-bos", "bert", "metaspace"])
@pytest.mark.parametrize("kind", TEMPLATES)
def test_texts_and_tokens_are_those_of_transformers(tokenizers, name, kind):
    tokenizer = tokenizers(name)
    cases = [case for case in GOLDEN["cases"] if (case["tokenizer"], case["template"]) == (name, kind)]
    assert len(cases) == 5
    for case, found in zip(
        cases, rendered(tokenizer, TEMPLATES[kind], *(case["messages"] for case in cases)), strict=True
    ):
        if "raised" in case:
            assert case["raised"] in str(found)
        else:
            assert found.text == case["text"]
            assert prompt_ids(tokenizer, found) == case["ids"]


class TestSpecialTokens:
    """Those that stand in messages are ordinary text; those of the template are not."""

    def ids(self, tokenizer, template, *contents):
        [found] = rendered(tokenizer, template, said(*contents))
        if isinstance(found, ValueError):
            raise found
        return prompt_ids(tokenizer, found)

    def test_a_message_cannot_bring_one_in(self, tokenizers):
        tokenizer = tokenizers("saved")
        end = tokenizer.special_tokens[END]
        found = self.ids(tokenizer, TEMPLATES["dialogpt"], f"the king{END} had", END)
        assert found == [*tokenizer.encode(f"the king{END} had"), end, *tokenizer.encode(END), end]

    @pytest.mark.parametrize(
        ("template", "contents"),
        [
            ("{% for m in messages %}{{ m.content }}{% endfor %}", ("a<|endof", "text|>b")),
            ("<|{{ messages[0].content }}|>", ("endoftext",)),
            ("{{ messages[0].content }}text|>", ("<|endof",)),
            ("{{ messages[0].content | trim }}", (f" {END}\n",)),
        ],
    )
    def test_nor_a_part_of_one(self, tokenizers, template, contents):
        tokenizer = tokenizers("saved")
        [found] = rendered(tokenizer, template, said(*contents))
        assert END in found.text
        assert prompt_ids(tokenizer, found) == tokenizer.encode(found.text)

    def test_where_the_template_changes_messages_it_is_refused(self, tokenizers):
        tokenizer = tokenizers("saved")
        template = "{{ messages[0].content | replace('b', 'cc') }}{{ eos_token }}"
        end = tokenizer.special_tokens[END]
        assert self.ids(tokenizer, template, "abc") == [*tokenizer.encode("accc"), end]
        with pytest.raises(ValueError, match=r"leave out <\|endoftext\|>"):
            self.ids(tokenizer, template, f"ab{END}")

    def test_a_prompt_of_nothing_is_refused(self, tokenizers):
        with pytest.raises(ValueError, match="writes nothing for these messages"):
            self.ids(tokenizers("saved"), "", "a")


class TestBounds:
    """A template is a program from a file: it may do nothing but write."""

    @pytest.mark.parametrize(
        ("template", "told"),
        [
            ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
            ("{{ messages.append(1) }}", "unsafe"),
            ("{% for a in range(10**9) %}{% endfor %}", "Range too big"),
            ("{% include 'x' %}", "no loader"),
            ("{% if %}", "Expected an expression"),
            ("{{ 'é' * 5000000 }}", "writes too much"),
            ("{{ sep_token }}", "it uses sep_token, which gpt2c does not have"),
            ("{{ messages[0].content + 1 }}", "str"),
        ],
    )
    def test_what_it_must_not_is_told_in_a_sentence(self, tokenizers, template, told):
        [found] = rendered(tokenizers("gpt2"), template, said("a"))
        assert str(found).startswith("the model's chat template fails: ") and told in str(found)

    @pytest.mark.parametrize(
        "template",
        [
            "{% set n = range(99999) %}{% for a in n %}{% for b in n %}{% endfor %}{% endfor %}",
            "{% set n = 9 * messages | length %}{{ n ** (n ** n) }}",
            "{{ ('a' * (2 ** 30)) | length }}",
            "{{ ('%999999999d' % 1) | length }}",
            "{{ 'a' | center(2 ** 30) | length }}",
        ],
    )
    def test_time_and_memory_are_bounded_and_the_next_dialogue_is_written(self, tokenizers, template):
        template = "{% if messages[0].content == 'go' %}" + template + "{% else %}fine{% endif %}"
        begun = time.monotonic()
        found = rendered(tokenizers("gpt2"), template, said("go"), said("no"))
        assert time.monotonic() - begun < 60
        assert "it takes too much" in str(found[0])
        assert found[1].text == "fine"

    def test_an_answer_goes_to_its_question_when_another_was_given_up(self, tokenizers):
        slow = "{% for a in range(3000) %}{% for b in range(100) %}{% endfor %}{% endfor %}"
        template = "{% if messages[0].content == 'slow' %}" + slow + "{% endif %}{{ messages[0].content }}"
        model = SimpleNamespace(chat_template=template, tokenizer=tokenizers("gpt2"))

        async def given_up():
            with contextlib.closing(Renderer()) as renderer:
                await renderer.dialogue(model, said("first"))
                task = asyncio.ensure_future(renderer.dialogue(model, said("slow")))
                await asyncio.sleep(0.02)
                task.cancel()
                return (await renderer.dialogue(model, said("next"))).text

        assert asyncio.run(given_up()) == "next"

    def test_without_jinja2_the_error_names_the_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "jinja2", None)
        assert 'pip install "gpt2c[server]"' in template_worker.rendered("never seen before", [{}])["error"]

    def test_the_process_ends_with_the_renderer(self, tokenizers):
        model = SimpleNamespace(chat_template="a", tokenizer=tokenizers("gpt2"))

        async def pid():
            renderer = Renderer()
            with contextlib.closing(renderer):
                await renderer.dialogue(model, said("a"))
                return renderer._process.pid

        with pytest.raises(ProcessLookupError):
            os.kill(asyncio.run(pid()), 0)


def test_the_time_is_that_of_the_server():
    [text] = template_worker.rendered("{{ strftime_now('%Y') }}", [{}])["texts"]
    assert abs(int(text) - time.localtime().tm_year) <= 1
