"""Keywords that a method does not have: what to use instead of transformers' names, and what was meant."""

from __future__ import annotations

import inspect
import re
from functools import cache

import pytest
from helpers.toys import random_gpt2

from gpt2c import GPT2
from gpt2c.cli import main
from gpt2c.cli.parser import build_parser
from gpt2c.core.foreign_names import OF_GENERATION, OF_LOADING, OF_PROMPTS
from gpt2c.generation.options import SamplingOptions
from gpt2c.ray import Generator

# What GPT2LMHeadModel.generate of transformers 4.57.6 takes by name, GenerationConfig's fields included.
OF_TRANSFORMERS = """
assistant_confidence_threshold assistant_early_exit assistant_lookbehind assistant_model bad_words_ids
begin_suppress_tokens bos_token_id cache_config cache_implementation compile_config constraints
custom_generate decoder_start_token_id disable_compile diversity_penalty do_sample dola_layers
early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty eos_token_id epsilon_cutoff eta_cutoff
exponential_decay_length_penalty force_words_ids forced_bos_token_id forced_eos_token_id generation_config
guidance_scale inputs length_penalty logits_processor low_memory max_length max_matching_ngram_size
max_new_tokens max_time min_length min_new_tokens min_p negative_prompt_attention_mask negative_prompt_ids
no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams
num_return_sequences output_attentions output_hidden_states output_logits output_scores pad_token_id
penalty_alpha prefill_chunk_size prefix_allowed_tokens_fn prompt_lookup_num_tokens remove_invalid_values
renormalize_logits repetition_penalty return_dict_in_generate return_legacy_cache sequence_bias stop_strings
stopping_criteria streamer suppress_tokens synced_gpus target_lookbehind temperature token_healing top_k top_p
typical_p use_cache use_model_defaults watermarking_config
"""

OF_ITS_INPUTS = "input_ids attention_mask token_type_ids position_ids inputs_embeds past_key_values"

OF_ITS_LOADING = """
config ignore_mismatched_sizes force_download use_safetensors weights_only adapter_kwargs adapter_name
attn_implementation device_map device_mesh distributed_config from_flax from_tf generation_config gguf_file
key_mapping load_in_4bit load_in_8bit low_cpu_mem_usage max_memory mirror offload_buffers offload_folder
offload_state_dict output_loading_info proxies quantization_config resume_download state_dict torch_dtype
tp_plan tp_size trust_remote_code use_auth_token use_kernels variant
"""


@cache
def model():
    return random_gpt2(0)[0]


def refused(method, **given):
    with pytest.raises(TypeError) as caught:
        method("x", **given)
    return str(caught.value)


def answered(method, name):
    """What is said of a name, which is refused and known."""
    message = refused(method, **{name: None})
    start = f"{method.__name__} has no option {name}: "
    assert message.startswith(start) and len(message) > len(start) + 15, message
    assert "did you mean" not in message and "help(" not in message, message
    return message[len(start) :]


@pytest.mark.parametrize("name", [*OF_TRANSFORMERS.split(), *OF_ITS_INPUTS.split()])
def test_generate_answers_every_option_of_transformers(name):
    if name not in SamplingOptions.__dataclass_fields__:
        assert answered(model().generate, name) == answered(model().stream, name)


@pytest.mark.parametrize("name", OF_ITS_LOADING.split())
def test_from_pretrained_answers_every_option_of_transformers(name):
    answered(GPT2.from_pretrained, name)


@pytest.mark.parametrize("name", [*OF_ITS_INPUTS.split(), "labels", "output_attentions", "use_cache"])
@pytest.mark.parametrize("method", ["score", "suggest", "run_with_cache"])
def test_other_methods_answer_those_of_a_forward_pass(method, name):
    answered(getattr(model(), method), name)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("do_sample", "temperature"),
        ("max_length", "max_new_tokens"),
        ("min_length", "min_new_tokens"),
        ("stop_strings", "stop"),
        ("bad_words_ids", "bad_words"),
        ("eta_cutoff", "typical_p"),
        ("token_healing", "heal"),
        ("assistant_model", "draft"),
        ("prompt_lookup_num_tokens", "draft"),
        ("negative_prompt_ids", "negative_prompt"),
        ("dola_layers", "penalty_alpha"),
        ("prefix_allowed_tokens_fn", "token_bitmask"),
        ("streamer", "stream"),
        ("input_ids", "first argument"),
        ("output_scores", "logprobs"),
    ],
)
def test_the_answer_names_the_option_to_use(name, ours):
    assert ours in answered(model().generate, name)


def test_loading_names_the_option_to_use():
    assert "dtype" in answered(GPT2.from_pretrained, "torch_dtype")
    assert "'int8'" in answered(GPT2.from_pretrained, "load_in_8bit")


