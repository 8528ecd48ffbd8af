"""Models in GGUF files: the values of gguf-py, the tokens of llama.cpp, and a named error for all else."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run
from helpers.gguf_files import TYPES, gguf_bytes, model_metadata, model_tensors, named, stored, text, typed
from helpers.llama_cpp import llama_cpp_vectors
from helpers.tiny_checkpoints import TINY, tiny_tensors, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2c import GPT2
from gpt2c.checkpoint import open_checkpoint
from gpt2c.checkpoint.files import RegularFile
from gpt2c.checkpoint.gguf import read_gguf
from gpt2c.checkpoint.gguf_model import read_gguf_tokenizer
from gpt2c.checkpoint.gguf_quants import dequantize
from gpt2c.checkpoint.tensors import BLOCKS, TensorInfo, read_tensor
from gpt2c.errors import CheckpointError, ConfigError, TokenizerError
from gpt2c.tokenizer import gpt2_tokenizer

DATA = Path(__file__).parent / "data" / "gguf"
RECORDED = json.loads((DATA / "small.json").read_text(encoding="utf-8"))
RAW = dict(np.load(DATA / "blocks.npz"))
SIZES = TINY | {"bos_token_id": None, "eos_token_id": None}


def write(path, metadata=None, tensors=None, **changes):
    """A model of the sizes of TINY, or of other content."""
    metadata = model_metadata() if metadata is None else metadata
    path.write_bytes(gguf_bytes(metadata, model_tensors() if tensors is None else tensors, **changes))
    return path


# ---- values


@pytest.mark.parametrize("dtype", BLOCKS)
def test_values_are_those_of_gguf_py(dtype):
    found = dequantize(RAW[dtype], dtype)
    assert found.tobytes() == RAW[f"{dtype} values"].tobytes()


@pytest.mark.parametrize("dtype", BLOCKS)
def test_values_beside_gguf_py(dtype):
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[dtype]
    assert gguf.GGML_QUANT_SIZES[kind] == BLOCKS[dtype] and kind == TYPES[dtype]
    raw = np.random.default_rng(0).integers(0, 256, (20_000, BLOCKS[dtype][1]), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, kind)
        assert dequantize(raw, dtype).tobytes() == expected.tobytes()


def test_header_beside_gguf_py(tmp_path):
    gguf = pytest.importorskip("gguf")
    for path in (DATA / "small.gguf", write(tmp_path / "m.gguf", model_metadata() | vocabulary())):
        theirs = gguf.GGUFReader(path)
        with RegularFile(path) as file:
            ours = read_gguf(file)
        fields = {key: field.contents() for key, field in theirs.fields.items() if key[:5] != "GGUF."}
        assert ours.metadata == fields
        places = [(t.name, t.tensor_type.name, t.shape.tolist()[::-1], t.data_offset) for t in theirs.tensors]
        assert [(t.name, t.dtype, [*t.shape], t.offset) for t in ours.tensors.values()] == places


@pytest.mark.parametrize("dtype", BLOCKS)
@pytest.mark.parametrize("block", [256, 2**20])
def test_rows_of_quantised_matrices(dtype, block, tmp_path, monkeypatch):
    """Whole, in slices and transposed, whatever is read at a time."""
    monkeypatch.setattr("gpt2c.checkpoint.tensors._BLOCK", block)
    elements, nbytes = BLOCKS[dtype]
    raw, values = RAW[dtype], RAW[f"{dtype} values"]
    n_rows = 2
    per_row = len(raw) // n_rows * elements
    (tmp_path / "x").write_bytes(bytes(7) + raw.tobytes())
    info = TensorInfo("x", dtype, (n_rows, per_row), tmp_path / "x", 7, raw.nbytes)
    expected = values.reshape(n_rows, per_row)
    assert info.size_of(per_row) == raw.nbytes // n_rows == per_row // elements * nbytes
    with RegularFile(tmp_path / "x") as file:
        assert np.array_equal(read_tensor(file, info), expected)
        assert np.array_equal(read_tensor(file, info, 1, 2), expected[1:])
        assert np.array_equal(read_tensor(file, info.transposed), expected.T)
        assert np.array_equal(read_tensor(file, info.transposed, 5, 40), expected.T[5:40])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", BLOCKS)
@pytest.mark.parametrize("scale", [b"\xff\xff", b"\0\x7c"], ids=["NaN", "infinity"])
def test_scales_that_are_not_finite(dtype, scale, tmp_path):
    data = scale * (BLOCKS[dtype][1] // 2)
    (tmp_path / "x").write_bytes(data)
    info = TensorInfo("x", dtype, (BLOCKS[dtype][0],), tmp_path / "x", 0, len(data))
    with RegularFile(tmp_path / "x") as file, pytest.raises(CheckpointError, match="has NaN or infinity in"):
        read_tensor(file, info)


def test_a_file_of_gguf_py():
    """Every type that it quantises to; the head is a matrix of its own."""
    checkpoint = open_checkpoint(DATA / "small.gguf")
    hashes = {}
    for name in checkpoint.tensors:
        values = checkpoint.read(name)
        values = values.T if name.startswith("h.") and values.ndim == 2 else values
        hashes[named(name)] = hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()
    assert hashes == RECORDED["values"]
    config = checkpoint.config
    assert (config.n_layer, config.n_head, config.n_embd, config.n_inner, config.n_ctx) == (2, 2, 32, 64, 8)
    assert config.layer_norm_epsilon == 1e-5 and config.activation == "gelu_new"
    assert not config.tie_word_embeddings and config.bos_token_id == 293 == config.eos_token_ids[0]
    assert checkpoint.notes == [
        "small.gguf: GGUF, 29 tensors of BF16, F16, F32, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0; activation gelu_new",
        "quantized weights are read as the float32 values they represent",
    ]


# ---- models


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("tied", [True, False])
def test_it_is_the_model_of_transformers(dtype, tied, tmp_path):
    sizes = SIZES | {"tie_word_embeddings": tied}
    path = write(tmp_path / "m.gguf", tensors=model_tensors(sizes, dtype))
    write_model(tmp_path / "same", sizes, dtypes=dtype)
    same = GPT2.from_pretrained(tmp_path / "same")
    model = GPT2.from_pretrained(path, progress=True)
    ids = [3, 1, 4, 1, 5]
    assert np.array_equal(model.forward(ids), same.forward(ids))
    assert model.config == same.config


def test_a_head_that_is_equal_to_the_embedding(tmp_path, monkeypatch):
    monkeypatch.setattr("gpt2c.checkpoint.gguf_model._STEP", 100)  # bytes that are compared at a time
    tensors = model_tensors()
    tensors["output.weight"] = tensors["token_embd.weight"]
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", tensors=tensors))
    assert checkpoint.config.tie_word_embeddings and "lm_head.weight" not in checkpoint.tensors
    assert "output.weight is equal to token_embd.weight: the head is tied" in checkpoint.notes
    kind, sizes, data = tensors["output.weight"]
    tensors["output.weight"] = kind, sizes, data[:-1] + b"\x3e"
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", tensors=tensors))
    assert not checkpoint.config.tie_word_embeddings and "lm_head.weight" in checkpoint.tensors


def test_a_head_with_fewer_rows(tmp_path):
    """It is no copy of the embedding, although all its bytes are equal to those of that."""
    tensors = model_tensors()
    kind, _, data = tensors["token_embd.weight"]
    tensors["output.weight"] = kind, [6, 10], data[:240]
    with pytest.raises(CheckpointError, match=r"has the shape \[10, 6\]; its metadata asks for \[11, 6\]"):
        open_checkpoint(write(tmp_path / "m.gguf", tensors=tensors))


def test_the_tokens_that_end_a_text(tmp_path):
    """The end of a turn and that of a message are such, too, as for llama.cpp."""
    for more, ends in (
        *(({"eos": 3}, (3,)), ({"eos": 3, "eot": 3}, (3,)), ({"eos": 3, "eot": 4}, (3, 4))),
        *(({"eot": 4, "eom": 3}, (4, 3)), ({"eos": 3, "eot": 4, "eom": 3}, (3, 4))),
    ):
        metadata = model_metadata() | {f"tokenizer.ggml.{name}_token_id": i for name, i in more.items()}
        assert open_checkpoint(write(tmp_path / "m.gguf", metadata)).config.eos_token_ids == ends


@pytest.mark.parametrize("name", ["m.gguf", "m.bin"])
def test_the_file_alone_counts(name, tmp_path):
    """Neither its name nor what stands beside it."""
    write_model(tmp_path, TINY | {"n_layer": 1})
    (tmp_path / "tokenizer.json").write_text("{}")
    checkpoint = open_checkpoint(write(tmp_path / name))
    assert checkpoint.config.n_layer == 2 and checkpoint.directory == tmp_path / name


def test_other_alignments_and_version_2(tmp_path):
    for alignment in (1, 8, 4096):
        metadata = model_metadata() | {"general.alignment": alignment}
        path = write(tmp_path / "m.gguf", metadata, alignment=alignment, version=2)
        assert np.array_equal(open_checkpoint(path).read("ln_f.bias"), tiny_tensors()["ln_f.bias"])


def test_the_last_tensor_need_not_be_padded(tmp_path):
    path = write(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[: -(-24 % 32)])  # ln_f.bias has six floats
    assert np.array_equal(open_checkpoint(path).read("ln_f.bias"), tiny_tensors()["ln_f.bias"])


def test_a_folder_of_such_files(tmp_path):
    write(tmp_path / "a.gguf")
    with pytest.raises(CheckpointError, match=r"has no config\.json: .*\. a\.gguf is GGUF: give its path$"):
        open_checkpoint(tmp_path)
    write(tmp_path / "b.gguf")
    with pytest.raises(CheckpointError, match=r"a\.gguf and b\.gguf are GGUF: give the path of one$"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    with pytest.raises(CheckpointError, match=r"it has a\.gguf, b\.gguf; to load one of them, give the path"):
        open_checkpoint(tmp_path)
    (tmp_path / "a.gguf").rename(tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match="is a GGUF file, which is a complete model: give its path as the"
    ):
        open_checkpoint(tmp_path)


def test_adapters_are_merged(tmp_path):
    """To the logits of PEFT, on the same base in another layout."""
    peft = Path(__file__).parent / "data" / "peft"
    path = write(tmp_path / "m.gguf")
    for name in ("dense", "dora", "embedding_and_head"):
        found = GPT2.from_pretrained(path, adapter=peft / name).forward(
            [1, 5, 10, 0, 3, 3, 7, 2], logits_to_keep=0
        )
        expected = np.load(peft / "logits.npz")[name]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_every_command_and_format_takes_it(tmp_path):
    source = DATA / "small.gguf"
    done = run("generate", "the", "-m", source, "-n", "3", "--temperature", "0")
    assert done.returncode == 0 and done.stdout.startswith("the"), done.stderr
    done = run("info", source, "--check")
    assert done.returncode == 0 and "of Q8_0" in done.stdout, done.stdout + done.stderr
    model = GPT2.from_pretrained(source)
    model.save(tmp_path / "m.gpt2c")
    model.export(tmp_path / "hf")
    ids = model.tokenizer.encode("the king<br>", special=True)
    for other in (tmp_path / "m.gpt2c", tmp_path / "hf"):
        again = GPT2.from_pretrained(other)
        assert np.array_equal(again.forward(ids), model.forward(ids))
        assert again.tokenizer.encode("the king<br>", special=True) == ids
        assert again.config.layer_norm_epsilon == 1e-5


def test_a_plain_model_imports_nothing_of_it():
    code = (
        "import sys; from gpt2c import GPT2; GPT2.from_pretrained().generate('a', max_new_tokens=1)\n"
        "print([name for name in sys.modules if 'gguf' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


# ---- tokenizers


def test_tokens_are_those_of_llama_cpp():
    tokenizer = GPT2.from_pretrained(DATA / "small.gguf").tokenizer
    for one in RECORDED["tokens"]:
        assert tokenizer.encode(one["text"]) == one["plain"], one
        assert tokenizer.encode(one["text"], special=True) == one["special"], one
    assert tokenizer.special_tokens == {"<|endoftext|>": 293} and tokenizer.prefix == ()
    assert tokenizer.bos_token_id == 293 == tokenizer.eos_token_id
    assert tokenizer.token_bytes(294) == b"<br>" and tokenizer.token_bytes(295) == b""


@cache
def vocabulary():
    """GPT-2's as metadata."""
    description = gpt2_tokenizer().described()
    vocab = description["model"]["vocab"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": sorted(vocab, key=vocab.get),
        "tokenizer.ggml.token_type": [1] * 50_256 + [3],
        "tokenizer.ggml.merges": description["model"]["merges"],
        "tokenizer.ggml.bos_token_id": 50_256,
        "tokenizer.ggml.eos_token_id": 50_256,
    }


