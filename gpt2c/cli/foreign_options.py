"""What to use instead of options that the command line lacks, mostly those of other programs."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Mapping

from ..core.foreign_names import OF_GENERATION, OF_LOADING, OF_PROMPTS, each

__all__ = ["answer_to"]

_ON_TEXTS = ("generate", "suggest", "score", "fill", "embed", "classify", "explain")
_ON_FILES = ("generate", "score", "embed", "classify")

_NO_SUCH = "gpt2c has none of this kind"
_IN_PYTHON = "the command line cannot do that; in Python, model.generate has"
_TOGETHER = "as many texts run together as fit into 1 GiB of keys and values"

# These replace the answers for Python, or add to them.

_TO_ALL = each(
    {
        "pretrained_model_name_or_path model_name model_path": "-m takes the model's name or path",
        "torch_dtype": "--dtype takes float32, bfloat16, int8 or int4",
        "quantization_config": "--dtype int8 or int4 quantizes; there is nothing to configure",
        "attn_implementation use_kernels": "there is only one implementation",
        "generation_config": "pass each option by itself; gpt2c info shows those of the checkpoint",
        "local_files_only": "--offline never downloads",
        "use_auth_token token": "log in (`hf auth login`) or set HF_TOKEN",
        "cache_dir": "HF_HOME sets the directory of downloads",
        "subfolder": "download the model (`hf download`) and give the path of its folder",
        "cache_dtype": "--dtype also sets the format of keys and values",
        "output_loading_info": "gpt2c info lists what was read and what was ignored",
        "use_fast": "--tokenizer takes the location of another tokenizer",
        "output_attentions": "gpt2c explain shows the attention of a head",
        "output_hidden_states": "gpt2c explain shows the prediction after every layer",
    }
)

_TO_FILL = each({"add_special_tokens": "special tokens in the text are recognized"})

# For them the model is an argument, not an option.
_TO_CONVERT = each(
    {"pretrained_model_name_or_path model_name model_path model m": "the model is the first argument"}
)

_TO_EXPORT = each(
    {
        "pretrained_model_name_or_path model_name model_path model m": "the model is the first argument",
        "torch_dtype quantization_config load_in_4bit load_in_8bit outtype": (
            "a directory is always float32; for a FILE.gguf use --dtype f32, f16, bf16 or q8_0"
        ),
        "outfile": "the output is the second argument",
    }
)

_ON_A_TEXT = each(
    {
        "inputs input_ids inputs_embeds prompt": "the text is the first argument",
        "attention_mask token_type_ids position_ids cache_position padding padding_side pad_token_id": (
            "texts are never padded"
        ),
        "past_key_values": "keys and values are not kept from one command to the next",
        "labels": "gpt2c score gives the log-probability of every token, and the perplexity",
        "encoder_hidden_states encoder_attention_mask": (
            "a GPT-2 with cross-attention takes the output of an encoder only in Python"
        ),
        "return_tensors return_dict return_dict_in_generate": "--json prints the complete result",
        "truncation": (
            "a text that is too long is an error; generate has --overflow, score has --stride, fill, embed "
            "and classify have --max-tokens"
        ),
        "add_special_tokens": (
            "texts get the tokenizer's prefix; --special recognizes special tokens in the text"
        ),
    }
)

_FROM_STDIN = "a file is read from stdin: gpt2c {command} - < FILE"

_TO_FILES = each(
    {
        "column columns field fields text_column": "--text-field names the field or column of the text",
        "overwrite resume force": (
            "the same command resumes, and complete outputs are kept: remove one to compute it again"
        ),
    }
)

_TO_GENERATE = each(
    {
        "token_healing": "--heal continues inside the last word",
        "stop_strings stop_sequences stopping_criteria": (
            "--stop takes a text to end before, and is repeatable"
        ),
        "do_sample": (
            "--temperature 0 is greedy, and a temperature above 0 samples, as the default does (0.8)"
        ),
        "cache_implementation cache_config return_legacy_cache": "there is only one kind of cache",
        "low_memory batch_size": _TOGETHER,
        "epsilon_cutoff eta_cutoff": (
            f"{_NO_SUCH}; --top-p, --min-p, --typical-p and --top-n-sigma filter tokens"
        ),
        "encoder_repetition_penalty": (
            "GPT-2 has no encoder; --repetition-penalty counts prompt and continuation"
        ),
        "decoder_start_token_id": "GPT-2 has no encoder",
        "bos_token_id": "an empty prompt generates unconditionally",
        "bad_words_ids": "--bad-word takes a text, and --suppress-token a token id",
        "forced_bos_token_id": "append the token to the prompt, with --special",
        "forced_eos_token_id": _NO_SUCH,
        "begin_suppress_tokens": "--suppress-token forbids a token everywhere",
        "negative_prompt_ids": "--negative-prompt takes a text",
        "negative_prompt_attention_mask": "texts are never padded",
        "prefix_allowed_tokens_fn constraints force_words_ids token_bitmask": f"{_IN_PYTHON} token_bitmask",
        "logits_processor": f"{_IN_PYTHON} logits_processor",
        "sequence_bias": (
            "--logit-bias adds to the logits of single tokens; in Python, model.generate has sequence_bias"
        ),
        "names_filter": f"{_IN_PYTHON} names_filter",
        "remove_invalid_values": "weights that are not finite are refused when the model is read",
        "dola_layers": f"{_NO_SUCH}; gpt2c explain shows the prediction after every layer",
        "streamer": "the text is printed as it is generated",
        "output_scores output_logits": "--json has the logprobs; --trace shows the candidates",
        "use_model_defaults": "the checkpoint's defaults are never applied; gpt2c info shows them",
    }
)


def answer_to(option: str, command: str, parser: ArgumentParser) -> str:
    """What to use instead of an ``option`` that the ``parser`` of a ``command`` lacks.

    Empty if nothing is known. Python's names are turned into options of the parser.
    """
    name = option.lstrip("-").replace("-", "_")
    if command in _ON_TEXTS and name in ("f", "file"):
        return _FROM_STDIN.format(command=command)
    for answers in _own(command):
        if name in answers:
            return answers[name]
    of_python = OF_GENERATION if command == "generate" else OF_PROMPTS if command in _ON_TEXTS else {}
    return _in_options({**OF_LOADING, **of_python}.get(name, ""), parser)


def _own(command: str) -> list[Mapping[str, str]]:
    """The answers for a command, the closest first."""
    return [
        *[_TO_GENERATE] * (command == "generate"),
        *[_TO_FILL] * (command == "fill"),
        *[_TO_FILES] * (command in _ON_FILES),
        *[_ON_A_TEXT] * (command in _ON_TEXTS),
        *[_TO_CONVERT] * (command == "convert"),
        *[_TO_EXPORT] * (command == "export"),
        _TO_ALL,
    ]


def _in_options(said: str, parser: ArgumentParser) -> str:
    """A sentence in which Python's names, as in max_new_tokens or dtype='int8', are options."""
    options = {action.dest: action.option_strings[-1] for action in parser._actions if action.option_strings}
    for name, option in options.items():
        # A one-word name may be an ordinary word: it is the option if it has a value, or a verb.
        after = r"\b" if "_" in name else r"(?= takes| says| sets| ends)"
        said = re.sub(rf"(?<![\w.-]){name}='(\w+)'", rf"{option} \1", said)
        said = re.sub(rf"(?<![\w.-]){name}{after}", option, said)
    return said
