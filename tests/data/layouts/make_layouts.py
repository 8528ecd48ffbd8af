"""Makes models in the layouts of some years, with the logits of the programs that wrote them: logits.npz.

    pip install torch==2.13.0 transformers==4.57.6 numpy
    pip install --no-deps pytorch-pretrained-bert==0.6.2 boto3 botocore jmespath s3transfer
    python tests/data/layouts/make_layouts.py

2019: a GPT2LMHeadModel of pytorch-pretrained-bert, the first to run GPT-2 in torch: its head is
lm_head.decoder, masks are float32. masks: a GPT2Model as versions 2 to 4 of transformers stored it, without
a prefix and in the older stream: masks are float32, uint8 and bool here, a layer each, with their
masked_bias. cerebras: what the model card of Cerebras-GPT says (https://huggingface.co/cerebras/Cerebras-
GPT-111M: 2,048 positions, an inner size of 4 times the width) in the fields of transformers 4.27, with the
exact GELU, in float16; the other sizes are small.
"""

import collections
import json
from pathlib import Path

import numpy as np
import torch
from pytorch_pretrained_bert import modeling_gpt2
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).parent
IDS = [3, 1, 4, 1, 5, 9, 2, 6]
TINY = {"n_layer": 3, "n_head": 2, "n_embd": 6, "n_positions": 12, "vocab_size": 17}


def randomised(model):
    torch.manual_seed(3)
    for tensor in model.parameters():
        torch.nn.init.normal_(tensor, std=0.3)
    return model.eval()


def write(name, state, config, file="pytorch_model.bin", **how):
    (HERE / name).mkdir(exist_ok=True)
    (HERE / name / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    torch.save(state, HERE / name / file, **how)


def of_2019():
    sizes = {"vocab_size_or_config_json_file": TINY["vocab_size"], "n_ctx": TINY["n_positions"]}
    sizes |= {name: size for name, size in TINY.items() if name != "vocab_size"}
    config = modeling_gpt2.GPT2Config(**sizes)
    model = randomised(modeling_gpt2.GPT2LMHeadModel(config))
    written = {
        name: getattr(config, name) for name in (*TINY, "n_ctx", "layer_norm_epsilon", "initializer_range")
    }
    write("2019", model.state_dict(), written, _use_new_zipfile_serialization=False)
    return model(torch.tensor([IDS]))[0][0]


def with_masks():
    model = randomised(GPT2LMHeadModel(GPT2Config(**TINY, bos_token_id=1, eos_token_id=2)))
    state = collections.OrderedDict(model.transformer.state_dict())
    for layer, dtype in enumerate((torch.float32, torch.uint8, torch.bool)):
        n = TINY["n_positions"]
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, n, n).tril().to(dtype)
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    config = TINY | {"n_ctx": TINY["n_positions"], "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    config |= {"bos_token_id": 1, "eos_token_id": 2, "resid_pdrop": 0.1, "summary_type": "cls_index"}
    write("masks", state, config, _use_new_zipfile_serialization=False)
    return model(torch.tensor([IDS])).logits[0]


def cerebras():
    config = {
        "activation_function": "gelu",
        "architectures": ["GPT2Model"],
        "attn_pdrop": 0.0,
        "bos_token_id": 16,
        "embd_pdrop": 0.0,
        "eos_token_id": 16,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_embd": 4,
        "n_head": 2,
        "n_inner": 16,
        "n_layer": 2,
        "n_positions": 2048,
        "reorder_and_upcast_attn": False,
        "resid_pdrop": 0.0,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "torch_dtype": "float16",
        "transformers_version": "4.27.0",
        "use_cache": True,
        "vocab_size": 17,
    }
    model = randomised(GPT2LMHeadModel(GPT2Config(**config))).half()
    write("cerebras", model.transformer.state_dict(), config)
    return model.double()(torch.tensor([IDS])).logits[0]


def main():
    torch.set_grad_enabled(False)
    found = {"2019": of_2019(), "masks": with_masks(), "cerebras": cerebras()}
    np.savez_compressed(HERE / "logits.npz", ids=np.array(IDS), **{k: v.numpy() for k, v in found.items()})


if __name__ == "__main__":
    main()
