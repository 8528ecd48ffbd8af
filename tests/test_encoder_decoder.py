"""Encoder-decoder models: transformers' logits, patterns and beams; company; files; what is refused."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import numpy as np
import pytest
from data.encoder_decoder import models
from helpers.small_tokenizers import END
from helpers.tiny_checkpoints import safetensors_bytes
from helpers.toys import same
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2c
from gpt2c import (
    BERT,
    GPT2,
    CheckpointError,
    ConfigError,
    ContextLengthError,
    EncoderDecoder,
    reference,
    reference_bert,
)
from gpt2c.checkpoint.encoder_decoder_config import pair_from_hf
from gpt2c.core import _engine

LOGIT_BOUND = 1e-4
RECORDED = np.load(models.FOLDER / "encoder_decoder.npz")
SEARCHES = json.loads((models.FOLDER / "searches.json").read_text())
CASES = range(models.N_CASES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    return [models.write(base / str(case), case) for case in CASES]


@pytest.fixture(scope="module")
def load(folders):
    kept = {}

    def loaded(case, **how):
        key = case, *sorted(how.items())
        if key not in kept:
            kept[key] = EncoderDecoder.from_pretrained(folders[case], **{"threads": 1} | how)
        return kept[key]

    return loaded


# ---- what transformers says


@pytest.mark.parametrize("backend", _engine.BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_logits_and_patterns_are_those_of_transformers(case, backend, load):
    model, target = load(case, backend=backend), models.target(case)
    assert model.decoder.config.bos_token_id == target[0]
    logits, cache = model.run_with_cache(models.source(case), target[1:], "*cross_attn.hook_pattern")
    assert np.abs(logits - RECORDED[f"logits {case}"]).max() <= LOGIT_BOUND
    pattern = cache["blocks.0.cross_attn.hook_pattern"]
    assert np.abs(pattern[:, -2:] - RECORDED[f"pattern {case}"]).max() <= 1e-5
    assert np.abs(model.given(models.source(case)).forward(target) - logits).max() <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_references(case, load):
    model, source, target = load(case), models.source(case), models.target(case)
    states = reference_bert.hidden_states(model.encoder, source)
    if model.projection is not None:
        tensors = models.tensors(case)
        states = states @ tensors["enc_to_dec_proj.weight"].T + tensors["enc_to_dec_proj.bias"]
    assert np.abs(model.encode(source) - states).max() <= 1e-4
    exact = reference.forward(model.decoder, target, states=states)
    assert np.abs(model.given(source).forward(target) - exact).max() <= LOGIT_BOUND


def test_texts_are_those_that_transformers_finds(load):
    assert len(SEARCHES) >= 100
    for one in SEARCHES:
        model = load(one["case"])
        options = one["options"] | {"eos_token_id": one["eos"]}
        n = options.get("num_return_sequences", 1)
        found = model.generate(one["source"], **options)
        found = found if n > 1 else [found]
        assert [text.token_ids for text in found] == one["texts"], one
        for text, score in zip(found, one["scores"] or [None] * n, strict=True):
            assert score is None or abs(text.score - score) <= 1e-4


@pytest.mark.oracle
def test_transformers_still_says_so(folders):
    from data.encoder_decoder import make_encoder_decoder as oracle

    loaded = [oracle.load(folder) for folder in folders]
    for case, model in enumerate(loaded):
        logits, pattern = oracle.answers(model, models.source(case), models.target(case))
        assert np.abs(logits - RECORDED[f"logits {case}"]).max() <= 1e-5
        assert np.abs(pattern[:, -2:] - RECORDED[f"pattern {case}"]).max() <= 1e-6
    for one in SEARCHES:
        model = loaded[one["case"]]
        model.generation_config.eos_token_id = one["eos"]
        assert oracle.search(model, one["source"], one["options"])[0] == one["texts"]


# ---- company


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_every_way_gives_the_same_text(dtype, load):
    model = load(1, dtype=dtype)
    sources = [models.source(1, number) for number in range(9)]
    for options in (
        {"max_new_tokens": 12},
        {"max_new_tokens": 12, "num_beams": 3},
        {"max_new_tokens": 12, "temperature": 1.5, "seed": 7, "num_return_sequences": 2},
    ):
        n = options.get("num_return_sequences", 1)
        together = model.generate(sources, **options)
        few = model.generate(sources, batch_size=2, **options)
        more = EncoderDecoder(model.encoder, model.decoder, model.projection)
        alone = [text for source in sources for text in more.generate([source], **options)]
        assert len(together) == 9 * n
        for one, other, third in zip(together, few, alone, strict=True):
            assert one.token_ids == other.token_ids == third.token_ids
            assert one.logprobs == other.logprobs == third.logprobs
        assert [text.prompt_index for text in together] == [i for i in range(9) for _ in range(n)]
    encoded = model.encode(sources)
    assert all(same(rows, model.encode(source)) for rows, source in zip(encoded, sources, strict=True))
    assert len(set(map(tuple, (text.token_ids for text in together)))) > 1


def test_threads_change_no_bit(folders, load):
    one, two = load(3), EncoderDecoder.from_pretrained(folders[3], threads=2)
    sources = [models.source(3, number) for number in range(5)]
    assert all(map(same, one.encode(sources), two.encode(sources)))
    ours, theirs = one.generate(sources, num_beams=2), two.generate(sources, num_beams=2)
    assert [text.logprobs for text in ours] == [text.logprobs for text in theirs]


def test_draws_share_a_seed(load):
    sources = [models.source(1, number) for number in range(3)]
    found = load(1).generate(sources, temperature=1.0, max_new_tokens=4)
    assert len({text.seed for text in found}) == 1
    again = load(1).generate(sources[2], temperature=1.0, max_new_tokens=4, seed=found[0].seed)
    assert again.token_ids == found[2].token_ids


def test_a_stream_is_the_text(load):
    model, source = load(5), models.source(5)
    with model.stream(source, max_new_tokens=9) as stream:
        assert list(stream) == []  # without a tokenizer there is no text
    assert stream.result.token_ids == model.generate(source, max_new_tokens=9).token_ids


def test_texts_begin_with_what_is_written(tmp_path):
    """In WordPiece a word that follows another begins with a space, and nothing precedes the first one."""
    pytest.importorskip("tokenizers")
    folder = models.write(tmp_path / "m", 4, decoder_start_token_id=2, eos_token_id=3)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *(f"w{chr(97 + i)}" for i in range(25))]))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    model = EncoderDecoder.from_pretrained(folder, threads=1)
    source = "wa wb"
    assert len(model.encode(source)) == 4  # [CLS] and [SEP] stand around it
    options = {"max_new_tokens": 6, "suppress_tokens": [*range(5), *range(30, model.decoder.config.n_vocab)]}
    for more in ({}, {"num_beams": 2}):
        found = model.generate(source, **options, **more)
        assert found.text == " ".join(f"w{chr(92 + token)}" for token in found.token_ids)
    assert "".join(model.stream(source, **options)) == model.generate(source, **options).text


def test_scores_are_those_of_the_logits(load):
    model, sources = load(2), [models.source(2, number) for number in range(3)]
    targets = [[1, 2, 3], [4], [5, 6]]
    found = model.score(sources, targets, top=1)
    for source, target, score in zip(sources, targets, found, strict=True):
        logits, _ = model.run_with_cache(source, target, [])
        wanted = reference.log_softmax(logits)[np.arange(len(target)), target]
        assert score.token_ids == target
        assert np.abs(score.logprobs - wanted).max() <= 1e-5
        alone = model.score(source, target)
        assert same(alone.logprobs, score.logprobs)
    assert model.score([], []) == []
    edited = model.score(sources, targets, edits=[("*hook_cross_attn_out", gpt2c.edits.scale(0.5))])
    assert not same(edited[0].logprobs, found[0].logprobs)
    many = model.score(sources * 40, targets * 40)
    assert all(same(one.logprobs, found[i % 3].logprobs) for i, one in enumerate(many))
    with pytest.raises(TypeError):
        model.score(sources, 5)
    with pytest.raises(ValueError, match="0 targets"):
        model.score(sources, [])
    with pytest.raises(ValueError, match="as many of each, not 3 sources and 2 targets"):
        model.score(sources, targets[:2])
    with pytest.raises(ValueError, match="one text each"):
        model.score(sources, targets[0])


def test_the_decoder_with_a_source_is_a_gpt2(load):
    model = load(4)
    decoder = model.given(models.source(4))
    assert isinstance(decoder, GPT2) and isinstance(model.encoder, BERT)
    start = [decoder.config.bos_token_id]
    text = model.generate(models.source(4), max_new_tokens=5, eos_token_id=[])
    assert decoder.generate(start, max_new_tokens=5, eos_token_id=[]).token_ids == text.token_ids
    assert decoder.suggest(start, 1)[0].token_id == text.token_ids[0]
    with pytest.raises(ConfigError, match="but has none"):
        model.decoder.generate(start)


def test_the_end_of_positions_is_the_default(load):
    model = load(6)
    text = model.generate(models.source(6), eos_token_id=[])
    assert len(text.token_ids) == model.decoder.config.n_ctx == 48


# ---- files


@pytest.mark.parametrize("dtype", _engine.DTYPES)
@pytest.mark.parametrize("case", [0, 1])
def test_packed_folders_give_the_same(case, dtype, load, tmp_path):
    model, source = load(case, dtype=dtype), models.source(case)
    assert (model.projection is not None) == (case == 0)
    model.save(tmp_path / "packed")
    packed = EncoderDecoder.from_pretrained(tmp_path / "packed", threads=1)
    assert packed.encoder.dtype == packed.decoder.dtype == dtype
    assert same(packed.encode(source), model.encode(source))
    assert packed.decoder.config == model.decoder.config
    assert same(packed.given(source).forward([1, 2]), model.given(source).forward([1, 2]))
    for name in ("encoder.gpt2c", "decoder.gpt2c"):
        (tmp_path / "packed" / name).rename(tmp_path / name)
        with pytest.raises(CheckpointError):
            EncoderDecoder.from_pretrained(tmp_path / "packed")
        (tmp_path / name).rename(tmp_path / "packed" / name)


@pytest.mark.parametrize("case", [0, 1])
def test_an_exported_folder_is_the_model_again(case, load, tmp_path):
    """Read as transformers' files are, whose logits the tests above compare."""
    model, source = load(case), models.source(case)
    model.export(tmp_path / "out")
    again = EncoderDecoder.from_pretrained(tmp_path / "out", threads=1)
    assert same(again.encode(source), model.encode(source))
    assert same(again.given(source).forward([1, 2]), model.given(source).forward([1, 2]))
    assert again.generate(source).token_ids == model.generate(source).token_ids
    with pytest.raises(ValueError, match="rounded to int8"):
        load(case, dtype="int8").export(tmp_path / "rounded")
    assert not (tmp_path / "rounded").exists()