@pytest.mark.parametrize(
    ("method", "name", "meant"),
    [
        ("generate", "temprature", "temperature"),
        ("generate", "batchsize", "batch_size"),
        ("stream", "topk", "top_k"),
        ("score", "strides", "stride"),
        ("suggest", "specials", "special"),
        ("run_with_cache", "name_filter", "names_filter"),
    ],
)
def test_a_slip_is_told_what_was_meant_and_where_all_options_are(method, name, meant):
    message = refused(getattr(model(), method), **{name: 1})
    assert f"{method} has no option {name}: did you mean {meant}" in message
    assert f"? help(GPT2.{method})" in message


def test_every_unknown_option_is_answered_and_nothing_unlike_is_guessed():
    message = refused(model().generate, do_sample=True, qqqq=1)
    assert "no option do_sample: temperature" in message and "no option qqqq: help(GPT2.generate)" in message


@pytest.mark.parametrize(
    ("args", "kwargs", "advice"),
    [
        (("gpt2",), {}, r"GPT2.from_pretrained('gpt2') loads a model"),
        (("gpt2",), {"dtype": "int8"}, r"GPT2.from_pretrained('gpt2') loads a model"),
        ((), {}, r"GPT2.from_pretrained(...) loads a model"),
        ((), {"weights": None}, r"GPT2.from_pretrained(...) loads a model"),
    ],
)
def test_a_name_given_to_the_class_is_told_what_loads_it(args, kwargs, advice):
    with pytest.raises(TypeError) as caught:
        GPT2(*args, **kwargs)
    assert str(caught.value).startswith(advice)


def test_signatures_are_as_written():
    assert list(inspect.signature(GPT2.score).parameters)[:3] == ["self", "texts", "bos"]
    assert list(inspect.signature(GPT2).parameters)[:2] == ["weights", "tokenizer"]
    assert list(inspect.signature(GPT2.from_pretrained).parameters)[:2] == ["source", "dtype"]


OF_PYTHON = re.compile(r"[a-z]_[a-z]|\bmodel\.|\w\(|\w=|(?<!-)\b(stop takes|threads says)")
COMMANDS = (
    "generate",
    "suggest",
    "score",
    "fill",
    "embed",
    "explain",
    "info",
    "convert",
    "export",
    "serve",
    "bench",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_answers_in_its_own_options(command, capsys):
    parser = build_parser()._subparsers._group_actions[0].choices[command]
    ours = set(parser._option_string_actions)
    names = {*OF_LOADING, *(OF_GENERATION if command == "generate" else OF_PROMPTS)}
    for name in names:
        option = "--" + name.replace("_", "-")
        if option in ours:
            continue
        arguments = {"convert": ["a", "b"], "export": ["a", "b"], "serve": [], "bench": []}.get(
            command, ["x"]
        )
        assert main([command, *arguments, f"{option}=1"]) == 2
        said = capsys.readouterr().err.partition(f"unrecognized arguments: {option}=1")[2]
        here = re.sub("in Python, .*|huggingface_hub|model.safetensors", "", said)
        assert not OF_PYTHON.search(here), (name, said)
        named = re.findall(r"(?<!\w)--[a-z][a-z-]*", here.partition("generate has")[0])
        assert set(named) <= ours, (name, said)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.score([("a", "b", "c")]), "text 0 must be a text or a pair .* has two members"),
        (lambda m: m.score([[1], ("a",)]), "text 1 must be a text or a pair .*, not \\('a',\\)"),
        (lambda m: m.score([("a", 5)]), "text 0 must be a text or a pair"),
        (lambda m: list(m.score(iter([([1], [2], [3])]))), "text 0 must be a text or a pair"),
        (lambda m: m.score(5), "a text is a string .*; an iterator of them, and pairs .*, not int"),
        (lambda m: m.suggest(5), "a prompt is a string or a list of token ids, several are .*, not int"),
        (lambda m: GPT2.from_pretrained(5), "source must be a path, the name of a model .*, not int"),
        (lambda m: m.encode("abc"), r"encode takes a list of prompts: encode\(\[text\]\)\[0\]"),
        (lambda m: m("Once"), "a GPT2 cannot be called: use generate, score or suggest .* or forward"),
        (lambda m: m(input_ids=[1], use_cache=True), "a GPT2 cannot be called"),
    ],
)
def test_what_is_given_in_the_wrong_form_is_told_the_right_one(call, message):
    with pytest.raises(TypeError, match=message):
        call(model())


def test_no_ids_for_a_forward_pass():
    with pytest.raises(ValueError, match="ids has no token ids; at least one is needed") as caught:
        model().forward([])
    assert "empty string" not in str(caught.value)
    assert model().forward(model().start_ids).shape == (1, model().config.n_vocab)


def test_a_class_is_called_by_its_name():
    with pytest.raises(TypeError, match=r"^Generator has no option zzz: help\(Generator\) lists"):
        Generator(zzz=1)


def test_one_token_is_no_tokens():
    text = model().generate([[1]], max_new_tokens=1)[0].prompt_token_ids
    assert repr(model().score([1])).startswith("Score(1 token, ")
    assert repr(model().score([1, 2])).startswith("Score(2 tokens, ")
    assert repr(model().explain(text)).startswith("<Explanation of 1 token: ")
    assert "of 1 token: " in repr(model().run_with_cache([1])[1])
