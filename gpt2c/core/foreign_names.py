"""Options of transformers and similar libraries that gpt2c lacks, and what to use instead.

The names are those of ``generate``, ``GenerationConfig``, ``from_pretrained`` and a model's ``forward`` in
transformers 4.57, and some of vLLM's and OpenAI's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["OF_BERT", "OF_GENERATION", "OF_LOADING", "OF_PROMPTS", "OF_TRANSLATION", "each"]


def each(answers: Mapping[str, str]) -> Mapping[str, str]:
    """The answer for each name; names that share an answer share a key, separated by spaces."""
    return MappingProxyType({name: answer for names, answer in answers.items() for name in names.split()})


OF_PROMPTS = each(
    {
        "inputs input_ids": "text or token ids are the first argument",
        "attention_mask token_type_ids position_ids cache_position padding padding_side pad_token_id": (
            "texts are never padded: give a list of prompts of any lengths"
        ),
        "inputs_embeds": "only text and token ids are accepted; edits= of run_with_cache changes embeddings",
        "past_key_values": (
            "model.session(text) keeps what was computed; so does forward(ids, cache=model.new_cache())"
        ),
        "encoder_hidden_states encoder_attention_mask": (
            "model.given(states) joins a model with cross-attention and the output of an encoder"
        ),
        "use_cache": "no token is computed twice, which never changes a result",
        "labels": "model.score(text) gives the log-probability of every token, and the perplexity",
        "return_tensors return_dict": "the result has one form, described in the method's documentation",
        "truncation": (
            "a text that is too long is an error; generate has overflow=, score has stride=, classify, tag "
            "and embed have max_tokens="
        ),
        "add_special_tokens": (
            "texts get the tokens that the tokenizer puts before a text; token ids are used as they are"
        ),
        "output_attentions": "run_with_cache and generate have names_filter='*.hook_pattern'",
        "output_hidden_states": "run_with_cache and generate have names_filter='*.hook_resid_post'",
        "device": "gpt2c runs on CPUs only",
    }
)

_OF_BERT_ALONE = each(
    {
        "token_type_ids text_pair": "a tuple of two texts in a list is a pair; forward has types=",
        "past_key_values use_cache": "a text is computed as a whole, so nothing is cached",
        "truncation truncate max_length": "max_tokens= truncates longer texts",
        "batch_size": "batches are sized automatically, which never changes a result",
        "top_k": "k is the number of ways to fill a text; results of classify have all labels",
        "normalize_embeddings": "embed has normalize=True",
        "convert_to_numpy convert_to_tensor output_value precision show_progress_bar": (
            "vectors are an array of float32"
        ),
        "prompt prompt_name": "prepend it to the texts",
        "return_all_scores function_to_apply": "results have the probabilities of all labels, and logits",
        "aggregation_strategy": "the result has the tags of all tokens, and the entities",
        "output_attentions": "run_with_cache has names_filter='*.hook_pattern'",
        "output_hidden_states": "hidden returns the last ones, run_with_cache those of all layers",
    }
)

OF_BERT = MappingProxyType({**OF_PROMPTS, **_OF_BERT_ALONE})

_DECODING = (
    "gpt2c does not have this decoding method; it has greedy, sampling, beam search (num_beams) and "
    "contrastive search (penalty_alpha)"
)
_PROCESSOR = "gpt2c has none of this kind; a function given as logits_processor can do it"
_FILTER = "gpt2c has none of this kind; top_p, min_p, typical_p, top_n_sigma and a logits_processor can do it"

_OF_GENERATION_ALONE = each(
    {
        "max_length": "max_new_tokens counts only new tokens, not the prompt",
        "max_tokens": "max_new_tokens limits the number of new tokens",
        "min_length": "min_new_tokens counts only new tokens, not the prompt",
        "max_time": "deadline ends texts after a number of seconds",
        "stop_strings stop_sequences": "stop takes one or several strings",
        "stopping_criteria": ("stop takes strings; for other criteria, break out of the loop over stream()"),
        "do_sample": "temperature=0 (the default) is greedy, a temperature above 0 samples",
        "n": "num_return_sequences is the number of continuations per prompt",
        "cache_implementation cache_config return_legacy_cache": (
            "there is only one kind of cache; from_pretrained has cache_dtype for its number format"
        ),
        "prefill_chunk_size": "long prompts are computed in chunks automatically",
        "low_memory": "batch_size limits how many texts are generated at once, and so the memory of caches",
        "epsilon_cutoff eta_cutoff": _FILTER,
        "encoder_repetition_penalty": (
            "GPT-2 has no encoder; repetition_penalty counts prompt and continuation, and a "
            "logits_processor can reweight the prompt's tokens"
        ),
        "encoder_no_repeat_ngram_size": (
            "GPT-2 has no encoder; no_repeat_ngram_size counts prompt and continuation"
        ),
        "decoder_start_token_id": "GPT-2 has no encoder; a prompt of token ids may start with any token",
        "bos_token_id": (
            "an empty prompt generates unconditionally; a prompt of token ids may start with any token"
        ),
        "bad_words_ids": "bad_words takes strings and lists of token ids",
        "forced_bos_token_id": "append the token to the prompt, given as token ids",
        "forced_eos_token_id": _PROCESSOR,
        "begin_suppress_tokens": (
            "suppress_tokens forbids tokens everywhere; a logits_processor can forbid them at the "
            "beginning alone"
        ),
        "negative_prompt_ids": "negative_prompt takes text or token ids",
        "negative_prompt_attention_mask": "texts are never padded, negative_prompt included",
        "prefix_allowed_tokens_fn": "token_bitmask is called at every step and returns the allowed tokens",
        "constraints force_words_ids": (
            "gpt2c has no constrained beam search; token_bitmask returns the allowed tokens at every step"
        ),
        "remove_invalid_values": "a logits_processor that returns NaN is an error",
        "renormalize_logits": "log-probabilities in results are those of the model's own logits",
        "token_healing": "heal=True continues inside the last word",
        "dola_layers": (f"{_DECODING}; run_with_cache(...)[1].logit_lens() has every layer's prediction"),
        "assistant_model": "draft takes a smaller model with the same vocabulary, or 'prompt'",
        "prompt_lookup_num_tokens max_matching_ngram_size": "draft='prompt' does this",
        "assistant_tokenizer": "a draft has the same vocabulary",
        "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold "
        "assistant_early_exit assistant_lookbehind target_lookbehind": (
            "the number of tokens a draft guesses adapts to how often it is right"
        ),
        "compile_config disable_compile synced_gpus": "gpt2c is compiled already, for CPUs",
        "tokenizer": "the model has its own, or that of from_pretrained(..., tokenizer=...)",
        "streamer": "for piece in model.stream(prompt): yields the text as it is generated",
        "output_scores output_logits": (
            "logprobs of the result has that of each token; trace=True records the candidates, and "
            "Generation.cache of names_filter has the logits"
        ),
        "return_dict_in_generate": "the result is a Generation: text, token_ids, logprobs and more",
        "generation_config": (
            "pass each option as a keyword; model.generation_config has those of the checkpoint"
        ),
        "use_model_defaults": "the checkpoint's defaults are never applied; model.generation_config has them",
        "custom_generate trust_remote_code": "gpt2c runs no code of models",
    }
)

OF_GENERATION = MappingProxyType({**OF_PROMPTS, **_OF_GENERATION_ALONE})

_NOT_OF_SOURCES = "the source is not counted here; a logits_processor can reweight its tokens"
OF_TRANSLATION = MappingProxyType(
    {
        **OF_GENERATION,
        **each(
            {
                "decoder_start_token_id": "model.given(source).generate([ID, ...]) starts with any token",
                "decoder_input_ids": "model.given(source).generate([ID, ...]) continues a text",
                "encoder_repetition_penalty encoder_no_repeat_ngram_size": _NOT_OF_SOURCES,
                "encoder_outputs": "model.decoder.given(states) attends to any encoder output",
            }
        ),
    }
)

OF_LOADING = each(
    {
        "pretrained_model_name_or_path model_name model": "the model's name or path is the first argument",
        "torch_dtype": "dtype takes 'float32', 'bfloat16', 'int8' or 'int4'",
        "load_in_8bit": "dtype='int8' stores weights in 8 bits",
        "load_in_4bit": "dtype='int4' stores weights in 4 bits",
        "quantization_config": "dtype='int8' or 'int4' quantizes; there is nothing to configure",
        "device device_map max_memory offload_folder offload_buffers offload_state_dict tp_plan "
        "tp_size device_mesh distributed_config": "gpt2c runs on CPUs only; threads sets the number of cores",
        "low_cpu_mem_usage": "weights are always read one at a time; a packed file needs the least memory",
        "attn_implementation use_kernels": "there is only one; backend chooses how matrices are multiplied",
        "use_safetensors weights_only": "safetensors are preferred, and code in torch files is never run",
        "variant": "model.safetensors (or its shards) is read; rename the file of a variant",
        "gguf_file": "give the path of the GGUF file as the model's",
        "from_tf from_flax state_dict": ("save the model as safetensors first; these are not supported"),
        "trust_remote_code": "gpt2c runs no code of models",
        "config": "config.json beside the weights is read; change it there",
        "generation_config": "see model.generation_config; pass options of generate as keywords",
        "ignore_mismatched_sizes": "every tensor must have the shape given by config.json",
        "key_mapping": "tensors must have the names of GPT-2's checkpoints",
        "force_download resume_download proxies mirror": (
            "huggingface_hub downloads; `hf download` and its environment variables do this"
        ),
        "use_auth_token": "token takes an access token",
        "output_loading_info": "model.notes lists what was read and what was ignored",
        "adapter_kwargs adapter_name": "adapter takes the directory or the hub name of a LoRA adapter",
        "use_fast": "tokenizer takes a tokenizer or its location",
        "output_attentions output_hidden_states": "run_with_cache captures activations",
    }
)