def test_a_packed_folder_without_its_projection_is_refused(load, tmp_path):
    load(0).save(tmp_path / "packed")
    (tmp_path / "packed" / "enc_to_dec_proj.safetensors").unlink()
    with pytest.raises(CheckpointError, match="needs enc_to_dec_proj with the shapes"):
        EncoderDecoder.from_pretrained(tmp_path / "packed")


def test_a_pickle_loads_the_model_again(load):
    other = pickle.loads(pickle.dumps(load(1)))
    assert same(other.encode([1, 2]), load(1).encode([1, 2]))
    with pytest.raises(TypeError, match="not made by from_pretrained"):
        pickle.dumps(EncoderDecoder(load(1).encoder, load(1).decoder))


def test_a_pickle_keeps_threads_that_were_set_later(load):
    model = copy.copy(load(1))
    before = model.threads
    model.threads = before + 1
    try:
        other = pickle.loads(pickle.dumps(model))
    finally:
        model.threads = before
    assert (other.threads, other.encoder.threads) == (before + 1, before + 1)


def test_copies_share_weights(load):
    model = load(1)
    for other in (copy.copy(model), copy.deepcopy(model)):
        assert other.encoder.weights is model.encoder.weights
        assert other.decoder.weights is model.decoder.weights
        assert same(other.encode([1, 2]), model.encode([1, 2]))
    other = copy.deepcopy(model)
    other.threads = 2
    assert (other.encoder.threads, other.decoder.threads, other.threads, model.threads) == (2, 2, 2, 1)
    with pytest.raises(ValueError, match="threads"):
        other.threads = 0


