"""BERT, RoBERTa and DistilBERT from files of transformers: configurations, tensors, refusals, exports."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from data.bert import models
from helpers.tiny_checkpoints import read_safetensors, safetensors_bytes, write_shards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2c import GPT2, CheckpointError, ConfigError, reference_bert
from gpt2c.checkpoint import open_checkpoint
from gpt2c.checkpoint.bert_config import bert_from_hf
from gpt2c.checkpoint.export import export
from gpt2c.checkpoint.hf_config import BERTS
from gpt2c.checkpoint.names import expected
from gpt2c.config import ACTIVATIONS, Config, Head
from gpt2c.errors import GPT2CError

RECORDED = np.load(models.FOLDER / "bert.npz")
# One of every family and head.
EACH = models.CASES[:16]


def write(folder, name, tensors=None, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(models.values(name) | changes))
    stored = models.tensors(name) if tensors is None else tensors
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))
    return folder


def weights_of(checkpoint):
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def logits(checkpoint, name):
    """What the reference says of a model, as it was recorded."""
    config, weights, (ids, types) = checkpoint.config, weights_of(checkpoint), models.text(name)
    types = types if config.n_types else None
    if config.masked_head:
        return reference_bert.forward(config, weights, ids, types)
    if config.head is not None:
        return reference_bert.classify(config, weights, ids, types)
    return reference_bert.hidden_states(config, weights, ids, types)


def recorded(name):
    return RECORDED[f"{name}/logits" if f"{name}/logits" in RECORDED else f"{name}/hidden"]


def check(checkpoint, name):
    assert np.abs(logits(checkpoint, name) - recorded(name)).max() < 1e-10


# ---- config.json

BERT = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "model_type": "bert",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0,
    "position_embedding_type": "absolute", "transformers_version": "4.6.0.dev0", "type_vocab_size": 2,
    "use_cache": True, "vocab_size": 30522, "directionality": "bidi", "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}  # fmt: skip
ROBERTA = {
    "architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.1, "bos_token_id": 0,
    "eos_token_id": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514, "model_type": "roberta", "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 50265,
}  # fmt: skip
DISTILBERT = {
    "activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1, "dim": 768,
    "dropout": 0.1, "hidden_dim": 3072, "initializer_range": 0.02, "max_position_embeddings": 512,
    "model_type": "distilbert", "n_heads": 12, "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True,
    "transformers_version": "4.10.0.dev0", "vocab_size": 30522,
}  # fmt: skip
SIZES = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_inner": 3072, "n_ctx": 512, "n_vocab": 30522}
SIZES |= {"activation": "gelu", "layer_norm_epsilon": 1e-12, "model_type": "bert"}


def statuses(config):
    return {setting.key: setting.status for setting in config.report}


def test_the_models_as_they_are_published():
    config = bert_from_hf(BERT)
    assert config == Config(**SIZES, n_types=2, masked_head=True)
    found = bert_from_hf(ROBERTA)
    assert found == Config(
        **SIZES | {"n_ctx": 512, "n_vocab": 50265, "layer_norm_epsilon": 1e-5},
        n_types=1, masked_head=True, bos_token_id=0, eos_token_ids=(2,),
    )  # fmt: skip
    [note] = [setting.note for setting in found.report if setting.key == "pad_token_id"]
    assert note == "positions start at 2"
    assert bert_from_hf(DISTILBERT) == Config(**SIZES | {"n_layer": 6}, masked_head=True)
    for values in (BERT, ROBERTA, DISTILBERT):
        status = statuses(bert_from_hf(values))
        assert set(values) <= set(status) and "unknown" not in status.values()
    status = statuses(config)
    assert status["hidden_act"] == status["layer_norm_eps"] == status["position_embedding_type"] == "honoured"
    assert status["pooler_type"] == status["pad_token_id"] == status["hidden_dropout_prob"] == "ignored"
    assert status["tie_word_embeddings"] == "default"


def test_missing_fields_have_the_defaults_of_transformers():
    assert bert_from_hf({"model_type": "bert"}) == Config(**SIZES, n_types=2, masked_head=True)
    of_roberta = {"bos_token_id": 0, "eos_token_ids": (2,), "n_types": 2, "masked_head": True}
    sizes = SIZES | {"n_ctx": 510} | of_roberta
    assert bert_from_hf({"model_type": "roberta"}) == Config(**sizes | {"n_vocab": 50265})
    assert bert_from_hf({"model_type": "xlm-roberta"}) == Config(**sizes)
    sizes = SIZES | {"n_layer": 6, "masked_head": True}
    assert bert_from_hf({"model_type": "distilbert"}) == Config(**sizes)


def test_heads():
    labels = {"id2label": {"0": "good", "1": "bad"}, "problem_type": "multi_label_classification"}
    for values, pooling in ((BERT, "tanh"), (ROBERTA, "tanh"), (DISTILBERT, "relu")):
        family = values["architectures"][0].removesuffix("ForMaskedLM")
        config = bert_from_hf(values | labels | {"architectures": [f"{family}ForSequenceClassification"]})
        assert config.head == Head(
            "sequence", ("good", "bad"), problem="multi", activation=pooling, pooled=True
        )
        assert not config.masked_head
        config = bert_from_hf(values | labels | {"architectures": [f"{family}ForTokenClassification"]})
        assert config.head == Head("token", ("good", "bad"))
        config = bert_from_hf(values | {"architectures": [f"{family}Model"], "tie_word_embeddings": False})
        assert config.head is None and not config.masked_head and config.tie_word_embeddings
        assert statuses(config)["tie_word_embeddings"] == "ignored"
    assert bert_from_hf(BERT | {"architectures": ["BertForPreTraining"]}).masked_head


REFUSED = [
    ({"position_embedding_type": "relative_key"}, r"^position_embedding_type is 'relative_key'; allowed: 'a"),
    ({"is_decoder": True}, r"^is_decoder is True; allowed: null or left out. Decoders"),
    ({"add_cross_attention": True}, r"^add_cross_attention is True"),
    ({"is_encoder_decoder": True}, r"^is_encoder_decoder is True"),
    ({"pruned_heads": {"0": [1]}}, r"^pruned_heads is "),
    ({"quantization_config": {"bits": 8}}, r"^quantization_config is "),
    ({"auto_map": {"AutoModel": "x.Y"}}, r"^auto_map names 'AutoModel'.* something other than BERT"),
    ({"auto_map": []}, r"^auto_map is \[\]; allowed: an object"),
    ({"hidden_act": "gelu_10"}, r"^hidden_act \(activation\) is 'gelu_10'; allowed: one of gelu, "),
    ({"hidden_act": None}, r"^hidden_act \(activation\) is None"),
    ({"hidden_size": "768"}, r"^hidden_size is '768'; allowed: an integer of at least 1$"),
    ({"hidden_size": 70}, r"^hidden_size 70 is not a multiple of num_attention_heads 12$"),
    ({"hidden_size": 12_000_000}, r"^n_embd is 12000000; allowed: an integer from 1 to 65536"),
    ({"num_hidden_layers": 0}, r"^num_hidden_layers is 0; allowed"),
    ({"intermediate_size": None}, r"^intermediate_size is None; allowed"),
    ({"type_vocab_size": 0}, r"^type_vocab_size is 0; allowed"),
    ({"max_position_embeddings": True}, r"^max_position_embeddings is True; allowed"),
    ({"layer_norm_eps": 0}, r"^layer_norm_epsilon is 0; allowed: a number from 1e-37"),
    ({"tie_word_embeddings": "yes"}, r"^tie_word_embeddings is 'yes'; allowed: true or false"),
    ({"eos_token_id": "end"}, r"^eos_token_id is 'end'; allowed"),
    ({"architectures": "BertModel"}, r"^architectures is 'BertModel'; allowed: a list of names"),
    ({"architectures": ["RobertaModel"]}, r"^architectures names 'RobertaModel'; gpt2c runs BertModel, "),
    ({"architectures": ["BertForMaskedLM", "BertForTokenClassification"]}, r"names several heads"),
    ({"architectures": ["BertForTokenClassification"], "id2label": {"1": "x"}}, r"^id2label is "),
    *(
        ({"architectures": [f"Bert{head}"]}, rf"^architectures names 'Bert{head}'; gpt2c runs BertModel, ")
        for head in ("LMHeadModel", "ForNextSentencePrediction", "ForMultipleChoice", "ForQuestionAnswering")
    ),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        bert_from_hf(BERT | values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ROBERTA | {"pad_token_id": None},
            r"^pad_token_id is None; allowed: an integer from 0 to 512, since",
        ),
        (ROBERTA | {"pad_token_id": 513}, r"^pad_token_id is 513; allowed"),
        (ROBERTA | {"hidden_act": "relu"}, r"^hidden_act is 'relu'; a RoBERTa that predicts"),
        (ROBERTA | {"architectures": ["RobertaForCausalLM"]}, r"gpt2c runs RobertaModel, RobertaForMaskedLM"),
        (ROBERTA | {"architectures": ["BertModel"]}, r"names 'BertModel'; gpt2c runs RobertaModel"),
        (DISTILBERT | {"dim": 10}, r"^dim 10 is not a multiple of n_heads 12"),
        (DISTILBERT | {"hidden_dim": -1}, r"^hidden_dim is -1; allowed"),
        (DISTILBERT | {"n_heads": 3, "num_attention_heads": 4}, r"^n_heads is 3 but num_attention_heads"),
    ],
)
def test_refused_of_the_others(values, message):
    with pytest.raises(ConfigError, match=message):
        bert_from_hf(values)


texts = st.text("ab\x1b\n\u2603\ud800", max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
KEYS = sorted(
    {*BERT, *ROBERTA, *DISTILBERT, *(key for values, _ in REFUSED for key in values)} - {"model_type"}
)
classes = st.lists(
    st.builds("{}{}".format, st.sampled_from(list(models.CLASSES.values())), st.sampled_from(models.HEADS))
)


@given(
    st.sampled_from(BERTS),
    st.dictionaries(st.sampled_from(KEYS), json_values | st.integers(1, 64), max_size=6),
    st.none() | classes,
)
def test_anything_is_a_valid_config_or_a_config_error(kind, values, architectures):
    values = (
        {"model_type": kind} | values | ({} if architectures is None else {"architectures": architectures})
    )
    try:
        config = bert_from_hf(values)
    except ConfigError as error:
        assert str(error).isprintable()
        return
    assert config.is_bert and config.n_embd % config.n_head == 0 and config.activation in ACTIVATIONS
    assert (config.n_types == 0) == (kind == "distilbert")
    assert set(values) <= set(statuses(config))


@settings(suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(EACH),
    st.dictionaries(st.sampled_from(KEYS), json_values | st.integers(0, 40), max_size=2),
    st.sets(st.sampled_from(["architectures", "pad_token_id", "type_vocab_size"])),
)
def test_a_config_that_does_not_fit_is_told_so(tmp_path_factory, name, changes, left_out):
    values = {key: v for key, v in (models.values(name) | changes).items() if key not in left_out}
    folder = write(tmp_path_factory.mktemp("model"), name)
    (folder / "config.json").write_text(json.dumps(values))
    try:
        checkpoint = open_checkpoint(folder)
    except GPT2CError as error:
        assert str(error).isprintable()
        return
    shapes = {tensor: array.shape for tensor, array in weights_of(checkpoint).items()}
    assert shapes == {tensor: shape for tensor, _, shape in expected(checkpoint.config)}


@pytest.mark.oracle
@pytest.mark.parametrize("kind", BERTS)
def test_defaults_are_those_of_transformers(kind):
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, f"{models.CLASSES[kind]}Config")().to_dict()
    assert bert_from_hf(theirs) == bert_from_hf({"model_type": kind})
    assert "unknown" not in statuses(bert_from_hf(theirs)).values()


# ---- tensors


@pytest.mark.parametrize("name", EACH)
def test_every_family_and_head(name, tmp_path):
    checkpoint = open_checkpoint(write(tmp_path / "model", name))
    config = checkpoint.config
    assert {tensor: checkpoint.read(tensor).shape for tensor in checkpoint.tensors} == {
        tensor: info.shape for tensor, info in checkpoint.tensors.items()
    }
    assert sum(np.prod(info.shape) for info in checkpoint.tensors.values()) == config.n_parameters
    for tensor, info in checkpoint.tensors.items():
        whole = checkpoint.read(tensor)
        assert whole.dtype == np.float32 and whole.flags.c_contiguous
        half = info.shape[0] // 2
        assert np.array_equal(checkpoint.read_rows(tensor, half, info.shape[0]), whole[half:])
    assert sum(info.nbytes for info in checkpoint.tensors.values()) == 4 * config.n_parameters
    check(checkpoint, name)


def test_queries_keys_and_values_are_one(tmp_path):
    name = "bert-Model-0"
    checkpoint, stored = open_checkpoint(write(tmp_path / "model", name)), models.tensors(name)
    layer = "encoder.layer.0.attention.self."
    three = [stored[f"{layer}{part}.weight"].T for part in ("query", "key", "value")]
    assert np.array_equal(checkpoint.read("h.0.attn.c_attn.weight"), np.hstack(three))
    biases = [stored[f"{layer}{part}.bias"] for part in ("query", "key", "value")]
    assert np.array_equal(checkpoint.read("h.0.attn.c_attn.bias"), np.hstack(biases))
    info = checkpoint.tensors["h.0.attn.c_attn.weight"]
    assert info.nbytes == 4 * 3 * checkpoint.config.n_embd**2


@pytest.mark.parametrize("name", EACH[:4])
def test_shards(name, tmp_path):
    """Parts of one tensor lie in different files."""
    folder = write(tmp_path / "model", name)
    (folder / "model.safetensors").unlink()
    write_shards(folder, models.tensors(name), count=3)
    checkpoint = open_checkpoint(folder)
    files = {part.file for part in checkpoint.tensors["h.0.attn.c_attn.weight"].parts}
    assert len(files) > 1
    check(checkpoint, name)
    with pytest.raises(CheckpointError, match="was changed or replaced"), checkpoint.loading():
        (folder / "model-00002-of-00003.safetensors").unlink()


def test_a_file_of_2019(tmp_path):
    """Old names of LayerNorm, the tied matrix and the bias twice, a buffer of positions: by torch."""
    (tmp_path / "config.json").write_text(json.dumps(models.values(models.OLD)))
    shutil.copy(models.FOLDER / "pytorch_model.bin", tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert len(checkpoint.notes) == 1  # nothing was left aside
    check(checkpoint, models.OLD)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "base_model.model.", "net.encoder."])
@pytest.mark.parametrize("name", ["bert-ForMaskedLM-1", "bert-Model-0", "distilbert-ForMaskedLM-0"])
def test_what_wraps_a_model(name, prefix, tmp_path):
    stored = {prefix + tensor: array for tensor, array in models.tensors(name).items()}
    checkpoint = open_checkpoint(write(tmp_path / "model", name, stored))
    check(checkpoint, name)
    assert (f"{prefix!r} is removed from every name" in checkpoint.notes) == (prefix == "net.encoder.")


@pytest.mark.parametrize("name", ["bert-Model-0", "roberta-Model-0", "distilbert-Model-0"])
def test_the_body_of_a_model_with_a_head(name, tmp_path):
    """Where the class has no head, one that is stored is left aside, with a note; so are other prefixes."""
    kind = name.split("-")[0]
    stored = {models.PREFIXES[kind] + tensor: array for tensor, array in models.tensors(name).items()}
    heads = {"bert": "cls.predictions.bias", "roberta": "lm_head.bias", "distilbert": "vocab_projector.bias"}
    stored[heads[kind]] = np.ones(3)
    checkpoint = open_checkpoint(write(tmp_path / "model", name, stored))
    check(checkpoint, name)
    assert any(heads[kind] in note and "does not use this head" in note for note in checkpoint.notes)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_where_no_class_is_named_the_files_say_which_head_there_is(kind, tmp_path):
    for head, masked in (("ForMaskedLM", True), ("Model", False)):
        name = f"{kind}-{head}-1"
        folder = write(tmp_path / name, name)
        values = models.values(name)
        del values["architectures"]
        (folder / "config.json").write_text(json.dumps(values))
        checkpoint = open_checkpoint(folder)
        assert checkpoint.config.masked_head == masked
        told = "the head that predicts tokens is not stored: hidden states only"
        assert (told in checkpoint.notes) == (name in ("bert-Model-1", "distilbert-Model-1"))
        check(checkpoint, name)  # roberta-Model-1 has an activation that its masked head would not have


def test_the_next_sentence_head_is_left_aside(tmp_path):
    name = "bert-ForMaskedLM-1"
    width = models.values(name)["hidden_size"]
    more = {"bert.pooler.dense.weight": np.ones((width, width)), "bert.pooler.dense.bias": np.ones(width)}
    more |= {"cls.seq_relationship.weight": np.ones((2, width)), "cls.seq_relationship.bias": np.ones(2)}
    changes = {"architectures": ["BertForPreTraining"]}
    checkpoint = open_checkpoint(write(tmp_path / "model", name, models.tensors(name) | more, **changes))
    check(checkpoint, name)
    assert "4 tensors 'pooler.dense.weight', " in checkpoint.notes[1]


def test_tied_matrices(tmp_path):
    name = "bert-ForMaskedLM-1"
    stored, head = models.tensors(name), "cls.predictions.decoder.weight"
    embedding = "bert.embeddings.word_embeddings.weight"
    other = stored | {head: stored[embedding] + 1}
    checkpoint = open_checkpoint(write(tmp_path / "differing", name, other))
    check(checkpoint, name)
    assert any(
        "tie_word_embeddings is true: embeddings.word_embeddings.weight is used" in note
        for note in checkpoint.notes
    )
    moved = {head if tensor == embedding else tensor: array for tensor, array in stored.items()}
    check(open_checkpoint(write(tmp_path / "moved", name, moved)), name)
    with pytest.raises(CheckpointError, match=r"'cls\.predictions\.decoder\.weight' missing"):
        open_checkpoint(write(tmp_path / "untied", name, tie_word_embeddings=False))
    checkpoint = open_checkpoint(write(tmp_path / "own", name, other, tie_word_embeddings=False))
    assert np.array_equal(checkpoint.read("lm_head.weight"), stored[embedding] + 1)


@pytest.mark.parametrize(
    ("name", "counts", "other"),
    [
        ("bert-ForMaskedLM-1", "cls.predictions.bias", "cls.predictions.decoder.bias"),
        ("roberta-ForMaskedLM-0", "lm_head.decoder.bias", "lm_head.bias"),
    ],
)
def test_the_bias_of_tokens_has_two_names(name, counts, other, tmp_path):
    """Of two that differ transformers 4.57 takes the first here: checked with it."""
    stored = models.tensors(name)
    own = next(tensor for tensor in (counts, other) if tensor in stored)
    bias = stored.pop(own)
    for only in (counts, other):
        checkpoint = open_checkpoint(write(tmp_path / only, name, stored | {only: bias}))
        check(checkpoint, name)
        assert len(checkpoint.notes) == 1
    checkpoint = open_checkpoint(write(tmp_path / "both", name, stored | {counts: bias, other: bias + 1}))
    check(checkpoint, name)
    assert f"{other} is stored, but is the same parameter as {counts}" in checkpoint.notes[1]


WRONG = [
    (
        {"embeddings.LayerNorm.bias": None},
        r"does not hold the BERT of its config\.json: tensor 'embeddings\.",
    ),
    (
        {"encoder.layer.0.attention.self.key.weight": None},
        r"tensor 'encoder\.layer\.0\.attention\.self\.key\.",
    ),
    (
        {"encoder.layer.0.attention.self.key.bias": np.ones(3)},
        r"'encoder\.layer\.0\.attention\.self\.key\.bias' has the shape \[3\]; its config\.json asks for",
    ),
    (
        {"embeddings.position_embeddings.weight": np.ones((3, 4))},
        r"has the shape \[3, 4\]; .*\[\d+, 4\], that is \[max_position_embeddings, n_embd\]",
    ),
    ({"probe": np.ones(3)}, r"BERT of its config\.json: tensor 'probe' not expected \(strict=False"),
    ({"qa_outputs.weight": np.ones(3)}, r"tensor 'qa_outputs\.weight' not expected"),
    ({"bert.embeddings.LayerNorm.bias": np.ones(4)}, r"holds embeddings\.LayerNorm\.bias twice"),
    (
        {"encoder.layer.0.attention.self.query.lora_A.default.weight": np.ones((2, 4))},
        r"holds a LoRA adapter that is not merged",
    ),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_tensors_that_are_wrong(changes, message, tmp_path):
    stored = {name: a for name, a in (models.tensors("bert-Model-0") | changes).items() if a is not None}
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(write(tmp_path / "model", "bert-Model-0", stored))


def test_tensors_that_are_not_expected_can_be_left_aside(tmp_path):
    stored = models.tensors("bert-Model-0") | {"probe": np.ones(3)}
    folder = write(tmp_path / "model", "bert-Model-0", stored)
    checkpoint = open_checkpoint(folder, strict=False)
    check(checkpoint, "bert-Model-0")
    assert "tensor 'probe' ignored: BERT has no such tensors (strict=False)" in checkpoint.notes


def test_nan_in_a_part(tmp_path):
    name, tensor = "bert-Model-0", "encoder.layer.0.attention.self.value.weight"
    stored = models.tensors(name)
    stored[tensor][0, 0] = np.nan
    checkpoint = open_checkpoint(write(tmp_path / "model", name, stored))
    with pytest.raises(CheckpointError, match=r"self\.value\.weight' has NaN or infinity in 1 of its 16"):
        checkpoint.read("h.0.attn.c_attn.weight")


def test_adapters_are_refused(tmp_path):
    folder = write(tmp_path / "model", "bert-Model-0")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(
        CheckpointError,
        match=r"is a BERT, and gpt2c does not merge adapters into it: with PEFT",
    ):
        open_checkpoint(folder, adapter=str(tmp_path / "adapter"))


def test_it_is_no_gpt2(tmp_path):
    with pytest.raises(ConfigError, match=r"model is a BERT: load it with gpt2c\.BERT"):
        GPT2.from_pretrained(write(tmp_path / "model", "bert-Model-0"))


# ---- exports


def loaded(config, weights):
    """What `export` asks of a loaded model."""
    return SimpleNamespace(
        config=config, weights=weights, dtype="float32", name="it", has_tokenizer=False, generation_config={}
    )


@pytest.mark.parametrize("name", EACH)
def test_an_export_is_what_was_loaded(name, tmp_path):
    checkpoint = open_checkpoint(write(tmp_path / "model", name))
    export(loaded(checkpoint.config, weights_of(checkpoint)), tmp_path / "out", None)
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    kind = name.split("-ForM")[0].split("-ForS")[0].split("-ForT")[0].split("-Model")[0]
    assert values["model_type"] == ("distilbert" if kind == "distilbert" else "bert")
    assert values.get("tokenizer_class") == {
        "roberta": "RobertaTokenizer",
        "xlm-roberta": "XLMRobertaTokenizer",
    }.get(kind)
    again = open_checkpoint(tmp_path / "out")
    assert again.config == checkpoint.config
    before, after = weights_of(checkpoint), weights_of(again)
    assert before.keys() == after.keys()
    assert all(before[tensor].tobytes() == after[tensor].tobytes() for tensor in before)
    if kind in ("bert", "distilbert"):
        stored, own = read_safetensors(tmp_path / "out" / "model.safetensors"), models.tensors(name)
        own = {tensor: array for tensor, array in own.items() if tensor in stored or "pooler" not in tensor}
        assert stored.keys() == own.keys()
        assert all(stored[tensor].tobytes() == own[tensor].tobytes() for tensor in stored)


@pytest.mark.oracle
@pytest.mark.parametrize("name", EACH)
def test_transformers_loads_an_export(name, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    checkpoint = open_checkpoint(write(tmp_path / "model", name))
    export(loaded(checkpoint.config, weights_of(checkpoint)), tmp_path / "out", None)
    [architecture] = json.loads((tmp_path / "out" / "config.json").read_text())["architectures"]
    model, found = getattr(transformers, architecture).from_pretrained(
        tmp_path / "out", attn_implementation="eager", output_loading_info=True
    )
    # gpt2c leaves the layer of pooler_output aside.
    assert all("pooler" in key for key in found.pop("missing_keys")) and not any(found.values())
    ids, types = models.text(name)
    given = {"input_ids": torch.from_numpy(ids)[None]}
    if types is not None:
        given["token_type_ids"] = torch.from_numpy(types)[None]
    with torch.no_grad():
        out = model.double()(**given)
    out = out.logits if "logits" in out else out.last_hidden_state
    assert np.abs(out[0].numpy() - recorded(name)).max() < 1e-10


def test_what_transformers_cannot_say_is_not_exported(tmp_path):
    small = SIZES | {"n_layer": 1, "n_head": 1, "n_embd": 4, "n_inner": 4, "n_ctx": 4, "n_vocab": 5}
    for changes, message in (
        (
            {"n_types": 1, "head": Head("sequence", ("a",), activation="relu", pooled=True)},
            "a BERT always has 'tanh'",
        ),
        (
            {"head": Head("sequence", ("a",), activation="tanh", pooled=True)},
            "a DistilBERT always has 'relu'",
        ),
        ({"layer_norm_epsilon": 1e-5}, r"layer_norm_epsilon is 1e-05; in transformers a DistilBERT"),
    ):
        config = Config(**small | changes)
        with pytest.raises(ConfigError, match=message):
            export(loaded(config, {}), tmp_path / "out", None)
    with pytest.raises(ConfigError, match="is a BERT, which gpt2c cannot export as GGUF: export a directory"):
        export(loaded(Config(**small), {}), tmp_path / "out.gguf", None)
