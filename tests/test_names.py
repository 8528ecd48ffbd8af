"""Names of tensors as programs and old versions write them, and what else is stored beside a model."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from helpers.command_line import run
from helpers.tiny_checkpoints import TINY, safetensors_bytes, tiny_tensors, write_model, write_shards

from gpt2c import GPT2
from gpt2c.checkpoint import open_checkpoint
from gpt2c.checkpoint.names import canonical
from gpt2c.checkpoint.validate import match
from gpt2c.errors import CheckpointError


def stored(tmp_path, names, values=TINY, more=None):
    """A checkpoint whose tensors have the names that a function gives; the tensors by canonical names."""
    tensors = tiny_tensors(values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    named = {names(name): array for name, array in tensors.items()} | (more or {})
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(named))
    return tensors


def same(checkpoint, tensors):
    assert list(checkpoint.tensors) == list(tensors)
    for name, array in tensors.items():
        assert np.array_equal(checkpoint.read(name), array), name


@pytest.mark.parametrize("body", ["", "transformer."])
@pytest.mark.parametrize(
    "wrapper",
    ["module.", "_orig_mod.", "model.", "base_model.model.", "module._orig_mod.", "_orig_mod.module.model."],
)
def test_what_wraps_a_model_stands_before_its_names(wrapper, body, tmp_path):
    def name(canonical):
        return wrapper + ("" if canonical == "lm_head.weight" else body) + canonical

    values = TINY | {"tie_word_embeddings": False}
    tensors = stored(tmp_path, name, values)
    same(open_checkpoint(tmp_path), tensors)


def test_the_head_of_a_wrapped_model_is_not_in_its_body():
    assert canonical("model.transformer.lm_head.weight") == "model.transformer.lm_head.weight"
    assert canonical("transformer.module.wte.weight") != "wte.weight"


# Old names -> the endings of today's.
OLD = {
    ".gamma and .beta": {"ln_1.weight": "ln_1.gamma", "ln_2.bias": "ln_2.beta", "ln_f.weight": "ln_f.gamma"},
    # As OpenAI's programs name variables; pytorch-pretrained-bert read such files.
    ".g, .b and .w": {
        "ln_1.weight": "ln_1.g",
        "ln_f.bias": "ln_f.b",
        "c_attn.weight": "c_attn.w",
        "c_attn.bias": "c_attn.b",
        "mlp.c_proj.weight": "mlp.c_proj.w",
        "c_fc.bias": "c_fc.b",
    },
}


@pytest.mark.parametrize("endings", OLD.values(), ids=OLD)
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_old_names(endings, prefix, tmp_path):
    def name(canonical):
        for new, old in endings.items():
            if canonical.endswith(new):
                return prefix + canonical.removesuffix(new) + old
        return prefix + canonical

    tensors = stored(tmp_path, name)
    same(open_checkpoint(tmp_path), tensors)


def test_the_head_of_2019(tmp_path):
    values = TINY | {"tie_word_embeddings": False}
    old = {"lm_head.weight": "lm_head.decoder.weight"}
    tensors = stored(tmp_path, lambda name: old.get(name, f"transformer.{name}"), values)
    same(open_checkpoint(tmp_path), tensors)


def test_what_only_looks_like_an_old_name():
    for name in ("h.0.attn.b", "wte.w", "h.0.ln_1.c", "ln_1x.g", "xln_f.b"):
        assert canonical(name) == name


@pytest.mark.parametrize(
    "names",
    [
        ["multiple_choice_head.summary.weight", "multiple_choice_head.summary.bias"],
        ["multiple_choice_head.linear.weight", "multiple_choice_head.linear.bias"],
        ["v_head.summary.weight", "v_head.summary.bias"],
        ["v_head.weight", "v_head.bias"],
        ["module.v_head.summary.weight"],
    ],
)
def test_heads_of_other_tasks(names, tmp_path):
    tensors = stored(
        tmp_path, lambda name: f"transformer.{name}", more={name: np.ones((1, 6)) for name in names}
    )
    checkpoint = open_checkpoint(tmp_path)
    same(checkpoint, tensors)
    assert f"'{names[0].removeprefix('module.')}'" in checkpoint.notes[1] and "skipped" in checkpoint.notes[1]


def test_a_value_head_alone_is_no_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "model.safetensors").write_bytes(
        safetensors_bytes({"v_head.summary.weight": np.ones((1, 6))})
    )
    with pytest.raises(CheckpointError, match=r"28 tensors 'wte\.weight', .* missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight",
        "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight",
        "transformer.h.0.attn.c_attn.base_layer.weight",
        "transformer.wte.lora_embedding_A.default",
        "h.0.mlp.c_fc.lora_magnitude_vector.default.weight",
    ],
)
def test_adapters_that_are_not_merged(name, tmp_path):
    write_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(tiny_tensors() | {name: np.ones((4, 6))}))
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds a LoRA adapter that is not merged into the weights (tensor {name!r}): with PEFT "
        "installed, model.merge_and_unload().save_pretrained(DIRECTORY) saves the merged model"
    )


def test_two_names_for_one_tensor(tmp_path):
    more = {"module.wpe.weight": tiny_tensors()["wpe.weight"]}
    stored(tmp_path, lambda name: name, more=more)
    with pytest.raises(CheckpointError, match=r"holds wpe\.weight twice, as 'wpe\.weight' and as 'module"):
        open_checkpoint(tmp_path)


def test_two_names_for_the_same_bytes(tmp_path):
    write_model(tmp_path, TINY | {"tie_word_embeddings": False})
    checkpoint = open_checkpoint(tmp_path)
    stored = list(checkpoint.tensors.values())
    head = stored[-1]._replace(name="lm_head.decoder.weight")
    assert match([*stored, head], checkpoint.config, "here")[0] == checkpoint.tensors
    moved = head._replace(offset=head.offset + 4)
    with pytest.raises(
        CheckpointError, match=r"holds lm_head\.weight twice, as 'lm_head\.weight' and as 'lm_h"
    ):
        match([*stored, moved], checkpoint.config, "here")


@pytest.mark.parametrize("prefix", ["net.gpt.", "gpt2.", "backbone.h.0.", "_orig_mod.policy.model."])
@pytest.mark.parametrize("body", ["", "transformer."])
def test_what_wraps_every_name_is_taken_away(prefix, body, tmp_path):
    tensors = stored(tmp_path, lambda name: prefix + body + name)
    checkpoint = open_checkpoint(tmp_path)
    same(checkpoint, tensors)
    assert f"{prefix!r} is removed from every name" in checkpoint.notes


@pytest.mark.parametrize("other", ["probe.x", "net.loss.weight"])
def test_what_does_not_wrap_every_name_is_not(other, tmp_path):
    stored(tmp_path, lambda name: f"net.gpt.transformer.{name}", more={other: np.ones(3)})
    with pytest.raises(CheckpointError, match=r"'net\.gpt\.transformer\.\S+', .* not expected"):
        open_checkpoint(tmp_path)


# ---- strict=False


def unlike(tmp_path, more):
    """A model with more tensors than it should have."""
    tensors = tiny_tensors()
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(tensors | more))
    return tensors


def test_tensors_that_are_not_expected(tmp_path):
    tensors = unlike(tmp_path, {f"probe.{i}": np.full((2,), np.nan) for i in range(6)})
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} does not hold the GPT-2 of its config.json: 6 tensors 'probe.0', 'probe.1', 'probe.2', "
        "'probe.3', … not expected (strict=False, or --no-strict on the command line, loads the model anyway)"
    )
    checkpoint = open_checkpoint(tmp_path, strict=False)
    same(checkpoint, tensors)
    assert checkpoint.notes[1:] == [
        "6 tensors 'probe.0', 'probe.1', 'probe.2', 'probe.3', … ignored: GPT-2 has no such tensors "
        "(strict=False)"
    ]
    model = GPT2.from_pretrained(tmp_path, strict=False)
    assert any("ignored" in note for note in model.notes)
    again = pickle.loads(pickle.dumps(model))
    assert again.notes == model.notes
    done = run("info", tmp_path, "--no-strict")
    assert done.returncode == 0 and "6 tensors 'probe.0'" in done.stdout
    done = run("info", tmp_path)
    assert done.returncode == 1 and "--no-strict" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ln_f.bias": None}, r"tensor 'ln_f\.bias' missing; tensor 'x' not expected$"),
        ({"ln_f.bias": np.ones(5)}, r"'ln_f\.bias' has the shape \[5\]; its config\.json asks for \[6\]"),
        ({"module.ln_f.bias": np.ones(6)}, "twice"),
        ({"h.0.attn.c_attn.lora_A.default.weight": np.ones(6)}, "not merged"),
    ],
)
def test_what_is_refused_in_any_case(wrong, message, tmp_path):
    write_model(tmp_path)
    stored = {k: v for k, v in (tiny_tensors() | {"x": np.ones(2)} | wrong).items() if v is not None}
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(stored))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path, strict=False)


def test_nan_is_refused_in_any_case(tmp_path):
    unlike(tmp_path, {"wpe.weight": np.full((9, 6), np.nan)})
    with pytest.raises(CheckpointError, match="NaN"):
        GPT2.from_pretrained(tmp_path, strict=False)


def test_an_index_that_names_the_tied_head(tmp_path):
    tensors = write_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    index = write_shards(tmp_path, tensors)
    index["weight_map"]["lm_head.weight"] = "model-00001-of-00002.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    file = "model-00001-of-00002.safetensors"
    told = f"{file} lacks tensors that model.safetensors.index.json lists in it: tensor"
    with pytest.raises(CheckpointError, match=rf"{told} 'lm_head\.weight' \(strict=False"):
        open_checkpoint(tmp_path)
    checkpoint = open_checkpoint(tmp_path, strict=False)
    same(checkpoint, tensors)
    assert checkpoint.notes[1:] == [f"{told} 'lm_head.weight'"]
    # One that is needed is missing in any case.
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"tie_word_embeddings": False}))
    with pytest.raises(CheckpointError, match=r"tensor 'lm_head\.weight' missing"):
        open_checkpoint(tmp_path, strict=False)


def test_an_index_that_leaves_something_out(tmp_path):
    tensors = write_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    index = write_shards(tmp_path, tensors)
    file = index["weight_map"].pop("ln_f.bias")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"holds tensors that .* does not list: tensor 'ln_f\.bias'"):
        open_checkpoint(tmp_path)
    checkpoint = open_checkpoint(tmp_path, strict=False)
    same(checkpoint, tensors)
    assert checkpoint.notes[1].startswith(f"{file} holds tensors that ")


# ---- beside the programs


@pytest.mark.oracle
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict"])
@pytest.mark.parametrize("wrap", ["DataParallel", "compile", "Lightning"])
def test_wrapped_models_of_transformers(wrap, key, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, n_positions=16, vocab_size=31)
    model = transformers.GPT2LMHeadModel(config).eval()
    config.save_pretrained(tmp_path)
    wrapped = {
        "DataParallel": torch.nn.DataParallel,
        "compile": torch.compile,
        "Lightning": lambda model: torch.nn.ModuleDict({"model": model}),
    }[wrap](model)
    state = wrapped.state_dict()
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "last.ckpt")
    ids = [3, 1, 4, 1, 5]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    found = GPT2.from_pretrained(tmp_path / "last.ckpt").forward(ids)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
