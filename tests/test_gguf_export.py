"""GGUF files: byte for byte what gguf-py writes, and what llama.cpp makes of them."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import gguf_py
from helpers.command_line import run
from helpers.gguf_files import named
from helpers.gguf_py import DTYPES, VALUES
from helpers.llama_cpp import llama_cpp_vectors
from helpers.saved_tokenizer import described
from helpers.saved_tokenizer import write as write_tokenizer
from helpers.small_tokenizers import FOLDERS, write_folder
from helpers.tiny_checkpoints import TINY, tiny_tensors, write_model
from test_llmc import written

from gpt2c import GPT2, ConfigError, TokenizerError
from gpt2c.checkpoint import BUNDLED
from gpt2c.checkpoint.files import RegularFile
from gpt2c.checkpoint.gguf import read_gguf
from gpt2c.checkpoint.gguf_quants import dequantize
from gpt2c.scoring.comparison import SAMPLE

DATA = Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "gguf" / "sha256.json").read_text())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return GPT2.from_pretrained(gguf_py.write(tmp_path_factory.mktemp("model") / "small"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_file_is_that_of_gguf_py(dtype, small, tmp_path):
    small.export(tmp_path / "out.gguf", dtype)
    assert os.listdir(tmp_path) == ["out.gguf"]
    data = (tmp_path / "out.gguf").read_bytes()
    assert hashlib.sha256(data).hexdigest() == RECORDED[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_gguf_py_writes_it_now(dtype, small, tmp_path):
    pytest.importorskip("gguf")
    gguf_py.by_gguf_py(tmp_path / "theirs", dtype, "small")
    small.export(tmp_path / "OURS.GGUF", dtype)
    assert (tmp_path / "OURS.GGUF").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_f32_is_what_a_name_asks_for(small, tmp_path):
    assert small.export(tmp_path / "out.gguf") == 0
    assert hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest() == RECORDED["f32"]


def test_other_dtypes_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match="dtype is 'int8'; a GGUF file takes one of 'f32', 'f16', 'bf16', "):
        small.export(tmp_path / "out.gguf", "int8")
    with pytest.raises(ValueError, match=r"dtype is 'f16', but a directory .* a name that ends with \.gguf"):
        small.export(tmp_path / "out", "f16")
    assert os.listdir(tmp_path) == []


def test_values_out_of_range_leave_the_file_that_was_there(tmp_path):
    folder = gguf_py.write(tmp_path / "model")
    tensors = gguf_py.tensors()
    tensors["h.1.mlp.c_fc.weight"][3, 4] = 1e7
    write_model(folder, VALUES, tensors)
    model = GPT2.from_pretrained(folder)
    (tmp_path / "out.gguf").write_text("precious")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in ("f16", "q8_0"):
            with pytest.raises(ValueError, match=rf"tensor h\.1\.mlp\.c_fc\.weight has .* range of {dtype}:"):
                model.export(tmp_path / "out.gguf", dtype)
        assert (tmp_path / "out.gguf").read_text() == "precious"
        model.export(tmp_path / "out.gguf", "bf16")
    assert sorted(os.listdir(tmp_path)) == ["model", "out.gguf"]


def test_blocks_too_small_for_a_scale_are_zero(tmp_path):
    folder = gguf_py.write(tmp_path / "small")
    files = []
    for value in (1e-41, 0):
        tensors = gguf_py.tensors()
        tensors["wte.weight"][9] = value
        write_model(folder, VALUES, tensors)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            GPT2.from_pretrained(folder).export(tmp_path / "out.gguf", "q8_0")
        files.append((tmp_path / "out.gguf").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
def test_rounded_weights_are_written_as_they_are(dtype, tmp_path):
    folder = gguf_py.write(tmp_path / "one" / "model")
    rounded = GPT2.from_pretrained(folder, dtype=dtype)
    other = gguf_py.write(tmp_path / "two" / "model")
    write_model(other, VALUES, rounded.weights)
    GPT2.from_pretrained(other).export(tmp_path / "expected.gguf", "q8_0")
    rounded.export(tmp_path / "out.gguf", "q8_0")
    expected = (tmp_path / "expected.gguf").read_bytes()
    assert (tmp_path / "out.gguf").read_bytes() == expected
    assert hashlib.sha256(expected).hexdigest() != RECORDED["q8_0"]


# ---- what llama.cpp would compute otherwise


REFUSED = [
    (
        {"scale_attn_weights": False},
        "scale_attn_weights is False, but llama.cpp computes every GPT-2 with True",
    ),
    ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, but llama.cpp"),
    *(
        (
            {"activation_function": name},
            rf"activation_function \(activation\) is '{name}', but llama.cpp .* with 'ge",
        )
        for name in ("gelu", "quick_gelu", "relu", "silu", "tanh")
    ),
    (
        {"eos_token_id": [178, 2, 3, 4]},
        "eos_token_id names 4 end tokens, but a GGUF file has at most 3",
    ),
    ({"vocab_size": 318}, r"has 319 tokens, but the model has only 318 rows, and llama.cpp needs one"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_models_that_are_refused(changes, message, tmp_path):
    folder, values = gguf_py.write(tmp_path / "model"), VALUES | changes
    write_model(folder, values, tiny_tensors(values))
    with pytest.raises((ConfigError, TokenizerError), match=message):
        GPT2.from_pretrained(folder).export(tmp_path / "out.gguf")
    assert os.listdir(tmp_path) == ["model"]


def test_a_model_without_an_end_is_refused(tmp_path):
    # llama.cpp has a token for the end even so: its number 11, which is "," in the vocabulary of GPT-2.
    folder = gguf_py.write(tmp_path / "model")
    write_tokenizer(folder, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}})
    write_model(folder, VALUES | {"eos_token_id": None}, gguf_py.tensors())
    with pytest.raises(ConfigError, match=r"has no eos_token_id, and llama\.cpp would end texts at token 11"):
        GPT2.from_pretrained(folder).export(tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("architecture", "shapes", "kind"),
    [
        ("GPT2ForSequenceClassification", {"score.weight": (2, 64)}, "sequence"),
        ("GPT2ForTokenClassification", {"classifier.weight": (2, 64), "classifier.bias": (2,)}, "token"),
        (
            "GPT2DoubleHeadsModel",
            {"multiple_choice_head.summary.weight": (1, 64), "multiple_choice_head.summary.bias": (1,)},
            "choice",
        ),
    ],
)
def test_other_heads_are_refused(architecture, shapes, kind, tmp_path):
    folder = gguf_py.write(tmp_path / "model")
    values = VALUES | {"architectures": [architecture], "tie_word_embeddings": True}
    heads = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    write_model(folder, values, tiny_tensors(values) | heads)
    with pytest.raises(ConfigError, match=f"has a head of the kind '{kind}', but in llama.cpp a GPT-2 has"):
        GPT2.from_pretrained(folder).export(tmp_path / "out.gguf")


def test_tokenizers_that_are_refused(tmp_path):
    write_model(tmp_path / "none", VALUES)
    with pytest.raises(TokenizerError, match="tokenizer"):
        GPT2.from_pretrained(tmp_path / "none").export(tmp_path / "out.gguf")
    pytest.importorskip("tokenizers")
    for name in FOLDERS:
        model = GPT2.from_pretrained(write_folder(tmp_path / name, name))
        if model.tokenizer.kind == "byte-level BPE (tiktoken)":
            continue
        with pytest.raises(
            TokenizerError, match=r", but gpt2c writes only byte-level BPE with GPT-2's rules"
        ):
            model.export(tmp_path / "out.gguf")


def with_prefix(folder, *names):
    """The small model with these tokens before a text."""
    ids = {"<|endoftext|>": 178, "[PAD]": 316}
    single = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    single.append({"Sequence": {"id": "A", "type_id": 0}})
    special = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in names}
    step = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
    write_tokenizer(gguf_py.write(folder), {"tokenizer.json": described(post_processor=step)})
    return GPT2.from_pretrained(folder)


def test_what_stands_before_a_text_is_the_bos_token_or_nothing(tmp_path):
    with_prefix(tmp_path / "bos", "<|endoftext|>").export(tmp_path / "out.gguf")
    assert b"tokenizer.ggml.add_bos_token\7\0\0\0\1" in (tmp_path / "out.gguf").read_bytes()
    for number, names in enumerate((["[PAD]"], ["[PAD]", "<|endoftext|>"])):
        model = with_prefix(tmp_path / str(number), *names)
        with pytest.raises(
            TokenizerError, match=r"before a text, but llama.cpp can only put the bos token th"
        ):
            model.export(tmp_path / "no.gguf")


# ---- read again


@pytest.mark.parametrize("dtype", ["f32", "f16"])  # both are exact for the bundled model
def test_equal_logits(dtype, tmp_path):
    model = GPT2.from_pretrained()
    assert model.export(tmp_path / "out.gguf", dtype) == 0
    again = GPT2.from_pretrained(tmp_path / "out.gguf")
    ids = model.tokenizer.encode(SAMPLE.read_text())[:100]
    assert again.forward(ids).tobytes() == model.forward(ids).tobytes()
    assert (again.bos_token_id, again.config.eos_token_ids) == (
        model.bos_token_id,
        model.config.eos_token_ids,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_those_that_the_file_stands_for(dtype, small, tmp_path):
    path = tmp_path / "out.gguf"
    rounding = small.export(path, dtype)
    data, again = path.read_bytes(), GPT2.from_pretrained(path)
    with RegularFile(path) as file:
        stored = read_gguf(file).tensors
    assert len(again.weights) == len(stored)
    lost = total = 0.0
    for name, exact in gguf_py.tensors().items():
        info = stored[named(name)]
        raw = np.frombuffer(data, np.uint8, info.nbytes, info.offset)
        values = {
            "F32": lambda raw: raw.view("<f4"),
            "F16": lambda raw: raw.view("<f2").astype(np.float32),
            "BF16": lambda raw: (raw.view("<u2").astype(np.uint32) << 16).view(np.float32),
            "Q8_0": lambda raw: dequantize(raw.reshape(-1, 34), "Q8_0"),
        }[info.dtype](raw).reshape(info.shape)
        found = again.weights[name]
        transposed = name.startswith("h.") and found.ndim == 2
        assert found.tobytes() == (values.T if transposed else values).tobytes()
        lost += np.square(np.float64(found) - exact).sum()
        total += np.square(np.float64(exact)).sum()
    assert rounding == pytest.approx(np.sqrt(lost / total), rel=1e-12)
    assert (dtype == "f32") == (rounding == 0)


def test_all_that_a_file_says_comes_back(tmp_path):
    folder = gguf_py.write(tmp_path / "model")
    write_model(folder, VALUES | {"eos_token_id": [178, 316, 317]}, gguf_py.tensors())
    model = GPT2.from_pretrained(folder)
    model.export(tmp_path / "out.gguf")
    again = GPT2.from_pretrained(tmp_path / "out.gguf")
    same = ("n_layer", "n_head", "n_embd", "n_inner", "n_ctx", "n_vocab", "layer_norm_epsilon", "activation")
    for name in (*same, "tie_word_embeddings", "bos_token_id", "eos_token_ids"):
        assert getattr(again.config, name) == getattr(model.config, name), name
    assert again.config.eos_token_ids == (178, 316, 317) and again.chat_template == gguf_py.TEMPLATE


def test_tokens_are_the_same(small, tmp_path):
    small.export(tmp_path / "out.gguf")
    again = GPT2.from_pretrained(tmp_path / "out.gguf").tokenizer
    for text in ("The upper house<sep>\n  [PAD]<|endoftext|> 's", "é中  \U0001f600 x"):
        for special in (False, True):
            ids = small.tokenizer.encode(text, special)
            assert again.encode(text, special) == ids and again.decode(ids) == small.tokenizer.decode(ids)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_number_formats_round_the_values_of_the_file(dtype, small, tmp_path):
    small.export(tmp_path / "out.gguf", "q8_0")
    folder = gguf_py.write(tmp_path / "model")
    write_model(folder, VALUES, GPT2.from_pretrained(tmp_path / "out.gguf").weights)
    expected = GPT2.from_pretrained(folder, dtype=dtype).forward([5, 178, 40, 317])
    model = GPT2.from_pretrained(tmp_path / "out.gguf", dtype=dtype)
    model.save(tmp_path / "out.gpt2c")
    for found in (model, GPT2.from_pretrained(tmp_path / "out.gpt2c")):
        assert found.forward([5, 178, 40, 317]).tobytes() == expected.tobytes()


# ---- the command


def test_the_command_tells_what_it_wrote(tmp_path):
    folder, out = gguf_py.write(tmp_path / "small"), tmp_path / "out.gguf"
    done = run("export", folder, out, "--dtype", "q8_0")
    assert (done.returncode, done.stderr) == (0, "")
    size, rounding, theirs, ours = done.stdout.splitlines()
    assert size == f"{out}: 123.0 KiB, q8_0"  # 125,920 bytes
    assert rounding == "rounding changed the weights by 0.57% (root mean square)"
    assert theirs == f"in llama.cpp: llama-server -m {out}"
    assert ours == f"here:         gpt2c generate TEXT -m {out}"
    assert hashlib.sha256(out.read_bytes()).hexdigest() == RECORDED["q8_0"]
    done = run("export", folder, out, "--json")
    told = {"file": str(out), "bytes": out.stat().st_size, "dtype": "f32", "rounding": 0.0}
    assert json.loads(done.stdout) == told
    assert hashlib.sha256(out.read_bytes()).hexdigest() == RECORDED["f32"]


def test_rounded_models_are_exported_with_a_note(tmp_path):
    GPT2.from_pretrained(gguf_py.write(tmp_path / "small"), dtype="int8").save(tmp_path / "m.gpt2c")
    done = run("export", tmp_path / "m.gpt2c", tmp_path / "out.gguf", "--dtype", "q8_0")
    assert done.returncode == 0 and "rounding changed the weights by " in done.stdout
    assert (
        f"the weights of {tmp_path / 'm.gpt2c'} were already rounded to int8, and that loss remains"
        in done.stderr
    )


def test_what_the_command_refuses(tmp_path):
    (tmp_path / "x.gguf").write_text("precious")
    done = run("export", BUNDLED, tmp_path / "x.gguf")
    assert (
        done.returncode == 1
        and "x.gguf exists and is not a GGUF file, so it is not replaced: choose another" in done.stderr
    )
    assert (tmp_path / "x.gguf").read_text() == "precious"
    done = run("export", BUNDLED, tmp_path / "out", "--dtype", "f16")
    assert (
        done.returncode == 1
        and "--dtype is for a FILE.gguf: a directory always has float32 weights" in done.stderr
    )
    done = run("export", BUNDLED, "--outfile", "x.gguf")
    assert done.returncode == 2 and "--outfile; the output is the second argument" in done.stderr
    assert os.listdir(tmp_path) == ["x.gguf"]


# ---- llama.cpp itself


def loaded(path, **settings):
    """A model in llama.cpp, with keys and values in float32."""
    llama_cpp = pytest.importorskip("llama_cpp")
    options = {"n_ctx": 0, "logits_all": True, "type_k": 0, "type_v": 0, "n_gpu_layers": 0, "verbose": False}
    return llama_cpp.Llama(str(path), n_threads=1, n_threads_batch=1, **options | settings)


def logits_of(theirs, ids):
    theirs.reset()
    theirs.eval(ids)
    return np.array(theirs.scores[: len(ids)])


def divergence(ours, theirs):
    """KL of two rows of logits, in nats."""
    ours, theirs = (
        x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in map(np.float64, (ours, theirs))
    )
    return (np.exp(ours) * (ours - theirs)).sum(-1)


@pytest.mark.oracle
@pytest.mark.parametrize(
    # KL in nats, mean of 50 prompts: five times what was measured with llama.cpp of llama-cpp-python 0.3.36.
    ("dtype", "bound"),
    [("f32", 2.5e-7), ("f16", 2e-6), ("bf16", 2e-4), ("q8_0", 2.5e-3)],
)
def test_llama_cpp_goes_on_as_we_do(dtype, bound, tmp_path, record_property):
    model = GPT2.from_pretrained(threads=1)
    model.export(tmp_path / "out.gguf", dtype)
    theirs = loaded(tmp_path / "out.gguf")
    words = SAMPLE.read_text().split()
    prompts = [" ".join(words[20 * i : 20 * i + 7]) for i in range(50)]
    same, near, found = 0, 0, []
    for prompt, out in zip(prompts, model.generate(prompts, max_new_tokens=24), strict=True):
        start = model.tokenizer.encode(prompt)
        assert theirs.tokenize(prompt.encode(), add_bos=True, special=False) == start
        ids = [*start, *map(int, out.token_ids)]
        assert theirs.detokenize(ids).decode() == prompt + out.text
        ours, others = model.forward(ids), logits_of(theirs, ids)
        found += divergence(ours, others).tolist()
        # One pass over our text: where theirs chooses another token first, their text goes on otherwise.
        differ = np.flatnonzero(others[len(start) - 1 : -1].argmax(-1) != ids[len(start) :])
        same += len(differ) == 0
        if len(differ):
            second, first = np.sort(ours[len(start) - 1 + differ[0]])[-2:]
            near += first - second < 0.02
    told = (
        f"{dtype}: {same} of 50 equal, {near} near ties, KL {np.mean(found):.2e} (largest {max(found):.2e})"
    )
    print(told)
    assert np.mean(found) < bound
    if dtype == "f32":
        assert same + near == 50 and near <= 2, told


@pytest.mark.oracle
def test_llama_cpp_reads_every_part(small, tmp_path):
    # A width of the feed-forward layer of its own, an untied head, padding, added tokens, rounded or not.
    ids = [5, 178, 40, 317, 200, 318, 321, 7]
    for dtype in DTYPES:
        small.export(tmp_path / "out.gguf", dtype)
        theirs = loaded(tmp_path / "out.gguf")
        limit = {"f32": 1e-5, "f16": 1e-4, "bf16": 1e-2, "q8_0": 1e-1}[dtype]
        assert divergence(small.forward(ids), logits_of(theirs, ids)).max() < limit
    assert (theirs.token_bos(), theirs.token_eos()) == (178, 178)
    assert theirs.metadata["tokenizer.chat_template"] == gguf_py.TEMPLATE
    for text in (
        "The upper house<sep>\n  [PAD]<|endoftext|> 's",
        "once upon a time",
        "\u00e9\u4e2d  \U0001f600 x",
    ):
        for special in (False, True):
            ours = small.tokenizer.encode(text, special)
            assert theirs.tokenize(text.encode(), add_bos=True, special=special) == ours
        assert theirs.detokenize(ours, special=True).decode() == text


@pytest.mark.oracle
def test_llama_cpp_puts_the_bos_token_before_a_text(tmp_path):
    model = with_prefix(tmp_path / "model", "<|endoftext|>")
    model.export(tmp_path / "out.gguf")
    ids = model.tokenizer.encode("once upon")
    assert loaded(tmp_path / "out.gguf").tokenize(b"once upon", add_bos=True) == [178, *ids]


@pytest.mark.oracle
def test_llama_cpp_needs_no_reordering(tmp_path):
    # It changes where attention is computed, not what.
    folder = gguf_py.write(tmp_path / "model")
    write_model(folder, VALUES | {"reorder_and_upcast_attn": True}, gguf_py.tensors())
    model = GPT2.from_pretrained(folder)
    model.export(tmp_path / "out.gguf")
    ids = [5, 178, 40, 317]
    assert divergence(model.forward(ids), logits_of(loaded(tmp_path / "out.gguf"), ids)).max() < 1e-5


@pytest.mark.oracle
def test_llama_cpp_has_the_vocabulary_of_gpt2(tmp_path):
    written(tmp_path / "model.bin", 3, TINY | {"n_inner": None, "vocab_size": 50257})
    GPT2.from_pretrained(tmp_path / "model.bin").export(tmp_path / "out.gguf")
    theirs = loaded(tmp_path / "out.gguf")
    for text, ids in llama_cpp_vectors():
        assert theirs.tokenize(text.encode(), add_bos=True, special=False) == ids
    assert theirs.tokenize(b"<|endoftext|>", add_bos=False, special=True) == [50256]