def read(path, changes=(), n_vocab=50_257):
    """The tokenizer of GPT-2's vocabulary with other metadata; None leaves an entry out."""
    metadata = vocabulary() | {f"tokenizer.{key}": value for key, value in dict(changes).items()}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    path.write_bytes(gguf_bytes(metadata, {}))
    return read_gguf_tokenizer(path, n_vocab)


def test_the_vocabulary_of_gpt2(tmp_path):
    tokenizer = read(tmp_path / "m.gguf")
    for words, ids in llama_cpp_vectors():
        assert tokenizer.encode(words) == ids, words
    assert tokenizer.kind == gpt2_tokenizer().kind
    assert tokenizer.encode("<|endoftext|>", special=True) == [50_256]
    assert tokenizer.chat_template is None


@pytest.mark.oracle
def test_tokens_beside_llama_cpp():
    llama_cpp = pytest.importorskip("llama_cpp")
    theirs = llama_cpp.Llama(str(DATA / "small.gguf"), vocab_only=True, verbose=False)
    ours = read_gguf_tokenizer(DATA / "small.gguf", 297)
    rng = np.random.default_rng(0)
    pieces = ["<|endoftext|>", "<br>", "<", "  ", "\n", "é", "'s", "the", "An", " of", "1", "你", "🙂", "!"]
    texts = [words for words, _ in llama_cpp_vectors()]
    texts += ["".join(rng.choice(pieces, 20)) for _ in range(300)]
    for words in texts:
        for special in (False, True):
            expected = theirs.tokenize(words.encode(), add_bos=False, special=special)
            assert ours.encode(words, special=special) == expected, words


