"""Small BERTs with tokenizers, as folders of transformers, and texts for them."""

from __future__ import annotations

import json
from pathlib import Path

from data.bert import models
from data.golden.recipe import nearly_normal
from helpers.small_tokenizers import FOLDERS, byte_level
from helpers.tiny_checkpoints import safetensors_bytes

FOLDER = Path(__file__).parent
RECORDED = FOLDER / "faces.json"
POOLINGS = ("mean", "cls", "last", "max", "mean_sqrt_len", "weighted_mean")

WORD_PIECE = FOLDERS["bert"]["tokenizer.json"] | {
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
}
NAMES = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
OF_BERT = {
    "tokenizer.json": WORD_PIECE,
    "tokenizer_config.json": {"tokenizer_class": "BertTokenizerFast", "do_lower_case": True}
    | {f"{key}_token": token for key, token in NAMES.items()},
}

OF_DISTILBERT = OF_BERT | {
    "tokenizer_config.json": OF_BERT["tokenizer_config.json"] | {"tokenizer_class": "DistilBertTokenizerFast"}
}


def _of_roberta() -> dict:
    vocab, merges = byte_level()
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *vocab, "<mask>"]
    return {
        "vocab.json": {token: index for index, token in enumerate(tokens)},
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
    }


def _bytes() -> dict:
    vocab, merges = byte_level()
    tokens = [*vocab, "<|endoftext|>", "[MASK]"]
    return {
        "vocab.json": {token: index for index, token in enumerate(tokens)},
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "mask_token": "[MASK]"},
    }


OF_ROBERTA, BYTES = _of_roberta(), _bytes()
# name -> model_type, class, tokenizer, vocabulary, activation
FACES = {
    "bert": ("bert", "ForMaskedLM", OF_BERT, len(WORD_PIECE["model"]["vocab"])),
    "roberta": ("roberta", "ForMaskedLM", OF_ROBERTA, len(OF_ROBERTA["vocab.json"])),
    "bytes": ("bert", "ForMaskedLM", BYTES, len(BYTES["vocab.json"])),
    "distilbert": ("distilbert", "ForMaskedLM", OF_DISTILBERT, len(WORD_PIECE["model"]["vocab"])),
    "labels": ("bert", "ForSequenceClassification", OF_BERT, len(WORD_PIECE["model"]["vocab"])),
    "roberta labels": ("roberta", "ForSequenceClassification", OF_ROBERTA, len(OF_ROBERTA["vocab.json"])),
    "tags": ("bert", "ForTokenClassification", OF_BERT, len(WORD_PIECE["model"]["vocab"])),
}
MASKS = {"roberta": "<mask>"}
FILLED = ("the {} had a son.", "{} was very fond of his {}, so they went to the {}.", "he {}")
TEXTS = ("the king had a son.", "a horse", "he was very fond of his old horse, so they went to sea", "so")
PAIRS = (
    ("the king had a son.", "he was old"),
    ("a horse", "they went to the sea, and the king was fond of his old son"),
    ("so", "so"),
)
MAX_TOKENS = (7, 8, 9, 12)


def values(name: str) -> dict:
    """The contents of config.json."""
    kind, head, _, n_vocab = FACES[name]
    config = {
        "model_type": kind,
        "architectures": [models.CLASSES[kind] + head],
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "hidden_size": 24,
        "intermediate_size": 40,
        "max_position_embeddings": 40,
        "vocab_size": n_vocab,
        "hidden_act": "gelu",
        "type_vocab_size": 1 if kind == "roberta" else 2,
    }
    if kind == "distilbert":
        named = {"num_hidden_layers": "n_layers", "num_attention_heads": "n_heads", "hidden_size": "dim"}
        named |= {"intermediate_size": "hidden_dim", "hidden_act": "activation"}
        config = {named.get(key, key): value for key, value in config.items() if key != "type_vocab_size"}
    if kind == "roberta":
        config |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    if head == "ForMaskedLM":
        config["tie_word_embeddings"] = True
    else:
        config["id2label"] = {str(i): label for i, label in enumerate(models.LABELS)}
    return config


def tensors(name: str) -> dict:
    """What a file of weights holds, float32."""
    kind, head, *_ = FACES[name]
    body, others = (models.of_distilbert if kind == "distilbert" else models.of_bert)(values(name), head)
    found = {}
    for tensor, shape in (
        {models.PREFIXES[kind] + part: shape for part, shape in body.items()} | others
    ).items():
        numbers = 0.4 * nearly_normal(f"face {name} {tensor}", shape)
        is_gain = "norm" in tensor.lower() and tensor.endswith("weight")
        found[tensor] = (1 + numbers if is_gain else numbers).astype("float32")
    return found


def write(folder: Path, name: str, **config) -> Path:
    """A folder as transformers saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values(name) | config))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors(name)))
    for file, content in FACES[name][2].items():
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def masked(name: str, text: str) -> str:
    """A text of `FILLED` with the model's own masks."""
    return text.replace("{}", MASKS.get(name, "[MASK]"))
