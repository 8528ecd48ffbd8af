"""The public face: loading, prompts of every kind, logits and caches, and an import that stays light."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import rounding, tolerance
from helpers.tiny_checkpoints import write_model
from helpers.toys import bundled_tokenizer, random_gpt2

import gpt2c
from gpt2c import (
    GPT2,
    CacheInUseError,
    CheckpointError,
    ContextLengthError,
    TokenizerError,
    reference,
)
from gpt2c.checkpoint import BUNDLED
from gpt2c.core import _engine

# ---- loading


def test_the_bundled_model_is_the_default_and_tells_a_story(bundled):
    assert (bundled.config.n_layer, bundled.config.n_ctx, bundled.config.n_vocab) == (6, 512, 4096)
    assert bundled.generate("Once upon a time", max_new_tokens=8).text == " there was a man who had a son"
    assert bundled.dtype == "float32" and bundled.backend == bundled.weights.backend
    assert bundled.numerics == f"float32-{bundled.backend}-{_engine.NUMERICS_VERSION}"
    assert "the bundled model: 6 layers, 4 heads, 256 wide, context 512, vocabulary 4096" in repr(bundled)
    assert repr(bundled).endswith("1 thread>")
    assert bundled.notes


def test_a_directory_and_its_file_are_the_same_model(bundled):
    for source in (BUNDLED, str(BUNDLED), BUNDLED / "model.safetensors"):
        model = GPT2.from_pretrained(source, threads=1)
        np.testing.assert_array_equal(model.forward([1, 2, 3]), bundled.forward([1, 2, 3]))
        assert model.score("Once").token_ids == bundled.score("Once").token_ids


def test_the_back_ends_agree(bundled):
    blas = GPT2.from_pretrained(backend="blas", threads=1)
    assert blas.backend == "blas" and "blas" in blas.numerics
    np.testing.assert_allclose(blas.forward([1, 2, 3]), bundled.forward([1, 2, 3]), atol=1e-4)


# How far the mean log-probability of the texts below may be from that of float32, in nats per token: two to
# four times what the bundled model shows. (Its 256 inputs are few to average over; larger models lose less.)
LOSS = {"bfloat16": 0.002, "int8": 0.015, "int4": 0.08}
TEXTS = (
    "Once upon a time there was a king who had three daughters, and the youngest was very beautiful.",
    "The old man went into the wood to gather sticks, and when he came home his wife said: what is that?",
    "A mouse and a cat lived together in a small house by the river.",
)


@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", 0.52), ("int8", 0.28), ("int4", 0.19)])
def test_the_bundled_model_in_every_format(bundled, dtype, share):
    model = GPT2.from_pretrained(dtype=dtype, threads=1)
    assert model.dtype == dtype and model.weights.dtype == dtype and f"; {dtype}, native" in repr(model)
    own = dtype == "bfloat16" and model.weights.isa in rounding.OWN_BFLOAT16
    isa = f"-{model.weights.isa}" if own else ""
    assert model.numerics == f"{dtype}{isa}-native-{_engine.NUMERICS_VERSION}"
    assert model.memory_plan()["weights"] == model.weights.nbytes < share * bundled.weights.nbytes
    losses = [-np.concatenate([s.logprobs for s in some.score(TEXTS)]).mean() for some in (model, bundled)]
    assert abs(losses[0] - losses[1]) < LOSS[dtype]
    assert losses[0] != losses[1]
    text = model.generate("Once upon a time", max_new_tokens=12).text
    assert text.startswith(", and then he was a" if dtype == "int4" else " there was a man who had a son. He")


def test_a_checkpoint_of_bfloat16_is_kept_as_it_is(tmp_path):
    tensors = write_model(tmp_path / "half", dtypes="BF16")
    rounded = {name: (w.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, w in tensors.items()}
    write_model(tmp_path / "whole", tensors=rounded)
    half = GPT2.from_pretrained(tmp_path / "half", dtype="bfloat16", threads=1)
    whole = GPT2.from_pretrained(tmp_path / "whole", dtype="bfloat16", threads=1)
    assert half.dtype == whole.dtype == "bfloat16"
    np.testing.assert_array_equal(half.forward([1, 2, 3]), whole.forward([1, 2, 3]))
    exact = reference.forward(half.config, rounded, [1, 2, 3])  # inputs are rounded, weights are not
    bound = tolerance.format_bound(half.config, rounded, [1, 2, 3], "bfloat16")
    tolerance.check_logits(half.forward([1, 2, 3]), exact, bound)
    assert GPT2.from_pretrained(tmp_path / "half", threads=1).dtype == "float32"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"dtype": "float16"},
            ValueError,
            "dtype must be None or one of 'float32', 'bfloat16', 'int8', 'int4', not 'float16'",
        ),
        ({"dtype": np.float32}, ValueError, "one of 'float32', 'bfloat16', 'int8', 'int4', not <class"),
        (
            {"dtype": "int8", "backend": "blas"},
            ValueError,
            "backend 'blas' multiplies float32 only; dtype 'int8' needs backend 'native'",
        ),
        (
            {"cache_dtype": "int8"},
            ValueError,
            "cache_dtype must be 'float32' or 'float16' or 'bfloat16', not 'int8'",
        ),
        ({"backend": "cuda"}, ValueError, "backend must be 'native' or 'blas', not 'cuda'"),
        ({"threads": 0}, ValueError, "threads must be from 1 to 1024, not 0"),
        ({"threads": 1025}, ValueError, "threads must be from 1 to 1024, not 1025"),
        ({"threads": 1.5}, TypeError, "threads must be an integer, from 1 to 1024, not 1.5 (float)"),
        ({"source": "/nowhere/at/all"}, CheckpointError, "/nowhere/at/all"),
        ({"tokenizer": object()}, (TypeError, TokenizerError), "encode"),
    ],
)
def test_bad_options_of_from_pretrained(options, error, message):
    with pytest.raises(error) as caught:
        GPT2.from_pretrained(**options)
    assert message in str(caught.value)


def test_a_folder_without_tokenizer_serves_token_ids(tmp_path, bundled):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(BUNDLED / name, tmp_path)
    model = GPT2.from_pretrained(tmp_path, threads=1)
    assert not model.has_tokenizer
    assert any("no tokenizer" in note for note in model.notes)
    assert (
        model.generate([1, 2], max_new_tokens=3).token_ids
        == bundled.generate([1, 2], max_new_tokens=3).token_ids
    )
    for attempt in (lambda: model.generate("text"), lambda: model.score("text"), lambda: model.tokenizer):
        with pytest.raises(TokenizerError, match="tokenizer"):
            attempt()
    given = GPT2.from_pretrained(tmp_path, tokenizer=bundled.tokenizer, threads=1)
    assert given.generate("The", max_new_tokens=3) == bundled.generate("The", max_new_tokens=3)


def test_the_text_of_a_token_alone():
    model, _ = random_gpt2(n_vocab=5000, tokenizer=bundled_tokenizer())
    [king] = model.tokenizer.encode(" king")
    character = model.tokenizer.encode("\U00010348")
    assert model.token_text(king) == " king" and len(character) == 4
    assert [model.token_text(token) for token in character] == ["\\xf0", "\\x90", "\\x8d", "\\x88"]
    assert model.token_text(4096) == random_gpt2()[0].token_text(5) == ""


def test_any_object_with_encode_and_decode_is_a_tokenizer():
    class Words:
        def encode(self, text):
            return [5 + "abc".index(letter) for letter in text]

        def decode(self, ids):
            return "".join("abc"[token - 5] if 5 <= token < 8 else "?" for token in ids)

    model = GPT2.from_pretrained(tokenizer=Words(), threads=1)
    result = model.generate("abc", max_new_tokens=4)
    assert result.prompt_token_ids == [5, 6, 7] and len(result.text) == 4
    assert "".join(model.stream("abc", max_new_tokens=4)) == result.text
    assert model.score("abc").token_ids == [5, 6, 7]


def test_what_a_tokenizer_puts_around_a_text_is_not_scored():
    class WithStart:
        n_vocab = 61

        def encode(self, text):
            return [1, *(10 + ord(c) % 50 for c in text), 2]

        def decode(self, ids):
            return "".join("?" for _ in ids)

    from gpt2c.tokenizer import as_tokenizer

    model, _ = random_gpt2(0)
    with_start = GPT2(model.weights, as_tokenizer(WithStart()), threads=1)
    ids = [10 + ord(c) % 50 for c in "hello"]
    assert with_start.score("hello").token_ids == ids
    assert (with_start.tokenizer.prefix, with_start.tokenizer.suffix) == ((1,), (2,))
    np.testing.assert_array_equal(with_start.score("hello").logprobs, model.score(ids, bos=1).logprobs)
    pair, plain = with_start.score([("he", "llo")])[0], model.score([(ids[:2], ids[2:])], bos=1)[0]
    np.testing.assert_array_equal(pair.logprobs, plain.logprobs)
    assert with_start.generate("hello", max_new_tokens=1).prompt_token_ids == [1, *ids]
    assert with_start.generate("", max_new_tokens=1).prompt_token_ids == [1]


# ---- prompts


def test_prompts_of_every_kind(bundled):
    ids = bundled.tokenizer.encode("Once upon")
    assert len(ids) == 2
    one = bundled.generate("Once upon", max_new_tokens=2)
    kinds = (
        ids,
        tuple(ids),
        np.array(ids),
        np.array(ids, np.uint8 if max(ids) < 256 else np.uint16),
        list(np.array(ids)),
    )
    for prompt in kinds:
        result = bundled.generate(prompt, max_new_tokens=2)
        assert (result.token_ids, result.prompt_token_ids) == (one.token_ids, ids)
    several = bundled.generate(["Once upon", ids, np.array(ids), tuple(ids)], max_new_tokens=2)
    assert [result.prompt_index for result in several] == [0, 1, 2, 3]
    assert all(result.token_ids == one.token_ids for result in several)
    assert bundled.generate(("Once upon",), max_new_tokens=2) == [one]
    assert len(bundled.generate("Once upon", max_new_tokens=2, num_return_sequences=2)) == 2


def test_the_empty_prompt_is_the_beginning_of_a_text(bundled):
    result = bundled.generate("", max_new_tokens=3)
    assert result.prompt_token_ids == [0]
    assert result.token_ids == bundled.generate([0], max_new_tokens=3).token_ids
    assert bundled.generate(["", "a"], max_new_tokens=3)[0].token_ids == result.token_ids


def test_special_tokens_in_text_are_text(bundled):
    assert 0 not in bundled.generate("<|endoftext|>", max_new_tokens=1).prompt_token_ids


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([[1], []], ValueError, "prompt 1 has no token ids"),
        (np.array([], np.int64), ValueError, "the prompt has no token ids"),
        (
            None,
            TypeError,
            "a prompt is a string or a list of token ids, several are a list of those",
        ),
        (b"bytes", TypeError, "not bytes"),
        ({"a": 1}, TypeError, "not dict"),
        (7, TypeError, "not int"),
        ([True, 1], TypeError, "the prompt must hold integers only, not True (bool)"),
        ([1.0, 2.0], TypeError, "integers only, not 1.0 (float)"),
        ([1, "a"], TypeError, "integers only, not 'a' (str)"),
        (["a", 1], TypeError, "prompt 1 must be a string or token ids in a list or array, not int"),
        (["a", None], TypeError, "prompt 1 must be a string or token ids in a list or array, not NoneType"),
        (np.array([1.5]), TypeError, "one-dimensional array of integers, not 1 dimensions of float64"),
        (np.array([True]), TypeError, "of bool"),
        (np.array([[1, 2]]), TypeError, "not 2 dimensions of int64"),
        ([4096], ValueError, "the prompt has token id 4096, but the vocabulary has 4096 tokens: 0 to 4095"),
        ([3, -1], ValueError, "token id -1"),
        ([2**70], ValueError, f"token id {2**70}"),
        (np.array([2**63], np.uint64), ValueError, f"token id {2**63}"),
        ("lone \udc80 surrogate", TokenizerError, "surrogate"),
    ],
    ids=repr,
)
def test_bad_prompts_are_refused(bundled, prompt, error, message):
    for attempt in (bundled.generate, bundled.suggest, bundled.score):
        with pytest.raises(error) as caught:
            attempt(prompt)
        assert message.replace("prompt", "text") in str(caught.value).replace("prompt", "text")


@pytest.mark.parametrize("nothing", [[], ()])
def test_no_texts_have_no_scores_and_no_prompts_are_a_mistake(bundled, nothing):
    assert bundled.score(nothing) == [] == bundled.score(nothing, words=True, bos=False)
    with pytest.raises(ValueError, match="window must be"):
        bundled.score(nothing, window=0)
    for attempt in (bundled.generate, bundled.suggest):
        with pytest.raises(ValueError, match="list is empty; to generate unconditionally, pass the em"):
            attempt(nothing)


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)]
)
def test_bad_batch_sizes(bundled, size, error):
    with pytest.raises(error, match="batch_size must be"):
        bundled.generate("a", batch_size=size)


def test_a_model_without_bos_needs_a_prompt():
    model = GPT2(random_gpt2(bos_token_id=None, n_vocab=4096)[0].weights, bundled_tokenizer(), threads=1)
    with pytest.raises(
        ValueError, match=r"neither a bos_token_id nor an eos_token_id.*give a prompt that is not empty"
    ):
        model.generate("")
    assert model.generate("a", max_new_tokens=1).token_ids


# ---- logits and caches


def test_forward_equals_the_reference():
    model, weights = random_gpt2(0)
    ids = [5, 4, 3, 2, 1]
    expected = reference.forward(model.config, weights, np.array(ids))
    logits = model.forward(ids)
    assert logits.dtype == np.float32 and logits.shape == (5, 61) and logits.flags.c_contiguous
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_array_equal(model.forward(np.array(ids), logits_to_keep=2), logits[-2:])
    np.testing.assert_array_equal(model.forward(tuple(ids), logits_to_keep=100), logits)


def test_a_cache_carries_on_where_it_was():
    model, _ = random_gpt2(0)
    ids = [5, 4, 3, 2, 1]
    logits = model.forward(ids)
    cache = model.new_cache()
    assert len(cache) == 0 and cache.n_ctx == 40
    steps = [model.forward([token], cache) for token in ids]
    np.testing.assert_array_equal(np.concatenate(steps), logits)
    cache.truncate(3)
    fork = cache.fork()
    np.testing.assert_array_equal(model.forward(ids[3:], cache=cache), logits[3:])
    assert (len(cache), len(fork)) == (5, 3)
    np.testing.assert_array_equal(model.forward(ids[3:], cache=fork), logits[3:])


def test_bad_uses_of_forward_and_caches(bundled):
    model, _ = random_gpt2(0)
    cache = model.new_cache(3)
    model.forward([1, 2], cache)
    with pytest.raises(ContextLengthError, match="2 positions in the cache and 2 new tokens"):
        model.forward([1, 2], cache)
    assert len(cache) == 2
    with pytest.raises(ContextLengthError, match="40 positions"):
        model.forward([1] * 41)
    with pytest.raises(ValueError, match="another model"):
        bundled.forward([1], cache)
    with pytest.raises(
        TypeError, match=r"forward takes token ids, not text: use model.tokenizer.encode\(text\) first"
    ):
        model.forward("text")
    with pytest.raises(ValueError, match=r"ids has token id 61, but the vocabulary has 61 tokens"):
        model.forward([61])
    with pytest.raises(ValueError, match=r"logits_to_keep must be at least 0 \(0 keeps all\), not -1"):
        model.forward([1], logits_to_keep=-1)
    with pytest.raises(ValueError, match="n_ctx must be from 1 to 40, the model's context, not 41"):
        model.new_cache(41)
    with pytest.raises(
        TypeError, match=r"n_ctx must be an integer, from 1 to 40, the model's context, not 2.5"
    ):
        model.new_cache(2.5)


def test_a_cache_cannot_be_used_twice_at_once():
    model, _ = random_gpt2(0)
    cache = model.new_cache()
    with pytest.raises(CacheInUseError, match="in use by another call"):
        _engine.forward(model.weights, [(cache, np.array([1], np.int32)), (cache, np.array([2], np.int32))])
    assert len(cache) == 0


def test_threads_may_be_set_and_change_nothing(bundled):
    model = GPT2.from_pretrained(threads=2)
    one = bundled.generate("The king", max_new_tokens=20)
    assert model.generate("The king", max_new_tokens=20) == one
    model.threads = 1
    assert model.threads == 1
    assert model.generate("The king", max_new_tokens=20) == one
    model.threads = None
    assert 1 <= model.threads <= 1024
    with pytest.raises(ValueError, match="threads must be from 1 to 1024, not 0"):
        model.threads = 0


def test_one_model_serves_several_python_threads(bundled):
    prompts = ["The king", "Once upon a time", "A mouse", "In the wood"]
    expected = {
        prompt: bundled.generate(prompt, max_new_tokens=20, temperature=1.0, seed=1) for prompt in prompts
    }
    results = {}

    def work(prompt):
        results[prompt] = bundled.generate(prompt, max_new_tokens=20, temperature=1.0, seed=1)

    workers = [threading.Thread(target=work, args=(prompt,)) for prompt in prompts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert results == expected


def test_memory_plan(bundled):
    plan = bundled.memory_plan()
    c = bundled.config
    assert plan["weights"] == bundled.weights.nbytes
    assert plan["cache_full_context"] == bundled.new_cache().nbytes >= 2 * c.n_layer * c.n_embd * 4 * c.n_ctx
    assert plan["cache_per_token"] == 2 * c.n_layer * c.n_embd * 4
    assert plan["logits_per_row"] == 4 * c.n_vocab
    assert plan["one_text_of_full_context"] == sum(
        plan[name] for name in ("weights", "cache_full_context", "logits_per_row")
    )


# ---- the package


def test_every_public_name_is_there():
    for name in gpt2c.__all__:
        assert getattr(gpt2c, name) is not None
    assert set(gpt2c.__all__) <= set(dir(gpt2c))
    with pytest.raises(AttributeError, match="module 'gpt2c' has no attribute 'GPT3'"):
        gpt2c.GPT3  # noqa: B018


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_importing_the_package_loads_nothing_heavy():
    done = run_python(
        "import sys; before = set(sys.modules); import gpt2c, gpt2c.cli; new = set(sys.modules) - before\n"
        "print(sorted(m for m in new if not m.startswith('gpt2c')))\n"
        "print(sorted(m for m in new if m.startswith('gpt2c')))"
    )
    assert done.stderr == ""
    others, ours = done.stdout.splitlines()
    for heavy in ("numpy", "tiktoken", "huggingface_hub", "asyncio", "json", "argparse", "logging"):
        assert f"'{heavy}" not in others, others
    light = {
        "gpt2c.errors",
        "gpt2c.version",
        "gpt2c.core",
        "gpt2c.core.files",
        "gpt2c.core.labels",
        "gpt2c.views",
        "gpt2c.views.ansi",
    }
    assert {name for name in ast.literal_eval(ours) if not name.startswith("gpt2c.cli")} == {"gpt2c", *light}


def test_loading_a_model_needs_no_hub_and_no_network_library():
    done = run_python(
        "import sys; from gpt2c import GPT2; GPT2.from_pretrained().generate('a', max_new_tokens=1)\n"
        "print([m for m in ('huggingface_hub', 'asyncio', 'requests', 'httpx', 'torch', 'transformers') "
        "if m in sys.modules])"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_clone_without_its_core_says_what_to_type(tmp_path):
    package = tmp_path / "gpt2c"
    ignore = shutil.ignore_patterns("*.so", "*.pyd", "data", "__pycache__")
    shutil.copytree(gpt2c.__path__[0], package, ignore=ignore)
    done = subprocess.run(
        # -S: without site-packages, where an editable install would offer its core to any gpt2c
        [sys.executable, "-S", "-c", "import gpt2c; print(gpt2c.__version__); from gpt2c import GPT2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == gpt2c.__version__ + "\n"
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: gpt2c was imported from ") and str(package) in last
    assert "its compiled core is not built: run `pip install -e .` there" in last
