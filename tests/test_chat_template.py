"""Chat templates: where they are read and kept."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.small_tokenizers import FOLDERS, write_files, write_folder

from gpt2c import GPT2, TokenizerError
from gpt2c.tokenizer import load_tokenizer
from gpt2c.tokenizer.load import as_tokenizer, gpt2_tokenizer, unpack

DATA = Path(__file__).parent / "data/chat"
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}é"
LISTED = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": TEMPLATE}]
DIALOGPT = {"task_specific_params": {"conversational": {"max_length": 1000}}}


def template_of(folder, files):
    """The template of a folder with GPT-2's kind of tokenizer and these files."""
    write_files(folder, {"tokenizer.json": FOLDERS["gpt2"]["tokenizer.json"], **files})
    return load_tokenizer(folder, SimpleNamespace(n_vocab=302)).chat_template


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, None),
        ({"tokenizer_config.json": {"chat_template": TEMPLATE}}, TEMPLATE),
        ({"tokenizer_config.json": {"chat_template": LISTED}}, TEMPLATE),
        ({"tokenizer_config.json": {"chat_template": LISTED[:1]}}, None),
        ({"tokenizer_config.json": {"chat_template": None}}, None),
        ({"chat_template.jinja": TEMPLATE}, TEMPLATE),
        ({"chat_template.jinja": TEMPLATE, "tokenizer_config.json": {"chat_template": "other"}}, TEMPLATE),
        ({"config.json": DIALOGPT, "chat_template.jinja": TEMPLATE}, TEMPLATE),
        ({"config.json": {"task_specific_params": {"text-generation": {}}}}, None),
    ],
)
def test_it_is_found_where_transformers_finds_it(tmp_path, files, wanted):
    assert template_of(tmp_path, files) == wanted


@pytest.mark.parametrize("config", [DIALOGPT, {"_name_or_path": "microsoft/DialoGPT-small"}])
def test_dialogpt_has_one_without_a_file(tmp_path, config):
    template = template_of(tmp_path, {"config.json": config})
    golden = json.loads((DATA / "chat.json").read_text(encoding="utf-8"))
    assert template == golden["templates"]["dialogpt"]


def test_a_template_does_not_reach_other_models_with_the_vocabulary_of_gpt2(tmp_path):
    write_files(tmp_path, {"config.json": DIALOGPT})
    assert load_tokenizer(tmp_path, SimpleNamespace(n_vocab=50257)).chat_template
    assert gpt2_tokenizer().chat_template is None


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"chat_template.jinja": "x" * 65537}, "65,537 characters; allowed: 65,536"),
        ({"tokenizer_config.json": {"chat_template": 7}}, "must be a text or a list, not 7"),
    ],
)
def test_what_is_no_template_is_refused(tmp_path, files, told):
    with pytest.raises(TokenizerError, match=told):
        template_of(tmp_path, files)


class TestKept:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = write_folder(tmp_path / "model", "gpt2")
        settings = {"chat_template": TEMPLATE, "eos_token": "<|endoftext|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return folder

    def test_models_tell_it(self, folder, tmp_path):
        assert GPT2.from_pretrained(folder).chat_template == TEMPLATE
        assert GPT2.from_pretrained(write_folder(tmp_path / "other", "gpt2")).chat_template is None

    def test_in_packed_files(self, folder, tmp_path):
        GPT2.from_pretrained(folder).save(tmp_path / "packed")
        packed = GPT2.from_pretrained(tmp_path / "packed")
        assert packed.chat_template == TEMPLATE
        packed.export(tmp_path / "again")
        assert (tmp_path / "again/chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE
        assert GPT2.from_pretrained(tmp_path / "again").chat_template == TEMPLATE

    def test_in_files_as_they_are(self, folder, tmp_path):
        GPT2.from_pretrained(folder).export(tmp_path / "again")
        assert not (tmp_path / "again/chat_template.jinja").exists()
        assert GPT2.from_pretrained(tmp_path / "again").chat_template == TEMPLATE

    def test_in_the_files_of_a_model_that_does_not_say_any_more_that_it_is_dialogpt(self, tmp_path):
        folder = write_folder(tmp_path / "model", "pair")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | DIALOGPT))
        model = GPT2.from_pretrained(folder)
        model.export(tmp_path / "again")
        again = GPT2.from_pretrained(tmp_path / "again")
        assert again.chat_template == model.chat_template is not None

    def test_by_a_tokenizer_for_another_number_of_tokens(self, folder):
        tokenizer = GPT2.from_pretrained(folder).tokenizer
        assert as_tokenizer(tokenizer, n_vocab=310).chat_template == TEMPLATE

    def test_one_that_is_damaged_is_refused(self, folder):
        packed = GPT2.from_pretrained(folder).tokenizer.packed()
        with pytest.raises(TokenizerError, match="its chat_template is 7"):
            unpack({**packed, "chat_template": 7}, "a file", 302)