def test_ids_of_generation_config_count(folders, tmp_path):
    folder = models.write(tmp_path / "m", 1, bos_token_id=3)
    (folder / "generation_config.json").write_text('{"decoder_start_token_id": 7, "eos_token_id": [8, 9]}')
    config = EncoderDecoder.from_pretrained(folder).decoder.config
    assert (config.bos_token_id, config.eos_token_ids) == (7, (8, 9))
    (folder / "generation_config.json").unlink()
    folder = models.write(tmp_path / "n", 1, bos_token_id=3, decoder_start_token_id=None)
    assert EncoderDecoder.from_pretrained(folder).decoder.config.bos_token_id == 3


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "loads models of the type 'encoder-decoder'"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "architectures names"),
        ({"tie_encoder_decoder": True}, "tie_encoder_decoder is True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"encoder": None}, "encoder is None; allowed"),
        ({"decoder": []}, r"decoder is \[\]; allowed"),
        ({"encoder": {"model_type": "vit"}}, "encoder: model_type is 'vit'"),
        ({"encoder": {"model_type": []}}, "encoder: model_type is"),
        ({"decoder": {"model_type": "bert"}}, "decoder: model_type is 'bert'"),
        ({"decoder": {"model_type": "gpt2"}}, "decoder: add_cross_attention is false"),
        ({"decoder": models.values(1)["decoder"] | {"n_layer": -1}}, "decoder: .*n_layer"),
        ({"encoder": models.values(1)["encoder"] | {"hidden_act": "x"}}, "encoder: .*x"),
        ({"decoder_start_token_id": 10**6}, "decoder_start_token_id is 1000000; allowed"),
        ({"decoder_start_token_id": "a"}, "bos_token_id is 'a'"),
        ({"eos_token_id": "a"}, "eos_token_id is 'a'"),
        (
            {"decoder": models.values(1)["decoder"] | {"cross_attention_hidden_size": 5}},
            "cross_attention_hidden_size is 5",
        ),
    ],
)
def test_configurations_that_are_refused(changes, message, tmp_path):
    folder = models.write(tmp_path / "m", 1, **changes)
    with pytest.raises(ConfigError, match=message):
        EncoderDecoder.from_pretrained(folder)


