"""Makes the files beside it, with PEFT: adapters of a tiny GPT-2, and the logits with them.

    pip install peft==0.21.2 torch==2.13.0 transformers==4.57.6 accelerate
    python tests/data/peft/make_adapters.py

NAME/ is an adapter as save_pretrained writes it; NAME of logits.npz has the logits of the model that was
saved, with the adapter beside the weights, as in training ("two": of two adapters). It is checked that
merge_and_unload() gives the same, but where it changes an embedding and a head that are tied.
"""

import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from helpers.tiny_checkpoints import TINY, write_model  # noqa: E402

IDS = [1, 5, 10, 0, 3, 3, 7, 2]
DENSE = ["c_attn", "c_proj", "c_fc"]
# What is trained; "_" begins what is not LoraConfig's.
KINDS = {
    "attention": {"target_modules": ["c_attn"]},
    "dense": {"target_modules": "all-linear", "lora_alpha": 5},
    "regex": {"target_modules": r".*h\.1\.mlp\.c_(fc|proj)", "use_rslora": True},
    "layers": {"target_modules": DENSE, "layers_to_transform": [1], "layers_pattern": "h"},
    "patterns": {
        "target_modules": DENSE,
        "rank_pattern": {"attn.c_proj": 2, r"h\.1\.mlp\.c_fc": 4, "proj": 5},
        "alpha_pattern": {r"^transformer\.h\.0\.attn\.c_attn": 32, "c_proj": 3},
    },
    "dora": {"target_modules": DENSE, "use_dora": True},
    "dora_embeddings": {"target_modules": ["wte", "wpe"], "use_dora": True},
    "dora_head": {"target_modules": ["lm_head"], "use_dora": True},
    "embeddings": {"target_modules": ["wte", "wpe", "c_attn"]},
    "positions": {"target_modules": ["wpe"]},
    "head": {"target_modules": ["lm_head"]},
    "embedding_and_head": {"target_modules": ["wte", "lm_head"]},
    "untied": {"target_modules": ["wte", "lm_head"], "_untied": True},
    "biases": {"target_modules": ["c_attn"], "bias": "all"},
    "own_biases": {"target_modules": ["c_attn", "c_proj"], "bias": "lora_only"},
    "added_biases": {"target_modules": ["c_attn", "c_fc"], "lora_bias": True},
    "saved": {"target_modules": ["c_attn"], "modules_to_save": ["wte", "lm_head", "ln_f"]},
    "saved_embedding": {"target_modules": ["c_attn"], "modules_to_save": ["wte"]},
    "saved_head": {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]},
    "saved_more": {"target_modules": ["c_attn"], "modules_to_save": ["wte", "lm_head"], "_tokens": 13},
    "rows": {"target_modules": ["c_attn"], "trainable_token_indices": [5, 1]},
    "rows_of": {"target_modules": ["c_attn"], "trainable_token_indices": {"wte": [3], "wpe": [2, 0]}},
    "more_rows": {"target_modules": ["c_attn"], "trainable_token_indices": [12, 3], "_tokens": 13},
    "more_tokens": {"target_modules": ["c_attn"], "_tokens": 13},
    "more_embeddings": {"target_modules": ["wte"], "_tokens": 13},
    "fewer_head": {"target_modules": ["lm_head"], "_tokens": 11, "_shifted": True},
    "half": {"target_modules": DENSE, "_dtype": torch.float16},
    "bfloat": {"target_modules": DENSE, "_dtype": torch.bfloat16, "_bin": True},
    "classifier": {"target_modules": ["c_attn", "wte"], "task_type": "SEQ_CLS"},
    "tagger": {"target_modules": ["c_fc"], "task_type": "TOKEN_CLS"},
    "gaussian": {"target_modules": ["c_attn"], "init_lora_weights": "gaussian", "_bin": True},
}
# Here merging changes what the head does, as it is the embedding too.
UNLIKE = {"embeddings", "dora_embeddings", "dora_head", "head", "embedding_and_head"}
UNLIKE |= {"more_embeddings", "fewer_head"}
HEADS = {"SEQ_CLS": "GPT2ForSequenceClassification", "TOKEN_CLS": "GPT2ForTokenClassification"}


