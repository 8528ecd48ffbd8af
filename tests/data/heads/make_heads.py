"""Makes the files beside it, with transformers (eager, float32): what heads of a tiny GPT-2 say.

    pip install torch==2.13.0 transformers==4.57.6 numpy
    python tests/data/heads/make_heads.py

tensors.npz: the weights of the body and of every head. vocab.json, merges.txt: a byte for a token.
with_suffix.json: the same with <|endoftext|> behind every text. heads.json: the configuration of each head,
texts and what pipelines say of them. expected.npz: token ids of lengths from 1 to 1,024, logits, embeddings.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from helpers.tiny_checkpoints import safetensors_bytes, tiny_tensors  # noqa: E402

BODY = {
    "model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "n_inner": 12, "n_positions": 1024,
    "vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256,
}  # fmt: skip
LABELS = {"2": "great", "0": "bad", "1": "so-so"}
TAGS = {"0": "O", "1": "B-PER", "2": "I-PER", "3": "B-LOC", "4": "I-LOC"}
CASES = {
    "single": ("ForSequenceClassification", {"id2label": LABELS}),
    "padded": ("ForSequenceClassification", {"pad_token_id": 256}),
    "multi": ("ForSequenceClassification", {
        "id2label": {str(i): f"topic {i}" for i in range(4)}, "problem_type": "multi_label_classification",
        "activation_function": "relu", "scale_attn_by_inverse_layer_idx": True,
    }),
    "number": ("ForSequenceClassification", {"id2label": {"0": "stars"}, "problem_type": "regression"}),
    "numbers": ("ForSequenceClassification", {
        "id2label": {"0": "x", "1": "y"}, "problem_type": "regression",
    }),
    "one": ("ForSequenceClassification", {"id2label": {"0": "spam"}}),
    "tokens": ("ForTokenClassification", {"id2label": TAGS}),
    "choice": ("DoubleHeadsModel", {}),
    "tanh": ("DoubleHeadsModel", {"summary_activation": "tanh", "summary_type": "last"}),
}  # fmt: skip
LENGTHS = (1, 2, 7, 8, 9, 64, 65, 255, 512, 513, 700, 1023, 1024)
OF_TAGS = (1, 5, 64, 200)
TEXTS = ["a", "The king had three daughters.", "Où est   l'été ?", "東京 Paris\nLondon " * 4]


def config_of(name):
    kind, more = CASES[name]
    return BODY | {"architectures": [f"GPT2{kind}"]} | more


def tensors():
    body = tiny_tensors(BODY, seed=18)
    found = {name: array * (1 if array.ndim == 1 else 0.4) for name, array in body.items()}
    found["ln_f.bias"] *= 0.1  # or one label would always win
    rng = np.random.default_rng(9)
    for name, (kind, more) in CASES.items():
        n = len(more.get("id2label", "01"))
        shapes = {
            "ForSequenceClassification": {"score.weight": (n, 8)},
            "ForTokenClassification": {"classifier.weight": (n, 8), "classifier.bias": (n,)},
            "DoubleHeadsModel": {
                "multiple_choice_head.summary.weight": (1, 8),
                "multiple_choice_head.summary.bias": (1,),
            },
        }[kind]
        for part, shape in shapes.items():
            found[f"{name}/{part}"] = rng.standard_normal(shape).astype(np.float32)
    # A head that gives several labels.
    found["tokens/classifier.weight"] = 2 * np.random.default_rng(2).standard_normal((5, 8)).astype(
        np.float32
    )
    return found


def write_folder(folder, name, arrays, architecture=None):
    """A folder as transformers saves it: the body and one head."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(name) | ({"architectures": [architecture]} if architecture else {})
    (folder / "config.json").write_text(json.dumps(config))
    stored = {f"transformer.{key}": array for key, array in arrays.items() if "/" not in key}
    head = {
        key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")
    }
    data = safetensors_bytes(stored | head, __metadata__={"format": "pt"})
    (folder / "model.safetensors").write_bytes(data)
    for file in ("vocab.json", "merges.txt"):
        (folder / file).write_bytes((HERE / file).read_bytes())


def write_tokenizers():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(letters)} | {"<|endoftext|>": 256}
    (HERE / "vocab.json").write_text(json.dumps(vocab))
    (HERE / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 256)]
    )
    tokenizer.save(str(HERE / "with_suffix.json"), pretty=False)


def load(folder, name):
    import torch
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, config_of(name)["architectures"][0])
    model, info = cls.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"]:
        raise SystemExit(f"{name}: {info}")
    return model.eval()