texts = st.text("ab\x1b\n\u2603\ud800", max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
KEYS = sorted({*models.values(0), "tie_encoder_decoder", "bos_token_id", "auto_map"})
OF_PARTS = sorted({*models.values(0)["decoder"], *models.values(0)["encoder"], "cross_attention_hidden_size"})


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, models.N_CASES - 1),
    st.dictionaries(st.sampled_from(KEYS), json_values, max_size=2),
    st.sampled_from(("encoder", "decoder")),
    st.dictionaries(st.sampled_from(OF_PARTS), json_values | st.integers(0, 60), max_size=2),
    st.dictionaries(
        st.sampled_from(("decoder_start_token_id", "eos_token_id", "bos_token_id")),
        json_values | st.integers(0, 60),
        max_size=2,
    ),
)
def test_anything_is_a_valid_config_or_a_config_error(case, changes, part, inside, generation):
    values = models.values(case)
    values[part] = values[part] | inside
    try:
        found = pair_from_hf(values | changes, generation)
    except ConfigError as error:
        assert str(error).isprintable()
        return
    assert found.encoder.is_bert and found.decoder.add_cross_attention
    assert 0 <= found.decoder.bos_token_id < found.decoder.n_vocab


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.transformer.h.0.crossattention.c_attn.bias"), "the decoder in .* missing"),
        (lambda t: t.pop("enc_to_dec_proj.bias"), "needs enc_to_dec_proj with"),
        (lambda t: t.update({"enc_to_dec_proj.weight": np.zeros((2, 2), np.float32)}), "so it needs"),
        (lambda t: t.update({"more.weight": np.zeros(2, np.float32)}), "tensor 'more.weight' not expected"),
        (
            lambda t: t.update({"encoder.more.weight": np.zeros(2, np.float32)}),
            "the encoder in .* not expect",
        ),
    ],
)
def test_tensors_that_are_refused(change, message, tmp_path):
    folder, tensors = models.write(tmp_path / "m", 0), models.tensors(0)
    change(tensors)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    with pytest.raises(CheckpointError, match=message):
        EncoderDecoder.from_pretrained(folder)


def test_other_classes_say_what_to_use(folders, tmp_path):
    for cls in (GPT2, BERT):
        with pytest.raises(ConfigError, match=r"load it with gpt2c\.EncoderDecoder\.from_pretrained"):
            cls.from_pretrained(folders[0])
    with pytest.raises(CheckpointError, match="no file or directory"):
        EncoderDecoder.from_pretrained("./nowhere")
    with pytest.raises(TypeError, match="source must be a path"):
        EncoderDecoder.from_pretrained(5)
    with pytest.raises(TypeError, match="a pair"):
        EncoderDecoder.from_pretrained(folders[0], tokenizer=(1, 2, 3))
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        EncoderDecoder.from_pretrained(tmp_path)


def test_bad_sources_and_options(load):
    model = load(1)
    longest = model.encoder.config.n_ctx
    with pytest.raises(ContextLengthError, match="max_tokens"):
        model.generate([4] * (longest + 1))
    assert model.encode([4] * (longest + 1), max_tokens=longest).shape[0] == longest
    for wrong, error in (
        ([], ValueError),
        ("text", gpt2c.TokenizerError),
        (None, TypeError),
        ([-1], ValueError),
    ):
        if wrong == []:
            assert model.generate(wrong) == []
            continue
        with pytest.raises(error):
            model.generate(wrong)
    with pytest.raises(TypeError, match="give one text, not a list of"):
        model.given([[1], [2]])
    with pytest.raises(TypeError, match="max_new_tokens"):
        model.generate([1], max_length=5)
    with pytest.raises(TypeError, match="use generate or score"):
        model([1])
    with pytest.raises(ValueError, match="batch_size"):
        model.generate([1], batch_size=0)
    with pytest.raises(ContextLengthError):
        model.generate([1], max_new_tokens=500)


def test_deadlines_end_texts(load):
    assert load(1).generate([1, 2], deadline=60).finish_reason in ("length", "eos")
    with pytest.raises(gpt2c.DeadlineError):
        load(1).encode([1, 2], deadline=1e-9)


def test_the_import_is_deferred():
    assert "gpt2c.encoder_decoder" in sys.modules  # by this file
    assert gpt2c.EncoderDecoder is EncoderDecoder and END