def base_of(folder, untied=False):
    """The base, with which tests begin too."""
    write_model(folder, TINY | ({"tie_word_embeddings": False} if untied else {}))
    return folder


def trained(name, base):
    """A model of PEFT of this kind, with random values wherever training could put any."""
    import transformers
    from peft import LoraConfig, get_peft_model

    kind = KINDS[name]
    torch.manual_seed(len(name))
    head = HEADS.get(kind.get("task_type"))
    if head:
        model = getattr(transformers, head).from_pretrained(base, num_labels=3, pad_token_id=11)
    else:
        model = transformers.GPT2LMHeadModel.from_pretrained(base)
    if "_tokens" in kind:
        model.resize_token_embeddings(kind["_tokens"], mean_resizing=False)
    options = {"r": 3, "lora_alpha": 8, "task_type": "CAUSAL_LM", "init_lora_weights": False}
    options |= {key: value for key, value in kind.items() if not key.startswith("_")}
    model = get_peft_model(model, LoraConfig(**options))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.requires_grad or ".lora_" in parameter_name:
                parameter += 0.3 * torch.randn_like(parameter)
            if kind.get("_dtype") and ".lora_" in parameter_name:
                parameter.data = parameter.data.to(kind["_dtype"]).float()
        if kind.get("_shifted"):  # the base's own, kept beside an adapter of it
            model.base_model.model.lm_head.base_layer.weight += 0.25
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float().numpy()


def save(model, folder, kind):
    """Save an adapter; in other numbers, as training in them leaves it."""
    model.save_pretrained(folder, safe_serialization="_bin" not in kind)
    if "_dtype" in kind:
        from safetensors.torch import load_file, save_file

        path = folder / ("adapter_model.bin" if "_bin" in kind else "adapter_model.safetensors")
        tensors = torch.load(path, weights_only=True) if "_bin" in kind else load_file(path)
        tensors = {key: tensor.to(kind["_dtype"]) for key, tensor in tensors.items()}
        (torch.save if "_bin" in kind else save_file)(tensors, path)
    (folder / "README.md").unlink(missing_ok=True)
    config = folder / "adapter_config.json"
    values = json.loads(config.read_text()) | {"base_model_name_or_path": "base"}
    if isinstance(values["target_modules"], list):
        values["target_modules"].sort()  # a set in PEFT
    config.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def two(base):
    """A model with two adapters, of weights 0.5 and -1.5."""
    from peft import PeftModel
    from transformers import GPT2LMHeadModel

    model = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base), HERE / "added_biases", "first")
    model.load_adapter(HERE / "patterns", "second")
    model.base_model.set_adapter(["first", "second"])
    for module in model.modules():
        for adapter, weight in (("first", 0.5), ("second", -1.5)):
            if adapter in getattr(module, "scaling", ()):
                module.scaling[adapter] *= weight
    return model.eval()


def main():
    warnings.simplefilter("ignore")
    found = {}
    with tempfile.TemporaryDirectory() as place:
        bases = {untied: base_of(Path(place) / f"base{untied}", untied) for untied in (False, True)}
        for name, kind in KINDS.items():
            model = trained(name, bases[kind.get("_untied", False)])
            folder = HERE / name
            shutil.rmtree(folder, ignore_errors=True)
            save(model, folder, kind)
            found[name] = logits(model)
            merged = logits(model.merge_and_unload())
            close = np.abs(merged - found[name]).max() < 1e-4
            assert close == (name not in UNLIKE), name
        found["two"] = logits(two(bases[False]))
    np.savez_compressed(HERE / "logits.npz", **found)


if __name__ == "__main__":
    main()
