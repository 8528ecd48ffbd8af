"""LoRA adapters: merged while they are read, to the logits of PEFT."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_checkpoints import TINY, read_safetensors, safetensors_bytes, tiny_tensors, write_model

from gpt2c import GPT2
from gpt2c.checkpoint import open_checkpoint
from gpt2c.errors import CheckpointError, ConfigError

DATA = Path(__file__).parent / "data" / "peft"
LOGITS = dict(np.load(DATA / "logits.npz"))
KINDS = [name for name in LOGITS if name not in ("two", "classifier", "tagger")]
IDS = [1, 5, 10, 0, 3, 3, 7, 2]
C_ATTN = "base_model.model.transformer.h.0.attn.c_attn"
FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def base(tmp_path):
    write_model(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def copy(tmp_path):
    """A copy of an adapter, beside the base, with other settings or tensors."""

    def copied(name="attention", change=lambda tensors: tensors, **settings):
        folder = tmp_path / "adapter"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(DATA / name, folder)
        values = json.loads((folder / CONFIG).read_text()) | settings
        (folder / CONFIG).write_text(json.dumps(values))
        (folder / FILE).write_bytes(safetensors_bytes(change(read_safetensors(folder / FILE))))
        return folder

    return copied


def logits(source, adapter=None):
    return GPT2.from_pretrained(source, adapter=adapter).forward(IDS, logits_to_keep=0)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# ---- what PEFT computes


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_those_of_peft(name, tmp_path):
    write_model(tmp_path / "base", TINY | ({"tie_word_embeddings": False} if name == "untied" else {}))
    close(logits(tmp_path / "base", DATA / name), LOGITS[name])


@pytest.mark.parametrize("name", sorted({*KINDS} - {"untied"}))
def test_rows_are_those_of_the_whole(name, base, monkeypatch):
    monkeypatch.setattr("gpt2c.checkpoint.deltas._BLOCK", 20)
    checkpoint = open_checkpoint(base, adapter=DATA / name)
    for tensor in checkpoint.tensors:
        whole, step = checkpoint.read(tensor), 4
        parts = [
            checkpoint.read_rows(tensor, i, min(i + step, len(whole))) for i in range(0, len(whole), step)
        ]
        assert whole.dtype == np.float32
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    close(logits(base, DATA / name), LOGITS[name])


def test_the_adapter_of_a_classifier_brings_its_head(base, tmp_path):
    model = GPT2.from_pretrained(base, adapter=DATA / "classifier")
    close(model.classify(IDS).logits, LOGITS["classifier"])
    assert list(model.classify(IDS).probabilities) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    with pytest.raises(ConfigError, match="is a classifier"):
        model.generate([1, 5])
    assert any("the adapter adds a classifier's head with 3 labels" in note for note in model.notes)
    tagger = GPT2.from_pretrained(base, adapter=DATA / "tagger")
    close(np.stack([tag.logits for tag in tagger.tag(IDS).tags]), LOGITS["tagger"])
    # On a classifier, its head takes the place of the one that is there.
    other = tmp_path / "other"
    values = TINY | {"architectures": ["GPT2ForSequenceClassification"], "id2label": dict(enumerate("abc"))}
    head = {"score.weight": np.ones((3, TINY["n_embd"]), np.float32)}
    write_model(other, values, tiny_tensors() | head, prefix="")
    found = GPT2.from_pretrained(other, adapter=DATA / "classifier").classify(IDS)
    close(found.logits, LOGITS["classifier"])
    assert list(found.probabilities) == ["a", "b", "c"]


def test_the_base_tells_of_the_head_of_an_adapter(tmp_path):
    names = {"0": "bad", "1": "fair", "2": "good"}
    said = {"pad_token_id": 2, "id2label": names, "problem_type": "multi_label_classification"}
    write_model(tmp_path / "base", TINY | said)
    model = GPT2.from_pretrained(tmp_path / "base", adapter=DATA / "classifier")
    assert list(model.classify(IDS).probabilities) == list(names.values())
    assert model.config.head.problem == "multi"
    # The logits are those at the last token that is not the padding.
    close(model.classify(IDS).logits, model.classify(IDS[:-1]).logits)
    read = {setting.key: setting.status for setting in model.config.report}
    assert {read[key] for key in said} == {"honoured"}
    write_model(tmp_path / "other", TINY | {"id2label": {"0": "a", "1": "b"}, "num_labels": 2})
    model = GPT2.from_pretrained(tmp_path / "other", adapter=DATA / "classifier")
    assert list(model.classify(IDS).probabilities) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    close(model.classify(IDS).logits, LOGITS["classifier"])


def test_two_adapters_with_weights(base):
    first, second = DATA / "added_biases", DATA / "patterns"
    close(logits(base, [(first, 0.5), (second, -1.5)]), LOGITS["two"])
    close(logits(base, {str(second): -1.5, str(first): 0.5}), LOGITS["two"])
    assert abs(logits(base, [first, second]) - LOGITS["two"]).max() > 0.1
    np.testing.assert_array_equal(logits(base, [(first, 0), (second, 0)]), logits(base))
    np.testing.assert_array_equal(logits(base, []), logits(base))


def test_the_weight_of_an_adapter_with_a_copy_of_the_embedding(base):
    # The head is linear, and all that this adapter changes.
    close(logits(base, [(DATA / "head", 0.25)]), 0.75 * logits(base) + 0.25 * LOGITS["head"])


def test_what_was_prepared_for_rows_is_not_kept(base):
    checkpoint = open_checkpoint(base, adapter=DATA / "untied")
    checkpoint.read_rows("wte.weight", 0, 3)
    checkpoint.read_rows("lm_head.weight", 0, 3)
    assert list(checkpoint._prepared) == ["lm_head.weight"]
    checkpoint.read_rows("lm_head.weight", 3, 11)
    assert not checkpoint._prepared


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("base_model.model."),
        lambda name: name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
        lambda name: name.replace("base_model.model.transformer.", "base_model.model."),
    ],
)
def test_other_spellings_of_names(rename, base, copy):
    def renamed(tensors):
        return {rename(name): array for name, array in tensors.items()}

    close(logits(base, copy("attention", renamed)), LOGITS["attention"])


def test_settings_that_do_not_matter(base, copy):
    folder = copy(
        target_modules=["anything"],
        lora_dropout=0.5,
        fan_in_fan_out=False,
        inference_mode=False,
        unheard_of={},
    )
    close(logits(base, folder), LOGITS["attention"])


@pytest.mark.oracle
@pytest.mark.parametrize("name", KINDS)
def test_beside_peft(name, tmp_path):
    pytest.importorskip("peft")
    sys.path.insert(0, str(DATA))
    import make_adapters as made

    kind = made.KINDS[name]
    folder = made.base_of(tmp_path / "base", kind.get("_untied", False))
    model = made.trained(name, folder)
    made.save(model, tmp_path / "adapter", kind)
    close(logits(folder, tmp_path / "adapter"), made.logits(model))


# ---- where adapters and bases are


def test_an_adapter_alone_finds_its_base(base, copy, monkeypatch):
    for place in ("../base", str(base)):
        close(logits(copy(base_model_name_or_path=place)), LOGITS["attention"])
    monkeypatch.chdir(base.parent)
    close(logits("adapter"), LOGITS["attention"])
    close(logits(copy("added_biases"), [(DATA / "attention", 0)]), LOGITS["added_biases"])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no/such/place", r"is a LoRA adapter for 'no/such/place', which does not exist; give the base:"),
        (None, r"is a LoRA adapter that does not name its base; give it:"),
        (".", r", which is also an adapter"),
        ("..", r"its base cannot be opened: .* has no config.json"),
    ],
)
def test_a_base_that_is_not_there(place, message, base, copy):
    folder = copy(base_model_name_or_path=place)
    with pytest.raises(CheckpointError, match=message) as error:
        GPT2.from_pretrained(folder)
    assert re.search("give (it|the base): from_|the base is elsewhere, give it: from_", str(error.value))
    advice = f"from_pretrained(BASE, adapter={str(folder)!r})"
    assert advice in str(error.value)
    close(
        eval(f"GPT2.{advice}", {"BASE": base, "GPT2": GPT2}).forward(IDS, logits_to_keep=0),
        LOGITS["attention"],
    )


def test_the_tokenizer_of_the_adapter_counts(base, copy):
    pytest.importorskip("tokenizers")
    words = {"h": 0, "i": 1, "hi": 2, "<|endoftext|>": 3}
    folder = copy()
    assert not GPT2.from_pretrained(base, adapter=folder).has_tokenizer
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\nh i\n")
    assert list(GPT2.from_pretrained(base, adapter=folder).tokenizer.encode("hi")) == [2]


def test_no_adapter_is_the_base(base):
    plain, none = GPT2.from_pretrained(base), GPT2.from_pretrained(base, adapter=[])
    assert (none.source_sha256(), none.name, none.notes) == (plain.source_sha256(), plain.name, plain.notes)


def test_notes_name_and_hash(base, monkeypatch):
    def loaded(*adapters):
        return GPT2.from_pretrained(base, adapter=list(adapters))

    one = loaded((DATA / "attention", 0.7))
    assert f"adapter {DATA / 'attention'}: rank 3 on 2 matrices, weight 0.7" in one.notes
    assert one.name == f"{base} + {DATA / 'attention'}"
    monkeypatch.chdir(DATA)
    assert GPT2.from_pretrained(base, adapter="attention").name == f"{base} + attention"
    hashes = [
        model.source_sha256()
        for model in (GPT2.from_pretrained(base), one, loaded(DATA / "attention"), loaded(DATA / "gaussian"))
    ]
    assert len({*hashes}) == 4
    assert hashes[1] == loaded((DATA / "attention", 0.7)).source_sha256()
    notes = loaded(DATA / "more_embeddings").notes
    assert "the adapter changes the vocabulary from 11 to 13 tokens" in notes
    assert any("tied in the base: they are separate now, as in" in note for note in notes)


def test_the_hash_does_not_depend_on_names_of_folders(base, copy):
    folder, found = copy(), []
    for name in ("a", "z"):  # before and behind the adapter's
        shutil.copytree(base, base.parent / name)
        found.append(GPT2.from_pretrained(base.parent / name, adapter=folder).source_sha256())
    assert found[0] == found[1]


def test_counts_in_notes(base, copy):
    assert any("on 4 matrices, 4 biases, weight 1" in n for n in notes_with(base, DATA / "added_biases"))
    one = copy(change=lambda tensors: {**tensors, f"{C_ATTN}.lora_B.bias": np.ones(18, np.float32)})
    assert any("on 2 matrices, 1 bias, weight 1" in n for n in notes_with(base, one))


def notes_with(source, adapter=None):
    return GPT2.from_pretrained(source, adapter=adapter).notes


def test_whether_an_adapter_beside_the_weights_counts_has_to_be_said(base, copy):
    folder = copy()
    shutil.copytree(base, folder, dirs_exist_ok=True)
    with pytest.raises(CheckpointError) as error:
        GPT2.from_pretrained(folder)
    assert (
        f"adapter={str(folder)!r} (--adapter {folder}) merges it; adapter=[] in Python, or removing "
        f"adapter_config.json, loads only the weights"
    ) in str(error.value)
    np.testing.assert_array_equal(logits(folder, []), logits(base))
    np.testing.assert_array_equal(logits(folder / "model.safetensors"), logits(base))
    close(logits(folder, folder), LOGITS["attention"])
    close(logits(folder, [DATA / "attention"]), LOGITS["attention"])
    alone = GPT2.from_pretrained(folder, adapter=[])
    assert np.array_equal(pickle.loads(pickle.dumps(alone)).forward(IDS), alone.forward(IDS))


def test_an_adapter_is_given_once(base, copy, monkeypatch):
    folder = copy(base_model_name_or_path=str(base))
    monkeypatch.chdir(folder.parent)
    for source, given in (
        (base, [("adapter", 1), (str(folder), 0.5)]),
        (folder, ("../" + folder.parent.name + "/adapter", 0.5)),
    ):
        with pytest.raises(
            ValueError, match=r"is given twice, .* give it once, with the base and the weight 1\.5"
        ):
            GPT2.from_pretrained(source, adapter=[*given] if source == base else [given])


def test_a_pattern_of_many_layers(base, copy):
    layers = "|".join(map(str, range(48)))
    folder = copy(r=9, rank_pattern={rf".*\.h\.({layers})\.attn\..*": 3}, lora_alpha=8)
    close(logits(base, folder), LOGITS["attention"])


def test_packed_and_pickled(base, tmp_path, monkeypatch):
    monkeypatch.chdir(DATA)
    model = GPT2.from_pretrained(base, adapter={"attention": 1})
    monkeypatch.chdir(tmp_path)
    expected = model.forward(IDS, logits_to_keep=0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).forward(IDS, logits_to_keep=0), expected)
    model.save(tmp_path / "model.gpt2c")
    np.testing.assert_array_equal(logits(tmp_path / "model.gpt2c"), expected)
    with pytest.raises(ValueError, match="is a packed file, and adapters cannot be merged into it: give the"):
        logits(tmp_path / "model.gpt2c", DATA / "attention")


def test_the_command_line(base, tmp_path):
    folder = tmp_path / "a=1"
    shutil.copytree(DATA / "attention", folder)
    command = [sys.executable, "-m", "gpt2c", "info", "-m", str(base)]
    for words, note in (
        ([str(folder)], f"adapter {folder}: rank 3 on 2 matrices, weight 1"),
        ([f"{folder}=-0.5"], f"adapter {folder}: rank 3 on 2 matrices, weight -0.5"),
        ([f"{folder}=.5", str(DATA / "regex")], f"adapter {DATA / 'regex'}: rank 3 on 2 matrices, weight 1"),
    ):
        options = [part for word in words for part in ("--adapter", word)]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
        assert note in done.stdout


@pytest.mark.parametrize("weight", ["abc", "", "0,5"])
def test_weights_on_the_command_line(weight, base):
    given = f"{DATA / 'attention'}={weight}"
    command = [sys.executable, "-m", "gpt2c", "info", "-m", str(base), "--adapter", given]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and f"the weight of adapter '{DATA / 'attention'}' is '{weight}'" in done.stderr


def test_a_weight_in_the_wrong_place(base):
    with pytest.raises(TypeError, match=r"; put a pair into a list: adapter=\[\('a', 0\.5\)\]"):
        GPT2.from_pretrained(base, adapter=("a", 0.5))
    with pytest.raises(CheckpointError, match=r"is named .*=0\.5.* -m BASE --adapter .*=0\.5"):
        GPT2.from_pretrained(f"{DATA / 'attention'}=0.5")
    with pytest.raises(CheckpointError, match=r"--adapter DIR or --adapter DIR=WEIGHT"):
        GPT2.from_pretrained(base, adapter="a,b")


def test_plain_models_import_nothing_of_this(base):
    code = (
        f"import sys, gpt2c; gpt2c.GPT2.from_pretrained({str(base)!r});"
        "print([name for name in sys.modules if 'adapter' in name or 'merging' in name or 'deltas' in name])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("gpt2c.checkpoint.deltas._BLOCK", 2**14)
    values = TINY | {"n_embd": 64, "n_inner": 256, "vocab_size": 40_000}
    write_model(tmp_path / "base", values)
    rng = np.random.default_rng(0)
    tensors = {
        "transformer.wte.lora_embedding_A": rng.standard_normal((3, 40_000), np.float32),
        "transformer.wte.lora_embedding_B": rng.standard_normal((64, 3), np.float32),
    }
    folder = tmp_path / "adapter"
    shutil.copytree(DATA / "attention", folder)
    (folder / FILE).write_bytes(safetensors_bytes(tensors))
    checkpoint = open_checkpoint(tmp_path / "base", adapter=folder)
    expected = tiny_tensors(values)["wte.weight"].astype(np.float64)
    a, b = (array.astype(np.float64) for array in tensors.values())
    expected += 8 / 3 * (b @ a).T
    tracemalloc.start()
    found = checkpoint.read("wte.weight")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    assert peak < 1.2 * found.nbytes


# ---- what is refused


@pytest.mark.parametrize(
    "settings",
    [
        {"peft_type": "IA3"},
        {"peft_type": "PREFIX_TUNING"},
        {"peft_type": None},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "loftq"},
        {"init_lora_weights": 1.5},
        {"layer_replication": [[0, 2]]},
        {"alora_invocation_tokens": [1]},
        {"use_qalora": True},
        {"target_parameters": ["x"]},
        {"megatron_config": {"x": 1}},
        {"an_invention": "yes"},
    ],
    ids=str,
)
def test_what_only_peft_does(settings, base, copy):
    key, value = next(iter(settings.items()))
    with pytest.raises(CheckpointError, match=f"{CONFIG} says {key} ") as error:
        logits(base, copy(**settings))
    assert repr(value) in str(error.value) and "merge_and_unload" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 4}, r"have the shapes \[3, 6\] and \[18, 3\], but adapter_config.json says rank 4"),
        ({"r": 0}, "r is 0; allowed: a number above 0"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
        ({"lora_alpha": 1e40}, "lora_alpha is 1e"),
        ({"use_rslora": 1.5}, "use_rslora is 1.5"),
        ({"rank_pattern": {"c_attn": 2}}, "says rank 2"),
        ({"rank_pattern": {"(a*)*b": 2}}, "a pattern without repeated groups"),
        ({"rank_pattern": {"a*" * 4: 2}}, "and with few repetitions"),
        ({"rank_pattern": {"a?" * 26 + "[^a]": 2}}, "and with few repetitions"),
        ({"rank_pattern": {"(a|a)" * 25: 2}}, "and with few repetitions"),
        ({"rank_pattern": {"[": 2}}, "a regular expression"),
        ({"alpha_pattern": [1]}, "alpha_pattern is"),
        ({"modules_to_save": "wte"}, "modules_to_save is 'wte'; allowed: a list of texts"),
        ({"trainable_token_indices": [-1]}, "allowed: a list of token ids"),
        ({"use_dora": True}, "says use_dora true, but there is no lora_magnitude_vector for"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3; allowed: a text"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(settings, message, base, copy):
    with pytest.raises(CheckpointError, match=message):
        logits(base, copy(**settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{C_ATTN}.lora_B.weight": None}, "has '.*c_attn.lora_A.weight', but not the lora_B.weight for it"),
        ({f"{C_ATTN}.lora_A.weight": None}, "has '.*c_attn.lora_B.weight', but not the lora_A.weight for it"),
        ({f"{C_ATTN}.lora_A.bias": np.ones(3)}, "c_attn.lora_A.bias' does not belong to a LoRA adapter"),
        ({"transformer.wte.lora_embedding_B": np.ones((6, 3))}, "but not the lora_embedding_A for it"),
        ({"transformer.h.0.ln_1.lora_magnitude_vector": np.ones(6)}, "but not the lora_A.weight for it"),
        ({"x.y": np.ones(3)}, "tensor 'x.y' does not belong to a LoRA adapter"),
        (
            {f"{C_ATTN}.lora_C.weight": np.ones(3)},
            "changes 'h.0.attn.c_attn.lora_C.weight', which the base does",
        ),
        ({f"{C_ATTN}.lora_A.weight": np.ones((3, 7))}, r"of shape \[7, 18\], but the base's has \[6, 18\]"),
        ({f"{C_ATTN}.lora_B.weight": np.ones((17, 3))}, r"of shape \[6, 17\], but the base's has \[6, 18\]"),
        ({f"{C_ATTN}.lora_A.weight": np.ones(3)}, r"have the shapes \[3\] and"),
        ({f"{C_ATTN}.lora_A.weight": np.full((3, 6), np.nan)}, "c_attn.lora_A.weight' has NaN or infinity"),
        (
            {f"{C_ATTN}.lora_A.weight": np.full((3, 6), 1e38)},
            "h.0.attn.c_attn.weight has NaN or infinity after merging",
        ),
        ({f"{C_ATTN}.lora_magnitude_vector": np.ones(18)}, "says use_dora false, but there is"),
        ({f"{C_ATTN}.lora_A.other.weight": np.ones((3, 6))}, "but only one of them can apply"),
        ({"transformer.h.2.attn.c_attn.weight": np.ones((6, 18))}, "changes 'h.2.attn.c_attn.weight', which"),
        (
            {"h.0.attn.c_attn.lora_A.weight": np.ones((3, 6))},
            "a module twice, as 'transformer.h.0.attn.c_attn' and as 'h.0.attn.c_attn'",
        ),
        ({"a" * 200 + ".weight": np.ones(3)}, "does not belong to a LoRA adapter"),
        (
            {"transformer.ln_f.weight": np.ones(7)},
            r"has the shape \[7\], but the model needs \[6\]: the adapter is",
        ),
        ({f"{C_ATTN}.lora_B.bias": np.ones(17)}, r"has the shape \[17\]; \[18\] is needed"),
        ({"transformer.wte.token_adapter.trainable_tokens_delta": np.ones((1, 6))}, r"\[0, 6\] is needed"),
        (
            {"base_model.model.score.weight": np.ones((2, 6))},
            "changes 'score.weight', which the base does not have",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_tensors_that_do_not_fit(change, message, base, copy):
    def apply(tensors):
        return {name: array for name, array in {**tensors, **change}.items() if array is not None}

    with pytest.raises(CheckpointError, match=message):
        logits(base, copy("attention", apply))


@pytest.mark.parametrize("rows", [[5, 5], [5, 11], [5]], ids=str)
def test_rows_that_cannot_be(rows, base, copy):
    with pytest.raises(CheckpointError, match=r"different rows, below 11|\[1, 6\] is needed"):
        logits(base, copy("rows", trainable_token_indices=rows))


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ([("dora", 0.5)], "uses DoRA"),
        ([("dora", 1), ("attention", 1)], "uses DoRA"),
        ([("saved", 0.5)], "replaces .* with a weight other than 1"),
        ([("rows", 0.5)], "replaces wte.weight with a weight other than 1"),
        ([("biases", 1), ("own_biases", 1)], "replaces h.0.attn.c_attn.bias as .* does"),
        ([("rows", 1), ("head", 1)], "replaces wte.weight as|replaces tokens of a model whose"),
    ],
    ids=str,
)
def test_adapters_that_do_not_go_together(adapters, message, base):
    with pytest.raises(CheckpointError, match=message):
        logits(base, [(DATA / name, weight) for name, weight in adapters])


def test_the_base_is_another_model(tmp_path, copy):
    write_model(tmp_path / "base", TINY | {"n_embd": 8})
    with pytest.raises(CheckpointError, match="the adapter is for another base, 'base'"):
        logits(tmp_path / "base", copy())
    with pytest.raises(CheckpointError, match="changes the embedding or the head with ensure_weight_tying"):
        write_model(tmp_path / "tied")
        logits(tmp_path / "tied", copy("embeddings", ensure_weight_tying=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"modules_to_save": ["ln_f"]},
            "says modules_to_save 'ln_f', but its weights do not have it",
        ),
        ({"modules_to_save": ["lm_head"]}, "says modules_to_save 'lm_head'"),
        ({"trainable_token_indices": [1]}, "has trainable_token_indices, but .* holds no such tokens"),
    ],
    ids=str,
)
def test_tensors_that_are_missing(settings, message, base, copy):
    with pytest.raises(CheckpointError, match=message):
        logits(base, copy(**settings))


def test_an_adapter_of_nothing(base, copy):
    with pytest.raises(CheckpointError, match="is empty"):
        logits(base, copy("attention", lambda tensors: {}))
    # Those of classifiers are named whatever the model is.
    close(logits(base, copy(modules_to_save=["classifier", "score"])), LOGITS["attention"])


def test_files_that_are_missing(base, copy):
    folder = copy()
    (folder / FILE).unlink()
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors and no adapter_model\.bin"):
        logits(base, folder)
    for given in (folder / CONFIG, DATA / "attention" / FILE):
        with pytest.raises(CheckpointError, match=f"give the directory {given.parent}"):
            logits(base, given)
    with pytest.raises(CheckpointError, match="holds a LoRA adapter: give this directory"):
        logits(DATA / "attention" / FILE)
    with pytest.raises(CheckpointError, match="is not an adapter: that is a directory with"):
        logits(base, base)
    with pytest.raises(CheckpointError, match="no adapter is named 'no/such/place'"):
        logits(base, "no/such/place")


@pytest.mark.parametrize("given", [3, [3], [("a", "b")], [("a", 1, 2)], [("a", True)], ["a", 0.5]], ids=str)
def test_what_is_no_adapter(given, base):
    with pytest.raises((TypeError, ValueError), match="adapter"):
        logits(base, given)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(weight, base):
    with pytest.raises(ValueError, match="the weight of adapter"):
        logits(base, [(DATA / "attention", weight)])


def test_a_file_that_changes_while_it_is_read(base, copy):
    folder = copy()
    checkpoint = open_checkpoint(base, adapter=folder)
    with pytest.raises(CheckpointError, match="was changed or replaced"), checkpoint.loading():
        (folder / FILE).write_bytes((folder / FILE).read_bytes() + b"x")
