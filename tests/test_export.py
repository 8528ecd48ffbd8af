"""Directories in Hugging Face layout: what safetensors, tokenizers and transformers read in them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.command_line import run
from helpers.llama_cpp import llama_cpp_vectors
from helpers.saved_tokenizer import EXPECTED, described
from helpers.saved_tokenizer import write as write_tokenizer
from helpers.small_tokenizers import FOLDERS, write_folder
from helpers.tiny_checkpoints import TINY, read_safetensors, tiny_tensors, write_model, write_shards
from test_llmc import written

from gpt2c import GPT2, TokenizerError
from gpt2c.checkpoint import BUNDLED
from gpt2c.core import files
from gpt2c.tokenizer import load_tokenizer
from gpt2c.tokenizer.characters import CharacterTokenizer

NANOGPT = Path(__file__).parent / "data" / "nanogpt"
TEXT = "the king had a son, and he was very fond of his old horse."


def tensors_in(path):
    return read_safetensors(path / "model.safetensors")


def equal(one, other):
    """Whether two models are the same to the last bit, but for where they come from."""
    assert one.config == other.config
    ids = list(range(1, 8))
    assert np.array_equal(one.forward(ids).view(np.uint32), other.forward(ids).view(np.uint32))
    assert one.has_tokenizer == other.has_tokenizer
    return True


FLAGS = {
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "reorder_and_upcast_attn": True,
    "tie_word_embeddings": False,
    "layer_norm_epsilon": 1e-3,
    "eos_token_id": [2, 3],
}


@pytest.mark.parametrize("changes", [{}, FLAGS, {"bos_token_id": None, "eos_token_id": None}])
@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "quick_gelu", "relu", "silu", "tanh"])
def test_a_folder(changes, activation, tmp_path):
    values = TINY | {"activation_function": activation} | changes
    tensors = write_model(tmp_path / "model", values)
    model = GPT2.from_pretrained(tmp_path / "model")
    model.export(tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    found = tensors_in(tmp_path / "out")
    names = {name: name if name == "lm_head.weight" else f"transformer.{name}" for name in tensors}
    assert found.keys() == set(names.values())
    for name, tensor in tensors.items():
        assert found[names[name]].dtype == np.float32
        assert np.array_equal(found[names[name]].view(np.uint32), tensor.view(np.uint32))
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values.items() <= said.items() and said["dtype"] == "float32"
    ids = {name: values[name] for name in ("bos_token_id", "eos_token_id")}
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == ids
    assert equal(model, GPT2.from_pretrained(tmp_path / "out"))
    header = (tmp_path / "out" / "model.safetensors").read_bytes()[8:200]
    assert header.startswith(b'{"__metadata__":{"format":"pt"}')


def test_defaults_for_generation_are_kept(tmp_path):
    write_model(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text('{"do_sample": true, "eos_token_id": 5}')
    GPT2.from_pretrained(tmp_path / "model").export(tmp_path / "out")
    said = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert said == {"do_sample": True, "eos_token_id": 5, "bos_token_id": 1}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 5


def test_shards_become_one_file(tmp_path):
    tensors = tiny_tensors()
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    write_shards(tmp_path, {f"transformer.{name}": tensor for name, tensor in tensors.items()})
    model = GPT2.from_pretrained(tmp_path, backend="blas")
    model.export(tmp_path / "out")
    found = tensors_in(tmp_path / "out")
    assert all(np.array_equal(found[f"transformer.{name}"], tensor) for name, tensor in tensors.items())


def test_rounded_weights_are_refused(tmp_path):
    for dtype in ("bfloat16", "int8", "int4"):
        model = GPT2.from_pretrained(dtype=dtype)
        model.save(tmp_path / "m.gpt2c")
        for rounded in (model, GPT2.from_pretrained(tmp_path / "m.gpt2c")):
            with pytest.raises(
                ValueError, match=rf"are rounded to {dtype}: load the original model in float32, and"
            ):
                rounded.export(tmp_path / "out")
    assert os.listdir(tmp_path) == ["m.gpt2c"]


# ---- training programs


def test_llmc_gets_the_vocabulary_of_gpt2(tmp_path):
    tensors = written(tmp_path / "model.bin", 3, TINY | {"n_inner": None, "vocab_size": 50257})
    model = GPT2.from_pretrained(tmp_path / "model.bin")
    model.export(tmp_path / "out")
    found = tensors_in(tmp_path / "out")
    assert all(np.array_equal(found[f"transformer.{name}"], tensor) for name, tensor in tensors.items())
    again = GPT2.from_pretrained(tmp_path / "out")
    assert equal(model, again)
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text, ids in llama_cpp_vectors():
        assert theirs.encode(text).ids == again.tokenizer.encode(text) == ids
    assert theirs.encode("<|endoftext|>").ids == [50256]
    said = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert said["bos_token"] == said["eos_token"] == "<|endoftext|>" and said["model_max_length"] == 9


@pytest.mark.parametrize("name", ["plain", "bias"])
def test_nanogpt(name, tmp_path):
    model = GPT2.from_pretrained(NANOGPT / name)
    model.export(tmp_path / "out")
    again = GPT2.from_pretrained(tmp_path / "out")
    assert equal(model, again)
    expected = np.load(NANOGPT / "logits.npz")
    found = again.forward(expected["ids"].tolist())
    assert np.abs(found - expected[name]).max() < 2e-5 * np.abs(expected[name]).max()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["activation_function"] == "gelu"
    stored = tensors_in(tmp_path / "out")
    assert stored["transformer.h.0.attn.c_attn.bias"].any() == (name == "bias")


def test_characters(tmp_path):
    GPT2.from_pretrained(NANOGPT / "plain").export(tmp_path / "out")
    meta = pickle.loads((NANOGPT / "plain" / "meta.pkl").read_bytes())
    again = GPT2.from_pretrained(tmp_path / "out")
    assert again.tokenizer.kind == "characters"
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in ("ROMEO:\nWhat's this?", "  a\n\n b ", "".join(meta["itos"].values())):
        ids = [meta["stoi"][character] for character in text]
        assert again.tokenizer.encode(text) == theirs.encode(text).ids == ids
        assert again.tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=False) == text
    with pytest.raises(Exception, match="UNK"):
        theirs.encode("é")


def test_a_tokenizer_gives_no_token_type_ids(tmp_path):
    # With them GPT2Model adds the embedding of token 0 to every position.
    GPT2.from_pretrained(NANOGPT / "plain").export(tmp_path / "out")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert set(theirs("ROMEO:")) == {"input_ids", "attention_mask"}


# ---- tokenizers


@pytest.mark.parametrize("name", FOLDERS)
def test_tokenizer_files_are_copied_as_they_are(name, tmp_path):
    folder = write_folder(tmp_path / "model", name)
    pytest.importorskip("tokenizers")
    model = GPT2.from_pretrained(folder)
    model.export(tmp_path / "out")
    for file in FOLDERS[name].keys() - {"config.json"}:
        assert (tmp_path / "out" / file).read_bytes() == (folder / file).read_bytes()
    again = GPT2.from_pretrained(tmp_path / "out")
    assert equal(model, again)
    assert again.tokenizer.encode(TEXT) == model.tokenizer.encode(TEXT)


@pytest.mark.parametrize("name", FOLDERS)
def test_tokenizers_out_of_packed_files(name, tmp_path):
    folder = write_folder(tmp_path / "model", name)
    pytest.importorskip("tokenizers")
    model = GPT2.from_pretrained(folder)
    model.save(tmp_path / "m.gpt2c")
    GPT2.from_pretrained(tmp_path / "m.gpt2c").export(tmp_path / "out")
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(os.listdir(tmp_path / "out"))
    again = GPT2.from_pretrained(tmp_path / "out")
    assert equal(model, again)
    for special in (False, True):
        text = f"{TEXT}<|endoftext|> [SEP]</s>"
        assert again.tokenizer.encode(text, special) == model.tokenizer.encode(text, special)
    for what in ("prefix", "suffix", "special_tokens", "n_vocab", "kind", "bos_token_id", "eos_token_id"):
        assert getattr(again.tokenizer, what) == getattr(model.tokenizer, what), what


BYTE_LEVEL = {"type": "ByteLevel", "use_regex": True, "trim_offsets": True}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"post_processor": BYTE_LEVEL | {"add_prefix_space": False}},
        {"post_processor": BYTE_LEVEL | {"add_prefix_space": True}},
    ],
)
def test_a_vocabulary_comes_out_as_it_went_in(changes, tmp_path):
    # Added tokens inside the vocabulary and behind it, special or not, looked for early or late.
    folder = write_tokenizer(tmp_path, {"tokenizer.json": described(**changes)})
    model = SimpleNamespace(n_vocab=EXPECTED["n_vocab"])
    once = load_tokenizer(folder, model)
    folder = write_tokenizer(tmp_path / "again", {"tokenizer.json": once.described()})
    again = load_tokenizer(folder, model)
    assert again.kind == once.kind == "byte-level BPE (tiktoken)"
    assert again.packed() == once.packed()
    text = "The upper house<sep>\n  [PAD]<|endoftext|> 's"
    for special in (False, True):
        assert again.encode(text, special) == once.encode(text, special)


@pytest.mark.parametrize("vocab", [{"a": 1}, {"a": []}, {"a": 0, "bc": 1}, {"a": 0, "b": 0}])
def test_words_are_no_characters(vocab):
    description = CharacterTokenizer(["a"], name="x").described()
    assert CharacterTokenizer.of_description(description, "x").n_vocab == 1
    description["model"]["vocab"] = vocab
    assert CharacterTokenizer.of_description(description, "x") is None


def test_the_class_may_be_named_in_config_json(tmp_path):
    folder = write_folder(tmp_path / "model", "gpt2")
    said = json.loads((folder / "config.json").read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "config.json").write_text(json.dumps(said))
    GPT2.from_pretrained(folder).export(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_tokenizer_that_is_given(tmp_path):
    write_model(tmp_path / "model", TINY | {"vocab_size": 302})
    folder = write_folder(tmp_path / "other", "gpt2")
    shutil.copy(folder / "tokenizer.json", tmp_path / "mine.json")
    for number, given in enumerate((folder, folder / "tokenizer.json", tmp_path / "mine.json")):
        model = GPT2.from_pretrained(tmp_path / "model", tokenizer=given)
        model.export(tmp_path / f"out{number}")
        stored = (tmp_path / f"out{number}" / "tokenizer.json").read_bytes()
        assert stored == (folder / "tokenizer.json").read_bytes()
    tokenizers = pytest.importorskip("tokenizers")
    given = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    GPT2.from_pretrained(tmp_path / "model", tokenizer=given).export(tmp_path / "out")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert theirs.to_str() == given.to_str()
    given.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    model = GPT2.from_pretrained(tmp_path / "model", tokenizer=given)
    model.export(tmp_path / "spaced")
    again = GPT2.from_pretrained(tmp_path / "spaced")
    assert again.tokenizer.encode("the king") == given.encode(" the king").ids


class Letters:
    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode()


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    write_model(tmp_path / "model", TINY | {"vocab_size": 302})
    model = GPT2.from_pretrained(tmp_path / "model", tokenizer=Letters())
    with pytest.raises(TokenizerError, match=r"Letters cannot be written as files: give the directory that"):
        model.export(tmp_path / "out")
    folder = write_folder(tmp_path / "gone", "gpt2")
    model = GPT2.from_pretrained(folder)
    shutil.rmtree(folder)
    with pytest.raises(TokenizerError, match=r"files are no longer at .*gone: load the model again"):
        model.export(tmp_path / "out")
    assert os.listdir(tmp_path) == ["model"]


# ---- the directory


def test_the_directory_is_new_or_empty(tmp_path, monkeypatch):
    write_model(tmp_path / "model")
    model = GPT2.from_pretrained(tmp_path / "model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "file").write_text("precious")
    model.export(tmp_path / "link")
    assert len(os.listdir(tmp_path / "empty")) == 3 and (tmp_path / "link").is_symlink()
    before = sorted(os.listdir(tmp_path))
    for name, message in [
        ("model", "is not empty: choose another name"),
        ("file", "is a file: choose another name"),
        ("none/out", "cannot be written: No such file"),
        ("file/out", "cannot be written: Not a directory"),
    ]:
        with pytest.raises(OSError, match=message) as caught:
            model.export(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OSError, match="is the current directory: give the name of a new one"):
        model.export(".")
    model.export("out")
    assert len(os.listdir(tmp_path / "here" / "out")) == 3
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "here"])


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = [tmp_path / f"out.0123456{n}.part" for n in range(2)]
    for path in left:
        path.mkdir()
        (path / "model.safetensors").write_text("half")
    (tmp_path / "out.mine.part").mkdir()
    with files.new_directory(str(tmp_path / "out")) as name:
        assert not any(path.exists() for path in left) and (tmp_path / "out.mine.part").exists()
        with files.new_directory(str(tmp_path / "out")) as other:
            assert Path(name).exists()  # as its process lives
            (Path(other) / "a").write_text("a")
        with (
            pytest.raises(OSError, match="exists and is not empty"),
            files.new_directory(f"{tmp_path}/out"),
        ):
            pass
        (Path(name) / "b").write_text("b")
        shutil.rmtree(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["b"]


def test_of_two_at_once_the_second_fails(tmp_path):
    def second():
        with files.new_directory(str(tmp_path / "out")), files.new_directory(str(tmp_path / "out")) as inner:
            (Path(inner) / "a").write_text("a")

    with pytest.raises(OSError, match=r"out'?$") as caught:
        second()
    assert caught.value.filename == str(tmp_path / "out") and "is not empty" in caught.value.strerror
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["a"]


def test_a_process_that_ends_at_once_leaves_nothing(tmp_path):
    with files.new_directory(str(tmp_path / "out")) as name:
        (Path(name) / "a").write_text("a")
        files.remove_unfinished()
        assert os.listdir(tmp_path) == []
        Path(name).mkdir()
    assert os.listdir(tmp_path) == ["out"]


# ---- the command


def test_export_tells_what_it_wrote(tmp_path):
    done = run("export", BUNDLED, tmp_path / "out")
    assert done.returncode == 0 and done.stderr == ""
    for name in os.listdir(tmp_path / "out"):
        assert f"{tmp_path / 'out' / name}: " in done.stdout
    assert f"transformers.AutoModelForCausalLM.from_pretrained('{tmp_path / 'out'}')" in done.stdout
    again = run("generate", "Once", "-n", "3", "--temperature", "0", "-m", tmp_path / "out")
    assert again.stdout == run("generate", "Once", "-n", "3", "--temperature", "0").stdout
    done = run("export", BUNDLED, tmp_path / "out")
    assert done.returncode == 1 and "exists and is not an empty directory: choose another" in done.stderr
    done = run("export", BUNDLED, tmp_path / "two", "--json")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "two").iterdir()}
    assert json.loads(done.stdout) == {"directory": str(tmp_path / "two"), "files": sizes}
    done = run("export", BUNDLED, tmp_path / "x", "--dtype", "int8")
    assert done.returncode == 2 and "argument --dtype: invalid choice: 'int8'" in done.stderr
    done = run("export", BUNDLED, tmp_path / "x", "--torch-dtype", "int8")
    assert (
        done.returncode == 2
        and "; a directory is always float32; for a FILE.gguf use --dtype f32, f16, bf16" in done.stderr
    )


def test_export_without_a_tokenizer_says_so(tmp_path):
    write_model(tmp_path / "tiny")
    done = run("export", tmp_path / "tiny", tmp_path / "out")
    assert done.returncode == 0 and "no tokenizer" in done.stderr
    assert "AutoTokenizer" not in done.stdout


# ---- transformers itself


def sources(tmp_path):
    """Models of every kind, and texts that their tokenizers know."""
    yield BUNDLED, TEXT
    write_model(tmp_path / "flags", TINY | FLAGS)
    yield tmp_path / "flags", None
    GPT2.from_pretrained().save(tmp_path / "m.gpt2c")
    yield tmp_path / "m.gpt2c", TEXT
    yield NANOGPT / "plain", "ROMEO:\n What's  this?"
    yield NANOGPT / "bias", None
    written(tmp_path / "llmc.bin", 5, TINY | {"n_inner": None, "vocab_size": 50257})
    yield tmp_path / "llmc.bin", TEXT
    for name in FOLDERS:
        folder = write_folder(tmp_path / name, name)
        yield folder, TEXT
        GPT2.from_pretrained(folder).save(tmp_path / f"{name}.gpt2c")
        yield tmp_path / f"{name}.gpt2c", TEXT


@pytest.mark.oracle
def test_transformers_loads_it(tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    for number, (source, text) in enumerate(sources(tmp_path)):
        model = GPT2.from_pretrained(source)
        path = tmp_path / f"out{number}"
        model.export(path)
        theirs, told = transformers.AutoModelForCausalLM.from_pretrained(
            path, output_loading_info=True, attn_implementation="eager"
        )
        assert type(theirs).__name__ == "GPT2LMHeadModel"
        assert not any(told.values()), (source, told)
        state = theirs.state_dict()
        for name, tensor in tensors_in(path).items():
            assert np.array_equal(state[name].numpy().view(np.uint32), tensor.view(np.uint32))
        ids = list(range(1, 9))
        with torch.no_grad():
            logits = theirs(torch.tensor([ids])).logits[0].numpy()
        found = model.forward(ids)
        assert np.abs(found - logits).max() <= 1e-5 * max(1, np.abs(logits).max()), source
        if text is None:
            continue
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        ids = model.tokenizer.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == ids, source
        decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert decoded == model.tokenizer.decode(ids), source
        around = [*model.tokenizer.prefix, *ids, *model.tokenizer.suffix]
        if (path / "tokenizer.json").exists():
            assert tokenizer.encode(text) == around, source
