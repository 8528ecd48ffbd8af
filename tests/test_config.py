"""config.json: every field of GPT2Config that changes a result is honoured, or refused by name."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2c import ConfigError
from gpt2c.checkpoint.hf_config import ACTIVATION_NAMES, config_from_hf, with_generation_config
from gpt2c.config import ACTIVATIONS, Config

# As these models are published (the first with the keys of 2019).
GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
}  # fmt: skip
DISTILGPT2 = GPT2 | {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "n_layer": 6}
SMALL = {"n_layer": 3, "n_head": 2, "n_embd": 10, "n_positions": 7, "vocab_size": 5}


def statuses(config: Config) -> dict[str, str]:
    return {setting.key: setting.status for setting in config.report}


def test_gpt2():
    config = config_from_hf(GPT2)
    assert config == Config(
        n_layer=12, n_head=12, n_embd=768, n_inner=3072, n_ctx=1024, n_vocab=50257, activation="gelu_new",
        layer_norm_epsilon=1e-5, bos_token_id=50256, eos_token_ids=(50256,),
    )  # fmt: skip
    assert (config.head_dim, config.attention_scale(0), config.attention_scale(11)) == (64, 0.125, 0.125)
    assert config_from_hf(DISTILGPT2).n_layer == 6
    status = statuses(config)
    assert set(GPT2) <= set(status), "every key of the file is reported"
    assert "unknown" not in status.values()
    assert status["n_embd"] == status["activation_function"] == status["eos_token_id"] == "honoured"
    assert status["tie_word_embeddings"] == status["n_inner"] == "default"
    assert (
        status["summary_type"]
        == status["attn_pdrop"]
        == status["n_ctx"]
        == status["task_specific_params"]
        == "ignored"
    )


def test_missing_fields_have_the_defaults_of_gpt2():
    config = config_from_hf({})
    assert config == config_from_hf(GPT2)
    assert set(statuses(config).values()) == {"default"}


def test_every_field_is_honoured():
    values = SMALL | {
        "n_inner": 13, "activation_function": "relu", "layer_norm_epsilon": 0.5, "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True,
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": [4, 2, 4],
    }  # fmt: skip
    config = config_from_hf(values)
    assert config == Config(
        3, 2, 10, 13, 7, 5, "relu", 0.5, scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True,
        reorder_and_upcast_attn=True, tie_word_embeddings=False, bos_token_id=None, eos_token_ids=(4, 2),
    )  # fmt: skip
    assert set(statuses(config).values()) == {"honoured"}
    # and each of them makes a difference: none is dropped on the way
    for key in values:
        fewer = {k: v for k, v in values.items() if k != key}
        if key != "n_head":  # its default does not divide this width
            assert config_from_hf(fewer) != config or key in ("bos_token_id",)


def test_activation_names():
    for canonical, names in {
        "gelu_new": "gelu_new gelu_fast gelu_pytorch_tanh gelu_python_tanh gelu_accurate",
        "gelu": "gelu gelu_python",
        "silu": "silu swish",
        "quick_gelu": "quick_gelu",
        "relu": "relu",
        "tanh": "tanh",
    }.items():
        for name in names.split():
            config = config_from_hf({"activation_function": name})
            assert config.activation == canonical
            (note,) = (setting.note for setting in config.report if setting.key == "activation_function")
            assert note == ("" if name == canonical else f"the same function as {canonical}")


def test_attention_scale():
    def scale(layer, **flags):
        return Config(
            n_layer=3, n_head=1, n_embd=5, n_inner=None, n_ctx=2, n_vocab=2, **flags
        ).attention_scale(layer)

    assert scale(2) == 1 / math.sqrt(5)
    assert scale(2, scale_attn_weights=False) == 1
    assert scale(2, scale_attn_by_inverse_layer_idx=True) == 1 / math.sqrt(5) / 3
    assert scale(2, scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True) == 1 / 3


def test_names_and_ways_of_older_and_newer_files():
    assert config_from_hf({"n_ctx": 128}).n_ctx == 128  # an old name, where the new one is missing
    assert config_from_hf({"n_ctx": 128, "n_positions": 64}).n_ctx == 64
    assert config_from_hf({"n_ctx": 128, "max_position_embeddings": 64}).n_ctx == 64
    assert config_from_hf({"hidden_size": 24, "n_embd": 24}).n_embd == 24
    assert config_from_hf({"num_hidden_layers": 3, "num_attention_heads": 2}).n_head == 2
    assert config_from_hf({"n_inner": None, "n_embd": 24}).n_inner == 96
    assert config_from_hf({"architectures": ["GPT2Model"], "model_type": "gpt2"}).n_layer == 12
    assert config_from_hf({"architectures": None}).n_layer == 12


def test_ids_outside_the_vocabulary_are_left_out():
    config = config_from_hf(SMALL)  # the default, 50256, is outside
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())
    config = config_from_hf(SMALL | {"bos_token_id": -1, "eos_token_id": [-1, 3, 5]})
    assert (config.bos_token_id, config.eos_token_ids) == (None, (3,))
    notes = {setting.key: setting.note for setting in config.report}
    assert notes["eos_token_id"] == "-1, 5 outside the vocabulary of 5: left out"


def test_generation_config_overrides_ids():
    config = config_from_hf(SMALL | {"bos_token_id": 1, "eos_token_id": 2})
    assert with_generation_config(config, {"temperature": 0.5}) == config
    both = with_generation_config(config, {"eos_token_id": [3, 0], "bos_token_id": None})
    assert (both.bos_token_id, both.eos_token_ids) == (None, (3, 0))
    assert [s.note for s in both.report if s.key == "eos_token_id"] == ["from generation_config.json"]
    assert config.eos_token_ids == (2,)
    with pytest.raises(
        ConfigError, match=r"eos_token_id is 'stop'; allowed: a token id, a list of token ids, or null"
    ):
        with_generation_config(config, {"eos_token_id": "stop"})


def test_keys_that_change_nothing_are_reported():
    config = config_from_hf(
        SMALL | {"torch_dtype": "float16", "temperature": 2, "add_cross_attention": False, "x": [1]}
    )
    assert config == config_from_hf(SMALL)
    status = statuses(config)
    assert (status["torch_dtype"], status["temperature"], status["x"]) == ("ignored", "ignored", "unknown")
    assert status["add_cross_attention"] == "honoured"


SIZES = r"allowed: an integer from 1 to "
REFUSED = [
    ({"n_layer": 0}, rf"^n_layer is 0; {SIZES}1000$"),
    ({"n_layer": True}, rf"^n_layer is True; {SIZES}"),
    ({"n_head": -1}, rf"^n_head is -1; {SIZES}"),
    ({"n_embd": 12.0}, rf"^n_embd is 12.0; {SIZES}"),
    ({"n_embd": "768"}, rf"^n_embd is '768'; {SIZES}"),
    ({"n_embd": None}, rf"^n_embd is None; {SIZES}"),
    ({"n_embd": 2**63}, rf"^n_embd is {2**63}; {SIZES}65536$"),
    ({"n_inner": 0}, rf"^n_inner is 0; {SIZES}"),
    ({"n_positions": 10**9}, rf"^n_positions \(n_ctx\) is 1000000000; {SIZES}1048576$"),
    ({"vocab_size": 0}, rf"^vocab_size \(n_vocab\) is 0; {SIZES}4194304$"),
    ({"vocab_size": [5]}, rf"^vocab_size \(n_vocab\) is \[5\]; {SIZES}"),
    ({"n_embd": 770}, r"^n_embd 770 is not a multiple of n_head 12$"),
    ({"n_embd": 24, "hidden_size": 48}, r"^n_embd is 24 but hidden_size, another name for it, is 48"),
    ({"activation_function": "gelu_10"}, r"^activation_function \(activation\) is 'gelu_10'; allowed: "),
    ({"activation_function": ["relu"]}, r"^activation_function \(activation\) is \['relu'\]; allo"),
    ({"layer_norm_epsilon": float("nan")}, r"^layer_norm_epsilon is nan; allowed: a number from 1e-37 "),
    ({"layer_norm_epsilon": float("inf")}, r"^layer_norm_epsilon is inf; allowed: a number "),
    ({"layer_norm_epsilon": 0}, r"^layer_norm_epsilon is 0; allowed: a number "),
    ({"layer_norm_epsilon": True}, r"^layer_norm_epsilon is True; allowed: a number "),
    ({"layer_norm_epsilon": "1e-5"}, r"^layer_norm_epsilon is '1e-5'; allowed: a number "),
    ({"scale_attn_weights": 1}, r"^scale_attn_weights is 1; allowed: true or false$"),
    ({"scale_attn_by_inverse_layer_idx": None}, r"^scale_attn_by_inverse_layer_idx is None; allowed: true"),
    ({"reorder_and_upcast_attn": "false"}, r"^reorder_and_upcast_attn is 'false'; allowed: true or false$"),
    ({"tie_word_embeddings": 0}, r"^tie_word_embeddings is 0; allowed: true or false$"),
    ({"bos_token_id": [1]}, r"^bos_token_id is \[1\]; allowed: a token id or null$"),
    ({"bos_token_id": True}, r"^bos_token_id is True; allowed: a token id or null$"),
    ({"eos_token_id": [1, 2.5]}, r"^eos_token_id is \[1, 2.5\]; allowed: a token id, a list of tok"),
    ({"model_type": "gpt_neo"}, r"^model_type is 'gpt_neo'; gpt2c runs \"gpt2\", .* and \"distilbert\"$"),
    ({"architectures": ["GPT2ForQuestionAnswering"]}, r"^architectures names 'GPT2ForQues"),
    ({"architectures": ["GPT2LMHeadModel", "X"]}, r"^architectures names 'X'; gpt2c runs GPT2LMHeadModel, "),
    ({"architectures": "GPT2LMHeadModel"}, r"^architectures is 'GPT2LMHeadModel'; allowed: a list of n"),
    ({"architectures": [["X"]]}, r"^architectures names \['X'\]; "),
    ({"add_cross_attention": "yes"}, r"^add_cross_attention is 'yes'; allowed: true or false"),
    ({"is_encoder_decoder": True}, r"^is_encoder_decoder is True; .* Only encoder-decoder models with"),
    ({"pruned_heads": {"0": [1]}}, r"^pruned_heads is {'0': \[1\]}; .* Pruned attention heads are not"),
    ({"quantization_config": {"bits": 4}}, r"^quantization_config is {'bits': 4}; .*use the original fl"),
    ({"compression_config": {"a": 1}}, r"^compression_config is "),
    ({"auto_map": {"AutoModelForCausalLM": "mine.Model"}}, r"^auto_map names 'AutoModelForCausalLM': this m"),
    ({"auto_map": "mine"}, r"^auto_map is 'mine'; allowed: an object, or null$"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_hf(GPT2 | values)


def test_messages_stay_short_and_printable():
    with pytest.raises(ConfigError) as caught:
        config_from_hf({"model_type": "\x1b[31m\n" + "x" * 10_000})
    assert len(str(caught.value)) < 200 and str(caught.value).isprintable()
    with pytest.raises(ConfigError, match=r"^a configuration is a JSON object, not \[1\]$"):
        config_from_hf([1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bos_token_id": 5}, r"^bos_token_id is 5; allowed: token ids from 0 to 4$"),
        ({"eos_token_ids": (1, -1)}, r"^eos_token_ids is -1; allowed: token ids from 0 to 4$"),
        ({"eos_token_ids": 3}, r"^eos_token_ids is 3; allowed: a tuple of token ids$"),
        (
            {"activation": "swish"},
            r"^activation_function \(activation\) is 'swish'; allowed: one of gelu, gelu_new, ",
        ),
        ({"n_inner": None, "n_embd": "a"}, r"^n_embd is 'a'; "),
    ],
)
def test_made_directly(values, message):
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 4, "n_inner": 4, "n_ctx": 4, "n_vocab": 5}
    with pytest.raises(ConfigError, match=message):
        Config(**sizes | values)


texts = st.text("ab\x1b\n\u2603\ud800", max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
KEYS = sorted({*GPT2, *(key for values, _ in REFUSED for key in values), "max_position_embeddings"})


@given(st.dictionaries(st.sampled_from(KEYS), json_values | st.integers(1, 64), max_size=6))
def test_anything_is_a_valid_config_or_a_config_error(values):
    try:
        config = config_from_hf(values)
    except ConfigError as error:
        assert str(error).isprintable()
        return
    assert config.n_embd % config.n_head == 0 and config.n_inner >= 1
    assert config.activation in ACTIVATIONS
    assert all(0 <= token < config.n_vocab for token in config.eos_token_ids)
    assert set(values) <= set(statuses(config))


@pytest.mark.oracle
def test_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Config().to_dict()
    assert config_from_hf(theirs) == config_from_hf({})
    assert "unknown" not in statuses(config_from_hf(theirs)).values()


@pytest.mark.oracle
@pytest.mark.parametrize("name", sorted(ACTIVATION_NAMES))
def test_activations_are_those_of_transformers(name):
    """Each name stands for the function that transformers has under it, and names mapped to one are one."""
    torch = pytest.importorskip("torch")
    activations = pytest.importorskip("transformers.activations")
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64)
    tanh_gelu = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ours = {
        "gelu_new": tanh_gelu,
        "gelu": 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        "quick_gelu": x / (1 + torch.exp(-1.702 * x)),
        "relu": torch.clamp(x, min=0),
        "silu": x / (1 + torch.exp(-x)),
        "tanh": torch.tanh(x),
    }[ACTIVATION_NAMES[name]]
    assert (
        torch.max(torch.abs(activations.ACT2FN[name](x) - ours)) < 1e-10
    )  # gelu_fast: ten digits of a constant