def test_it_is_given_as_a_tokenizer_too(tmp_path):
    sizes = SIZES | {"vocab_size": 297, "n_layer": 1}
    write_model(tmp_path, sizes)
    model = GPT2.from_pretrained(tmp_path, tokenizer=DATA / "small.gguf")
    assert model.tokenizer.encode(RECORDED["tokens"][0]["text"]) == RECORDED["tokens"][0]["plain"]
    with pytest.raises(TokenizerError, match="is truncated or damaged: its version would end"):
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        GPT2.from_pretrained(tmp_path, tokenizer=tmp_path / "m.gguf")


def test_what_is_put_around_a_text(tmp_path):
    found = read(tmp_path / "m.gguf", {"ggml.add_bos_token": True})
    assert (found.prefix, found.suffix) == ((50_256,), ())
    found = read(tmp_path / "m.gguf", {"ggml.add_eos_token": True, "ggml.add_bos_token": False})
    assert (found.prefix, found.suffix) == ((), (50_256,))


def test_a_chat_template(tmp_path):
    assert read(tmp_path / "m.gguf", {"chat_template": "{{ x }}"}).chat_template == "{{ x }}"
    for bad in (1, "x" * 70_000):
        with pytest.raises(TokenizerError, match="allowed: a text of at most 65,536 characters"):
            read(tmp_path / "m.gguf", {"chat_template": bad})