def logits_of(model, ids, **more):
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(ids, dtype=torch.long), **more)


def of_lengths(folder, name, texts):
    """What is expected for token ids: name -> array."""
    import torch

    model = load(folder, name)
    if name == "single":
        found = {"single": [logits_of(model, [ids]).logits[0].numpy() for ids in texts.values()]}
        with torch.no_grad():
            states = [
                model.transformer(torch.tensor([ids], dtype=torch.long)).last_hidden_state[0]
                for ids in texts.values()
            ]
        found["mean"] = [state.mean(0).numpy() for state in states]
        return found | {"last": [state[-1].numpy() for state in states]}
    if name == "padded":
        most = max(map(len, texts.values()))
        rows = [[*ids, *[256] * (most - len(ids))] for ids in texts.values()]
        mask = torch.tensor([[1] * len(ids) + [0] * (most - len(ids)) for ids in texts.values()])
        found = {"padded": list(logits_of(model, rows, attention_mask=mask).logits.numpy())}
        odd = [logits_of(model, [ids]).logits[0].numpy() for ids in WITH_PADS]
        return found | {"with pads": odd}
    if name == "multi":
        return {"multi": [logits_of(model, [ids]).logits[0].numpy() for ids in texts.values()]}
    if name == "tokens":
        return {f"tokens {n}": logits_of(model, [random_ids(n)]).logits[0].numpy() for n in OF_TAGS}
    some = [random_ids(n) for n in (3, 9, 5)]
    if name == "tanh":  # of rows of choices, its "last" means another axis
        return {"tanh": np.concatenate([logits_of(model, [ids]).mc_logits.numpy().ravel() for ids in some])}
    if name == "choice":
        rows = [[[*ids, *[0] * (9 - len(ids))] for ids in some]]
        last = torch.tensor([[len(ids) - 1 for ids in some]])
        return {name: logits_of(model, rows, mc_token_ids=last).mc_logits[0].numpy()}
    return {}


WITH_PADS = [[1, 2, 256, 3], [1, 2, 3, 256, 256], [256, 256, 7], [256, 256], [4, 256, 5, 256]]


def random_ids(n):
    return np.random.default_rng(n).integers(256, size=n).tolist()


def of_texts(folder, name):
    """What the pipelines say of TEXTS, and of them with a suffix."""
    from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast, pipeline

    plain = GPT2TokenizerFast.from_pretrained(folder)
    file = str(HERE / "with_suffix.json")
    names = ["input_ids", "attention_mask"]  # of types of tokens, GPT-2 would add the embedding
    suffixed = PreTrainedTokenizerFast(
        tokenizer_file=file, eos_token="<|endoftext|>", model_input_names=names
    )
    model, found = load(folder, name), {}
    for key, tokenizer in (("plain", plain), ("suffixed", suffixed)):
        if name == "tokens":
            for how in ("none", "simple"):
                options = {"aggregation_strategy": how, "ignore_labels": [] if how == "none" else None}
                run = pipeline("token-classification", model=model, tokenizer=tokenizer, **options)
                found[f"{key} {how}"] = [[numbers(one) for one in run(text)] for text in TEXTS]
        elif name in ("single", "multi", "number", "numbers", "one"):
            run = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
            found[key] = [{one["label"]: one["score"] for one in run([text])[0]} for text in TEXTS]
    return found


def numbers(entity):
    return {key: value.item() if hasattr(value, "item") else value for key, value in entity.items()}


def main():
    write_tokenizers()
    arrays = tensors()
    np.savez_compressed(HERE / "tensors.npz", **arrays)
    texts = {n: random_ids(n) for n in LENGTHS}
    expected, told = {}, {"cases": {}, "texts": TEXTS, "with_pads": WITH_PADS, "lengths": LENGTHS}
    with tempfile.TemporaryDirectory() as directory:
        for name in CASES:
            folder = Path(directory) / name
            write_folder(folder, name, arrays)
            expected |= {key: np.array(value) for key, value in of_lengths(folder, name, texts).items()}
            told["cases"][name] = {"config": config_of(name), "of_texts": of_texts(folder, name)}
    expected |= {f"ids {n}": np.array(random_ids(n), np.uint8) for n in (*LENGTHS, *OF_TAGS, 3, 9, 5)}
    np.savez_compressed(HERE / "expected.npz", **expected)
    (HERE / "heads.json").write_text(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
