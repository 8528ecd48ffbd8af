"""Small BERTs of every family and head, as transformers stores them: what they are, without what they answer.

Weights are those of golden/recipe.py: the same bits everywhere, so that they need not be kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data.golden.recipe import integers, nearly_normal

FOLDER = Path(__file__).parent
KINDS = ("bert", "roberta", "distilbert", "xlm-roberta")
CLASSES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "xlm-roberta": "XLMRoberta"}
HEADS = ("ForMaskedLM", "ForSequenceClassification", "Model", "ForTokenClassification")
PREFIXES = {"bert": "bert.", "roberta": "roberta.", "distilbert": "distilbert.", "xlm-roberta": "roberta."}
NUMBER = 32
CASES = [f"{KINDS[i % 4]}-{HEADS[i // 4 % 4]}-{i // 16}" for i in range(NUMBER)]
OLD = "bert-ForMaskedLM-1"
WITH_PATTERNS = [name for name in CASES if "-ForMaskedLM-" in name]
LENS = ("bert-ForMaskedLM-1335", "bert-ForMaskedLM-1504")
EDITED = (
    *("embed.hook_embed", "embed.hook_token_type_embed", "embed.ln.hook_normalized", "hook_full_embed"),
    *("blocks.0.hook_q_input", "blocks.0.hook_v_input", "blocks.1.attn.hook_k", "blocks.0.attn.hook_pattern"),
    *("blocks.1.attn.hook_attn_scores", "blocks.0.attn.hook_result", "blocks.0.hook_resid_mid"),
    *("blocks.0.ln1.hook_scale", "blocks.1.mlp.hook_pre", "blocks.0.hook_resid_post"),
    *("blocks.1.ln2.hook_normalized", "blocks.0.hook_normalized_resid_post", "mlm_head.ln.hook_scale"),
)

ACTIVATIONS = ("gelu", "gelu", "gelu_new", "relu", "silu", "quick_gelu", "gelu_fast", "tanh")
LABELS = ("good", "bad", "ugly")


def values(name: str) -> dict:
    """The contents of config.json: random sizes and settings."""
    kind, head, _ = name.rsplit("-", 2)

    def draw(what: str, *options):
        return options[int(integers(f"bert {name} {what}", 1)[0] % np.uint64(len(options)))]

    n_head = draw("heads", 1, 2, 3, 4)
    width = n_head * draw("head_dim", *range(-(-4 // n_head), 11))
    sizes = {
        "layers": draw("layers", 1, 2, 3),
        "heads": n_head,
        "width": width,
        "inner": draw("inner", 1, 7, 16, 33, 4 * width),
        "max_position_embeddings": draw("positions", *range(14, 26)),
        "vocab_size": draw("vocabulary", *range(7, 41)),
    }
    activation = draw("activation", *ACTIVATIONS)
    if "roberta" in kind and head == "ForMaskedLM":
        activation = "gelu"
    keys = {"layers": "num_hidden_layers", "heads": "num_attention_heads", "width": "hidden_size"}
    keys |= {"inner": "intermediate_size"}
    more = {
        "hidden_act": activation,
        "layer_norm_eps": draw("epsilon", 1e-12, 1e-5, 1e-3),
        "type_vocab_size": draw("types", 1, 2, 3),
        "position_embedding_type": "absolute",
    }
    if kind == "distilbert":
        keys = {"layers": "n_layers", "heads": "n_heads", "width": "dim", "inner": "hidden_dim"}
        more = {"activation": activation}
    if "roberta" in kind:
        more |= {"pad_token_id": draw("pad", 0, 1, 3), "bos_token_id": 5, "eos_token_id": 6}
    if head == "ForMaskedLM":
        more["tie_word_embeddings"] = draw("tied", True, False)
    if "Classification" in head:
        more["id2label"] = {str(i): label for i, label in enumerate(LABELS)}
    named = {keys.get(key, key): value for key, value in sizes.items()}
    return {"model_type": kind, "architectures": [CLASSES[kind] + head]} | named | more


def tensors(name: str) -> dict[str, np.ndarray]:
    """What a file of weights holds, float32."""
    kind, head, _ = name.rsplit("-", 2)
    prefix = "" if head == "Model" else PREFIXES[kind]
    config = values(name)
    body, others = (of_distilbert if kind == "distilbert" else of_bert)(config, head)
    shapes = {prefix + part: shape for part, shape in body.items()} | others
    found = {}
    for tensor, shape in shapes.items():
        numbers = 0.3 * nearly_normal(f"bert {name} {tensor}", shape)
        is_gain = "norm" in tensor.lower() and tensor.endswith("weight")
        found[tensor] = (1 + numbers if is_gain else numbers).astype(np.float32)
    return found


def _dense(name: str, n_out: int, n_in: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def _norm(name: str, n: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n,), f"{name}.bias": (n,)}


def of_bert(config: dict, head: str) -> tuple[dict, dict]:
    """Names and shapes of the body and of the head, of BERT or RoBERTa."""
    n, inner, n_vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    roberta = "roberta" in config["model_type"]
    body: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (n_vocab, n),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], n),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], n),
    } | _norm("embeddings.LayerNorm", n)
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        for part in ("query", "key", "value"):
            body |= _dense(f"{layer}attention.self.{part}", n, n)
        body |= _dense(f"{layer}attention.output.dense", n, n)
        body |= _norm(f"{layer}attention.output.LayerNorm", n)
        body |= _dense(f"{layer}intermediate.dense", inner, n)
        body |= _dense(f"{layer}output.dense", n, inner) | _norm(f"{layer}output.LayerNorm", n)
    if head == "ForTokenClassification":
        return body, _dense("classifier", len(LABELS), n)
    if head == "ForSequenceClassification" and roberta:
        return body, _dense("classifier.dense", n, n) | _dense("classifier.out_proj", len(LABELS), n)
    if head == "ForSequenceClassification":
        return body | _dense("pooler.dense", n, n), _dense("classifier", len(LABELS), n)
    if head == "Model":
        return body | _dense("pooler.dense", n, n), {}
    if roberta:
        found = _dense("lm_head.dense", n, n) | _norm("lm_head.layer_norm", n) | {"lm_head.bias": (n_vocab,)}
    else:
        found = _dense("cls.predictions.transform.dense", n, n)
        found |= _norm("cls.predictions.transform.LayerNorm", n) | {"cls.predictions.bias": (n_vocab,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.decoder.weight" if roberta else "cls.predictions.decoder.weight"] = (n_vocab, n)
    return body, found


def of_distilbert(config: dict, head: str) -> tuple[dict, dict]:
    """The same of DistilBERT."""
    n, inner, n_vocab = config["dim"], config["hidden_dim"], config["vocab_size"]
    body: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (n_vocab, n),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], n),
    } | _norm("embeddings.LayerNorm", n)
    for i in range(config["n_layers"]):
        layer = f"transformer.layer.{i}."
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            body |= _dense(f"{layer}attention.{part}", n, n)
        body |= _norm(f"{layer}sa_layer_norm", n) | _dense(f"{layer}ffn.lin1", inner, n)
        body |= _dense(f"{layer}ffn.lin2", n, inner) | _norm(f"{layer}output_layer_norm", n)
    if head == "ForTokenClassification":
        return body, _dense("classifier", len(LABELS), n)
    if head == "ForSequenceClassification":
        return body, _dense("pre_classifier", n, n) | _dense("classifier", len(LABELS), n)
    if head == "Model":
        return body, {}
    found = (
        _dense("vocab_transform", n, n) | _norm("vocab_layer_norm", n) | {"vocab_projector.bias": (n_vocab,)}
    )
    if not config["tie_word_embeddings"]:
        found["vocab_projector.weight"] = (n_vocab, n)
    return body, found


def in_2019(name: str) -> str:
    """A name as files of 2019 have it."""
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return old.replace("LayerNorm.bias", "LayerNorm.beta")


def text(name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """A text without padding tokens, int64, and the types of its tokens, if the model has any."""
    config = values(name)
    longest = config["max_position_embeddings"] - config.get("pad_token_id", -1) - 1
    length = 1 + int(integers(f"bert {name} length", 1)[0] % np.uint64(longest))
    ids = (integers(f"bert {name} ids", length) % np.uint64(config["vocab_size"])).astype(np.int64)
    ids[ids == config.get("pad_token_id", -1)] = 4
    if "type_vocab_size" not in config:
        return ids, None
    return ids, (integers(f"bert {name} types", length) % np.uint64(config["type_vocab_size"])).astype(
        np.int64
    )