@pytest.mark.parametrize("words", [None, "default"])
def test_a_file_that_does_not_say_how_words_are_cut(words, tmp_path):
    assert read(tmp_path / "m.gguf", {"ggml.pre": words}).encode("hello 123") == [31373, 17031]
    metadata = model_metadata() | {"tokenizer.ggml.tokens": [str(i) for i in range(11)]}
    metadata |= {} if words is None else {"tokenizer.ggml.pre": words}
    notes = open_checkpoint(write(tmp_path / "m.gguf", metadata)).notes
    assert notes[1:] == ["the file does not say how texts are split into words: assuming GPT-2's rule"]


def test_an_end_of_text_that_is_no_control_token(tmp_path):
    """As files have it that do not say what tokens are."""
    found = read(tmp_path / "m.gguf", {"ggml.token_type": None})
    assert found.special_tokens == {"<|endoftext|>": 50_256}


def test_control_tokens_and_tokens_without_a_text(tmp_path):
    tokens = [*vocabulary()["tokenizer.ggml.tokens"], "<|user|>", "", ""]
    found = read(tmp_path / "m.gguf", {"ggml.tokens": tokens, "ggml.token_type": [*GOOD, 3, 1, 1]}, 50_260)
    assert found.special_tokens == {"<|endoftext|>": 50_256, "<|user|>": 50_257}
    assert found.token_bytes(50_258) == found.token_bytes(50_259) == b""


