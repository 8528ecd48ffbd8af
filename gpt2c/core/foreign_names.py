"""Options of transformers and its like that gpt2c does not have, and what to use in their place.

The names are those of ``generate``, ``GenerationConfig``, ``from_pretrained`` and a model's ``forward`` in
transformers 4.57, and some of vLLM's and OpenAI's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["OF_BERT", "OF_GENERATION", "OF_LOADING", "OF_PROMPTS", "OF_TRANSLATION", "each"]


def each(answers: Mapping[str, str]) -> Mapping[str, str]:
    """The answer of each name; names that have one in common stand in one key, apart by spaces."""
    return MappingProxyType({name: answer for names, answer in answers.items() for name in names.split()})


OF_PROMPTS = each(
    {
        "inputs input_ids": "text or token ids are the first argument",
        "attention_mask token_type_ids position_ids cache_position padding padding_side pad_token_id": (
            "texts are never padded: give a list of prompts of any lengths"
        ),
        "inputs_embeds": "only text and token ids are taken; edits= of run_with_cache changes embeddings",
        "past_key_values": (
            "model.session(text) keeps what was computed; so does forward(ids, cache=model.new_cache())"
        ),
        "encoder_hidden_states encoder_attention_mask": (
            "model.given(states) is a model with cross-attention and the output of an encoder"
        ),
        "use_cache": "no token is computed twice, and that changes no number",
        "labels": "model.score(text) gives the log-probability of every token, and the perplexity",
        "return_tensors return_dict": "the result has one form, that of the method's documentation",
        "truncation": (
            "a text that is too long is an error; generate has overflow=, score has stride=, classify, tag "
            "and embed have max_tokens="
        ),
        "add_special_tokens": (
            "what the tokenizer puts before a text stands there; token ids are taken as they are"
        ),
        "output_attentions": "run_with_cache and generate have names_filter='*.hook_pattern'",
        "output_hidden_states": "run_with_cache and generate have names_filter='*.hook_resid_post'",
        "device": "gpt2c runs on CPUs only",
    }
)

_OF_BERT_ALONE = each(
    {
        "token_type_ids text_pair": "a tuple of two texts in a list is a pair; forward has types=",
        "past_key_values use_cache": "a text is computed as a whole, so that nothing of it is kept",
        "truncation truncate max_length": "max_tokens= cuts longer texts",
        "batch_size": "as many texts are computed together as is good; that changes no result",
        "top_k": "k says how many ways to fill a text are told; results of classify have all labels",
        "normalize_embeddings": "embed has normalize=True",
        "convert_to_numpy convert_to_tensor output_value precision show_progress_bar": (
            "vectors are an array of float32"
        ),
        "prompt prompt_name": "put it before the texts",
        "return_all_scores function_to_apply": "results have the probabilities of all labels, and logits",
        "aggregation_strategy": "the result has the tags of all tokens, and the entities",
        "output_attentions": "run_with_cache has names_filter='*.hook_pattern'",
        "output_hidden_states": "hidden gives the last ones, run_with_cache those of all layers",
    }
)

OF_BERT = MappingProxyType({**OF_PROMPTS, **_OF_BERT_ALONE})

_DECODING = (
    "gpt2c has no such way of decoding; there are greedy choice, sampling, beam search (num_beams) and "
    "contrastive search (penalty_alpha)"
)
_PROCESSOR = "gpt2c has none of this kind; a function given as logits_processor can do it"
_FILTER = "gpt2c has none of this kind; top_p, min_p, typical_p, top_n_sigma and a logits_processor can do it"

_OF_GENERATION_ALONE = each(
    {
        "max_length": "max_new_tokens counts the new tokens alone, without the prompt",
        "max_tokens": "max_new_tokens says how many are added at most",
        "min_length": "min_new_tokens counts the new tokens alone, without the prompt",
        "max_time": "deadline says after how many seconds a text ends as it is",
        "stop_strings stop_sequences": "stop takes a string or several",
        "stopping_criteria": (
            "stop takes strings; for more, leave the loop over stream() when you have enough"
        ),
        "do_sample": "temperature=0 (the default) takes the most probable token, a temperature above 0 draws",
        "n": "num_return_sequences says how many continuations each prompt gets",
        "cache_implementation cache_config return_legacy_cache": (
            "there is one kind of cache; from_pretrained has cache_dtype for its number format"
        ),
        "prefill_chunk_size": "long prompts are computed in chunks by themselves",
        "low_memory": "batch_size says how many texts advance together, and so the memory of caches",
        "epsilon_cutoff eta_cutoff": _FILTER,
        "encoder_repetition_penalty": (
            "GPT-2 has no encoder; repetition_penalty counts the prompt and what is new, and a "
            "logits_processor can weigh the prompt's tokens"
        ),
        "encoder_no_repeat_ngram_size": (
            "GPT-2 has no encoder; no_repeat_ngram_size counts the prompt and what is new"
        ),
        "decoder_start_token_id": "GPT-2 has no encoder; a prompt of token ids begins with any token",
        "bos_token_id": (
            "an empty prompt is the beginning of a text; a prompt of token ids begins with any token"
        ),
        "bad_words_ids": "bad_words takes lists of token ids, and strings",
        "forced_bos_token_id": "put the token at the end of the prompt, given as token ids",
        "forced_eos_token_id": _PROCESSOR,
        "begin_suppress_tokens": (
            "suppress_tokens forbids tokens everywhere; a logits_processor can forbid them at the "
            "beginning alone"
        ),
        "negative_prompt_ids": "negative_prompt takes text or token ids",
        "negative_prompt_attention_mask": "texts are never padded, and negative_prompt is no exception",
        "prefix_allowed_tokens_fn": "token_bitmask is asked at every step which tokens may come",
        "constraints force_words_ids": (
            "gpt2c has no search with constraints; token_bitmask says at every step which tokens may come"
        ),
        "remove_invalid_values": "a logits_processor that returns NaN is an error",
        "renormalize_logits": "log-probabilities in results are those of the model's own logits",
        "token_healing": "heal=True goes on inside the last word",
        "dola_layers": (f"{_DECODING}; run_with_cache(...)[1].logit_lens() shows what each layer would say"),
        "assistant_model": "draft takes a smaller model with the same vocabulary, or 'prompt'",
        "prompt_lookup_num_tokens max_matching_ngram_size": "draft='prompt' guesses so",
        "assistant_tokenizer": "a draft has the same vocabulary",
        "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold "
        "assistant_early_exit assistant_lookbehind target_lookbehind": (
            "how many tokens a draft guesses follows from how often it is right"
        ),
        "compile_config disable_compile synced_gpus": "gpt2c is compiled already, for CPUs",
        "tokenizer": "the model has its own, or that of from_pretrained(..., tokenizer=...)",
        "streamer": "for piece in model.stream(prompt): gives the text as it comes",
        "output_scores output_logits": (
            "logprobs of the result has that of each token; trace=True records what was weighed, and "
            "Generation.cache of names_filter has the logits"
        ),
        "return_dict_in_generate": "the result is a Generation: text, token_ids, logprobs and more",
        "generation_config": (
            "give each option by its name; model.generation_config has those of the checkpoint"
        ),
        "use_model_defaults": "the checkpoint's defaults are never applied; model.generation_config has them",
        "custom_generate trust_remote_code": "gpt2c runs no code of models",
    }
)

OF_GENERATION = MappingProxyType({**OF_PROMPTS, **_OF_GENERATION_ALONE})

_NOT_OF_SOURCES = "the source does not count here; a logits_processor can weigh its tokens"
OF_TRANSLATION = MappingProxyType(
    {
        **OF_GENERATION,
        **each(
            {
                "decoder_start_token_id": "model.given(source).generate([ID, ...]) begins with any token",
                "decoder_input_ids": "model.given(source).generate([ID, ...]) goes on with what is written",
                "encoder_repetition_penalty encoder_no_repeat_ngram_size": _NOT_OF_SOURCES,
                "encoder_outputs": "model.decoder.given(states) attends to any states",
            }
        ),
    }
)

OF_LOADING = each(
    {
        "pretrained_model_name_or_path model_name model": "the model's name or path is the first argument",
        "torch_dtype": "dtype takes 'float32', 'bfloat16', 'int8' or 'int4'",
        "load_in_8bit": "dtype='int8' keeps weights in 8 bits",
        "load_in_4bit": "dtype='int4' keeps weights in 4 bits",
        "quantization_config": "dtype='int8' or 'int4' quantises; there is nothing to configure",
        "device device_map max_memory offload_folder offload_buffers offload_state_dict tp_plan "
        "tp_size device_mesh distributed_config": "gpt2c runs on CPUs only; threads says on how many cores",
        "low_cpu_mem_usage": "weights are always read one at a time; a packed file takes the least memory",
        "attn_implementation use_kernels": "there is one attention; backend chooses what multiplies matrices",
        "use_safetensors weights_only": "safetensors come first, and of files of torch nothing is ever run",
        "variant": "model.safetensors (or its shards) is read; rename the file of a variant",
        "gguf_file": "give the path of the GGUF file as the model's",
        "from_tf from_flax state_dict": ("save the model as safetensors first; other formats are not read"),
        "trust_remote_code": "gpt2c runs no code of models",
        "config": "config.json beside the weights is read; change it there",
        "generation_config": "the checkpoint's is model.generation_config; generate takes options by name",
        "ignore_mismatched_sizes": "every tensor must have the shape that config.json says",
        "key_mapping": "tensors must have the names of GPT-2's checkpoints",
        "force_download resume_download proxies mirror": (
            "huggingface_hub downloads; `hf download` and its environment variables do this"
        ),
        "use_auth_token": "token takes an access token",
        "output_loading_info": "model.notes tells what was read and what was left aside",
        "adapter_kwargs adapter_name": "adapter takes the directory or the hub name of a LoRA adapter",
        "use_fast": "tokenizer takes a tokenizer, or where one is",
        "output_attentions output_hidden_states": "run_with_cache keeps what is computed",
    }
)