GOOD = [1] * 50_256 + [3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ggml.model": None},
            r"holds no tokenizer\. Give the folder with the tokenizer's files as tokenizer=",
        ),
        ({"ggml.model": "llama"}, "has a tokenizer of the kind 'llama'; supported in GGUF files: 'gpt2'"),
        (
            {"ggml.pre": "llama-bpe"},
            r"by the rule 'llama-bpe' \(tokenizer.ggml.pre\); supported in GGUF files: 'gpt-2'",
        ),
        ({"ggml.pre": ["gpt-2"]}, r"by the rule \['gpt-2'\]"),
        ({"ggml.add_sep_token": True}, "has add_sep_token, which is not supported"),
        ({"ggml.tokens": None}, "tokenizer.ggml.tokens is None; a list of texts is needed"),
        ({"ggml.merges": [1, 2]}, r"tokenizer.ggml.merges is \[1, 2\]; a list of texts is needed"),
        ({"ggml.merges": ["a b c"]}, "merge 1 must name two tokens, not 'a b c'"),
        ({"ggml.merges": ["he nope!"]}, "needs the token 'nope!', which is not in the vocabulary"),
        ({"ggml.token_type": [1]}, "does not give the kind of each of the 50257 tokens"),
        ({"ggml.token_type": "1"}, "does not give the kind of each of the 50257 tokens"),
        ({"ggml.token_type": [6, *GOOD[1:]]}, "token 0 is of the type 6; allowed: 1 to 5"),
        ({"ggml.bos_token_id": 50_257}, "bos_token_id is 50257; a token id below 50257 is needed"),
        ({"ggml.eot_token_id": "x"}, "eot_token_id is 'x'; a token id below 50257 is needed"),
        ({"ggml.add_bos_token": 1}, "add_bos_token is 1 and bos_token_id is 50256; allowed: false, or true"),
        (
            {"ggml.add_eos_token": True, "ggml.eos_token_id": None},
            "add_eos_token is True and eos_token_id is N",
        ),
    ],
)
def test_tokenizers_that_are_not_read(changes, message, tmp_path):
    with pytest.raises(TokenizerError, match=message):
        read(tmp_path / "m.gguf", changes)


def test_tokens_that_are_listed_twice(tmp_path):
    tokens = vocabulary()["tokenizer.ggml.tokens"]
    with pytest.raises(TokenizerError, match="'!' is both token 0 and token 1"):
        read(tmp_path / "m.gguf", {"ggml.tokens": ["!", "!", *tokens[2:]]})
    unused = [1, 5, *GOOD[2:]]
    merges = [merge for merge in vocabulary()["tokenizer.ggml.merges"] if '"' not in merge]
    changes = {"ggml.tokens": ["!", "!", *tokens[2:]], "ggml.token_type": unused, "ggml.merges": merges}
    pytest.importorskip("tokenizers")  # a byte without a token
    assert read(tmp_path / "m.gguf", changes).encode("!") == [0]


def test_another_models_tokenizer(tmp_path):
    with pytest.raises(TokenizerError, match="the tokenizer files belong to another model"):
        read(tmp_path / "m.gguf", n_vocab=1_000)


def test_without_a_tokenizer_the_model_works(tmp_path):
    model = GPT2.from_pretrained(write(tmp_path / "m.gguf"))
    assert not model.has_tokenizer and any("m.gguf holds no tokenizer" in note for note in model.notes)


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"general.architecture": "llama"},
            CheckpointError,
            "of the architecture 'llama'; gpt2c runs 'gpt2'",
        ),
        ({"general.architecture": None}, CheckpointError, "of the architecture None; gpt2c runs 'gpt2'"),
        (
            {"general.type": "adapter"},
            CheckpointError,
            "holds 'adapter', not a model; adapters must be saved by PEFT",
        ),
        (
            {"split.count": 3},
            CheckpointError,
            "is one of 3 parts of a model: merge them with `llama-gguf-split --merge`",
        ),
        (
            {"gpt2.block_count": None},
            CheckpointError,
            ": its metadata lacks gpt2.block_count, which a GPT-2 needs",
        ),
        ({"gpt2.block_count": 3}, CheckpointError, "does not hold the GPT-2 of its metadata: 12 tensors"),
        ({"gpt2.block_count": 1}, CheckpointError, "12 tensors .* not expected"),
        (
            {"gpt2.block_count": [1, 2]},
            ConfigError,
            r"its metadata: n_layer is \[1, 2\]; allowed: an integer",
        ),
        ({"gpt2.attention.head_count": 4}, ConfigError, "n_embd 6 is not a multiple of n_head 4"),
        (
            {"gpt2.context_length": 10},
            CheckpointError,
            r"the shape \[9, 6\]; its metadata asks for \[10, 6\]",
        ),
        (
            {"gpt2.attention.layer_norm_epsilon": 0.0},
            ConfigError,
            "layer_norm_epsilon is 0.0; allowed: a numb",
        ),
        (
            {"gpt2.attention.layer_norm_epsilon": "x"},
            ConfigError,
            "layer_norm_epsilon is 'x'; allowed: a numb",
        ),
        (
            {"tokenizer.ggml.eos_token_id": 11},
            ConfigError,
            "eos_token_ids is 11; allowed: token ids from 0 to",
        ),
        ({"tokenizer.ggml.eos_token_id": [1]}, ConfigError, r"eos_token_ids is \[1\]; allowed: token ids"),
        (
            {"tokenizer.ggml.tokens": ["a"]},
            CheckpointError,
            "has 1 tokens, but token_embd.weight has 11 rows",
        ),
        (
            {"gpt2.attention.head_count_kv": 1},
            ConfigError,
            "'gpt2.attention.head_count_kv': 1, which GPT-2 do",
        ),
        ({"gpt2.rope.scale": 1.0}, ConfigError, r"'gpt2.rope.scale': 1.0, which .* --no-strict"),
        ({"general.alignment": 24}, CheckpointError, "general.alignment is 24; a power of two is needed"),
        ({"general.alignment": 0}, CheckpointError, "general.alignment is 0; a power of two is needed"),
        ({"general.alignment": True}, CheckpointError, "general.alignment is True; a power of two"),
        (
            {"general.alignment": 64},
            CheckpointError,
            "starts at byte 288, but by the tensor before it and the alignment of",
        ),
        (
            {"x": struct.pack("<IIQ", 9, 9, 1)},
            CheckpointError,
            "'x' is an array of the type 9; types are 0 to",
        ),
        (
            {"x": struct.pack("<I", 13)},
            CheckpointError,
            "'x' is of the type 13; types are 0 to 12, and arrays",
        ),
        ({"x": struct.pack("<IB", 7, 2)}, CheckpointError, "'x' has a bool that is neither 0 nor 1"),
        (
            {"x": struct.pack("<IIQ", 9, 7, 2) + b"\1\2"},
            CheckpointError,
            "has a bool that is neither 0 nor 1",
        ),
        (
            {"x": struct.pack("<IIQ", 9, 0, 2**40)},
            CheckpointError,
            "'x' announces 1099511627776 elements; all",
        ),
        (
            {"x": struct.pack("<IIQ", 9, 10, 400_000)},
            CheckpointError,
            "is truncated or damaged: the metadata's ",
        ),
        (
            {"x": typed([0] * 5), "y": struct.pack("<IIQ", 9, 0, 399_996)},
            CheckpointError,
            "'y' announces 399996 elements; all arrays together may have 400000",
        ),
        (
            {"x": struct.pack("<IQ", 8, 2**64 - 1)},
            CheckpointError,
            "is truncated or damaged: the metadata's '",
        ),
        (
            {"x": struct.pack("<I", 8) + text(b"\xff")},
            CheckpointError,
            "'x' is not UTF-8: 'utf-8' codec can't",
        ),
    ],
)
def test_metadata_that_cannot_be(changes, error, message, tmp_path):
    metadata = {key: value for key, value in (model_metadata() | changes).items() if value is not None}
    with pytest.raises(error, match=message) as caught:
        open_checkpoint(write(tmp_path / "m.gguf", metadata))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500 + len(str(tmp_path))


def test_settings_that_say_what_holds_anyway(tmp_path):
    more = {
        "gpt2.attention.head_count_kv": 2,
        "gpt2.vocab_size": 11,
        "general.type": "model",
        "split.count": 1,
    }
    assert len(open_checkpoint(write(tmp_path / "m.gguf", model_metadata() | more)).notes) == 1
    path = write(tmp_path / "m.gguf", model_metadata() | {"gpt2.rope.scale": 1.0})
    notes = open_checkpoint(path, strict=False).notes
    assert (
        "the metadata's 'gpt2.rope.scale': 1.0 is ignored: GPT-2 has no such setting (strict=False)" in notes
    )


F32_2 = (0, [2], bytes(8))


@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        (
            {"a": (10, [256], bytes(84))},
            {},
            "tensor 'a' is of the type Q2_K; supported: F32, F16, F64, BF16, Q4_0",
        ),
        ({"a": (99, [2], bytes(8))}, {}, "tensor 'a' is of the type 99; supported:"),
        ({"a": (8, [31], bytes(34))}, {}, "'a' of Q8_0 has rows of 31 elements; a multiple of 32 is needed"),
        ({"a": (8, [], bytes(34))}, {}, "'a' of Q8_0 has rows of 1 elements; a multiple of 32 is needed"),
        ({"a": (0, [1] * 5, bytes(4))}, {}, "tensor 'a' has 5 dimensions; at most 4 are accepted"),
        (
            {"a": (0, [2**62, 4], bytes(4))},
            {},
            r"has the sizes \[4611686018427387904, 4\]: larger than any file",
        ),
        ({"a": (0, [2**40], bytes(4))}, {}, "is truncated: by its header it has 43980"),
        ({"a": F32_2, b"a": F32_2}, {}, "is damaged: it has two tensors 'a'"),
        ({b"\xff": F32_2}, {}, "the name of tensor 0 is not UTF-8"),
        (
            {"a": F32_2, "b": F32_2},
            {"offsets": {"b": 0}},
            "'b' starts at byte 0, but .* 32 it must start at byte 32",
        ),
        (
            {"a": F32_2, "b": F32_2},
            {"offsets": {"b": 8}},
            "'b' starts at byte 8, but .* 32 it must start at byte 32",
        ),
        (
            {"a": F32_2, "b": F32_2},
            {"offsets": {"b": 64}},
            "'b' starts at byte 64, but .* it must start at byte 32",
        ),
        (
            {"a": F32_2},
            {"offsets": {"a": 2**64 - 1}},
            "starts at byte 18446744073709551615, but by the tensor before",
        ),
        ({"a": F32_2}, {"counts": (2**14 + 1, 0)}, "announces 16385 tensors; for a GPT-2 at most 4096 are"),
        ({"a": F32_2}, {"counts": (1, 2**64 - 1)}, "announces 18446744073709551615 entries of metadata; for"),
        ({"a": F32_2}, {"counts": (3, 0)}, "is truncated or damaged: "),
        ({"a": F32_2}, {"counts": (0, 0)}, "has extra bytes at the end: by its header it has"),
        (
            {},
            {"version": 1},
            "is a GGUF file of version 1; supported: little-endian, versions 2 and 3. Convert it again with",
        ),
        (
            {},
            {"version": 3 << 24},
            "is a big-endian GGUF file; supported: little-endian, versions 2 and 3. Convert it again with",
        ),
    ],
)
def test_tensors_that_cannot_be(tensors, changes, message, tmp_path):
    path = write(tmp_path / "m.gguf", {}, tensors, **changes)
    tracemalloc.start()
    with RegularFile(path) as file, pytest.raises(CheckpointError, match=message):
        read_gguf(file)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_an_entry_that_is_there_twice(tmp_path):
    data = gguf_bytes({"a": 1, "b": 2}, {})
    (tmp_path / "m.gguf").write_bytes(data.replace(text("b"), text("a")))
    with pytest.raises(CheckpointError, match="its metadata has 'a' twice"):
        open_checkpoint(tmp_path / "m.gguf")


def test_a_header_without_end(tmp_path):
    """A hole in a large file: no more of it is read than a header may have."""
    with open(tmp_path / "m.gguf", "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("x") + struct.pack("<IQ", 8, 2**33))
        file.truncate(2**34)
    tracemalloc.start()
    with pytest.raises(
        CheckpointError, match="'x' reaches beyond byte 8388608, the limit for a GPT-2 before its tensors"
    ):
        open_checkpoint(tmp_path / "m.gguf")
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()


def test_bytes_behind_the_last_tensor(tmp_path):
    path = write(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="has extra bytes at the end"):
        open_checkpoint(path)


def test_names_that_gpt2_does_not_have(tmp_path):
    tensors = model_tensors()
    tensors["blk.0.attn_q.weight"] = stored(np.ones((6, 6)))
    path = write(tmp_path / "m.gguf", tensors=tensors)
    with pytest.raises(CheckpointError, match=r"'blk\.0\.attn_q\.weight' not expected"):
        open_checkpoint(path)
    assert any("'blk.0.attn_q.weight' ignored" in note for note in open_checkpoint(path, strict=False).notes)
    del tensors["blk.0.attn_q.weight"], tensors["token_embd.weight"]
    with pytest.raises(CheckpointError, match=r"has no token_embd\.weight, a matrix with a row for each"):
        open_checkpoint(write(path, tensors=tensors))


def test_files_that_are_cut_off(tmp_path):
    data = (DATA / "small.gguf").read_bytes()
    path = tmp_path / "m.gguf"
    end = len(data) - 20_000  # of the header and more
    for length in [*range(4, 400), *range(400, end, 97), *range(len(data) - 70, len(data))]:
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(path)


def opened(path, data):
    """Only an error that is raised on purpose may come, at whatever is in a file."""
    path.write_bytes(data)
    try:
        checkpoint = open_checkpoint(path)
        for name in checkpoint.tensors:
            checkpoint.read(name)
        GPT2.from_pretrained(path)
    except (CheckpointError, ConfigError):
        return False
    return True


SMALL = gguf_bytes(
    model_metadata()
    | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*"abcdefghij", "ab"],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.token_type": [1] * 9 + [3, 4],
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.bos_token_id": 9,
    },
    model_tensors(),
)
HEADER = SMALL.index(text("token_embd.weight")) + 40
numbers = st.sampled_from([0, 1, 2, 7, 8, 9, 12, 255, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_in_the_header(tmp_path, data):
    damaged = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(4, len(SMALL) - 8) if data.draw(st.booleans()) else st.integers(4, HEADER))
        size = data.draw(st.sampled_from([1, 4, 8]))
        damaged[at : at + size] = (data.draw(numbers) % 2 ** (8 * size)).to_bytes(size, "little")
    opened(tmp_path / "m.gguf", bytes(damaged))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(more=st.dictionaries(
    st.sampled_from([*model_metadata(), "general.type", "split.count", "tokenizer.ggml.model",
        *(f"tokenizer.ggml.{key}" for key in ("pre", "tokens", "merges", "token_type", "bos_token_id")),
        *(f"tokenizer.ggml.{key}" for key in ("eos_token_id", "eot_token_id", "add_bos_token")),
        "tokenizer.chat_template", "general.alignment"]),
    st.booleans() | st.integers(0, 2**32 - 1) | st.floats(width=32) | st.text(max_size=3)
    | st.lists(st.integers(-1, 12), max_size=12) | st.lists(st.text(max_size=3), min_size=1, max_size=12)
    | st.binary(max_size=20),
    max_size=3,
))  # fmt: skip
def test_any_metadata(tmp_path, more):
    opened(
        tmp_path / "m.gguf",
        gguf_bytes(model_metadata() | {"tokenizer.ggml.model": "gpt2"} | more, model_tensors()),
    )


def test_what_the_fuzzer_begins_with_is_good(tmp_path):
    assert opened(tmp_path / "m.gguf", SMALL)
