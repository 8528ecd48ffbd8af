"""Sentence embeddings: gpt2c's BERT, sentence-transformers, fastembed and OpenVINO, in one run.

    python bench/embeddings.py prepare                     once: the engines and their models, about 3 GB
    python bench/embeddings.py run [--rounds 5] [--json FILE] [--engines "gpt2c int8" …]

The model has the shape of all-MiniLM-L6-v2 (6 layers, 12 heads, width 384, vocabulary 30,522) and random
weights; pooling is the mean, normalised. Every engine gets the same 256 texts of 8 to 128 tokens as strings,
32 texts of 8 to 16 tokens, and one text of 16 at a time. Engines that pad get texts in order of length, and
the fastest of three batch sizes counts. Two threads; every engine has its own process, a round runs each
once, every second round in reverse order, and medians over rounds are shown.

An engine's vectors are compared with sentence-transformers in float32 before its speed counts: the cosine
must be at least 0.99999 in float32, 0.99 in bfloat16 and 0.98 in int8; otherwise the engine is left out.
Everything is in --work, by default build/embeddings.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BENCH = Path(__file__).resolve().parent
sys.path.insert(0, str(BENCH))
from peers.setup import environment  # noqa: E402

THREADS = 2
N_VOCAB, WIDTH = 30_522, 384
FORMATS = {"float32": 0.99999, "bfloat16": 0.99, "int8": 0.98}  # the least cosine
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
NEEDED = (
    *(
        "fastembed",
        "nncf",
        "numpy",
        "onnx",
        "onnxruntime",
        "openvino",
        "safetensors",
        "sentence-transformers",
    ),
    *("torch", "transformers"),
)
CASES = ("256 texts", "32 short", "one by one")


def texts_of(case: str) -> list[str]:
    """The texts of a case: words that are one token each, besides [CLS] and [SEP]."""
    rng = np.random.default_rng(CASES.index(case))
    lengths = {
        "256 texts": np.linspace(8, 128, 256).astype(int),
        "32 short": np.linspace(8, 16, 32).astype(int),
        "one by one": np.full(32, 16),
    }[case]
    rng.shuffle(lengths)
    return [" ".join(f"w{i}" for i in rng.integers(1000, N_VOCAB, n - 2)) for n in lengths]


# ---- the models


def make_models() -> None:
    """The model for every engine, in the current directory; run in the engines' environment."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = [f"w{i}" for i in range(N_VOCAB)]
    for word, i in SPECIAL.items():
        words[i] = word
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=N_VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=4 * WIDTH,
            architectures=["BertModel"],
        ),
        add_pooling_layer=False,
    ).eval()
    folder = Path("model")
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)
    modules = ["", "1_Pooling", "2_Normalize"]
    kinds = ["Transformer", "Pooling", "Normalize"]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (path, kind) in enumerate(zip(modules, kinds, strict=True))
            ]
        )
    )
    for name in modules[1:]:
        (folder / name).mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256}))
    make_onnx(model)
    make_openvino()
    reference = Transformers("float32").embed(texts_of("256 texts"), 32)
    np.save("reference.npy", reference)


def make_onnx(model) -> None:
    """onnx/: float32, and int8 with dynamic scales of activations."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(input_ids, attention_mask, token_type_ids).last_hidden_state

    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)
    axes = {name: {0: "batch", 1: "tokens"} for name in (*names, "last_hidden_state")}
    for dtype in ("float32", "int8"):
        folder = Path("onnx") / dtype
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
            (folder / name).write_bytes(Path("model", name).read_bytes())
    torch.onnx.export(
        Hidden(),
        example,
        "onnx/float32/model.onnx",
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes=axes,
        dynamo=False,
    )
    quantize_dynamic("onnx/float32/model.onnx", "onnx/int8/model.onnx", weight_type=QuantType.QInt8)


def make_openvino() -> None:
    """openvino/: float32 (bfloat16 is a setting), and int8 by calibration."""
    import nncf
    import openvino

    model = openvino.convert_model("onnx/float32/model.onnx")
    Path("openvino").mkdir(exist_ok=True)
    openvino.save_model(model, "openvino/float32.xml", compress_to_fp16=False)
    tokenizer = tokenizer_of("model")
    examples = [encoded(tokenizer, texts_of("256 texts")[i : i + 1]) for i in range(64)]
    quantized = nncf.quantize(model, nncf.Dataset(examples), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(quantized, "openvino/int8.xml", compress_to_fp16=False)


def tokenizer_of(folder: str):
    """The tokenizer that all engines use."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.enable_padding()
    return tokenizer


def encoded(tokenizer, texts: list[str]) -> dict[str, np.ndarray]:
    """The inputs of an exported model."""
    found = tokenizer.encode_batch(texts)
    ids = np.array([each.ids for each in found], np.int64)
    mask = np.array([each.attention_mask for each in found], np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


# ---- the engines


class Own:
    """gpt2c, which pads nothing."""

    sizes = (0,)

    def __init__(self, dtype: str) -> None:
        from gpt2c import BERT

        self.model = BERT.from_pretrained("model", dtype=dtype, threads=THREADS)

    def embed(self, texts: list[str], size: int) -> np.ndarray:
        return self.model.embed(texts)


class Transformers:
    """sentence-transformers."""

    sizes = (8, 32, 128)

    def __init__(self, dtype: str) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(THREADS)
        kwargs = {"torch_dtype": getattr(torch, dtype)}
        self.model = SentenceTransformer("model", device="cpu", model_kwargs=kwargs)

    def embed(self, texts: list[str], size: int) -> np.ndarray:
        return self.model.encode(texts, batch_size=size, show_progress_bar=False)


class FastEmbed:
    """fastembed, on ONNX Runtime."""

    sizes = (8, 32, 128)

    def __init__(self, dtype: str) -> None:
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        TextEmbedding.add_custom_model(
            model="local/minilm",
            pooling=PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf="local/minilm"),
            dim=WIDTH,
            model_file="model.onnx",
        )
        self.model = TextEmbedding("local/minilm", specific_model_path=f"onnx/{dtype}", threads=THREADS)

    def embed(self, texts: list[str], size: int) -> np.ndarray:
        return in_order(texts, lambda given: np.stack([*self.model.embed(given, batch_size=size)]))


class OpenVINO:
    """OpenVINO's runtime, pooling in NumPy."""

    sizes = (1, 8, 32)

    def __init__(self, dtype: str) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": THREADS,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bfloat16" else "f32",
        }
        path = "openvino/int8.xml" if dtype == "int8" else "openvino/float32.xml"
        self.request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        self.tokenizer = tokenizer_of("model")

    def embed(self, texts: list[str], size: int) -> np.ndarray:
        return in_order(texts, lambda given: np.concatenate(
            [self.some(given[i : i + size]) for i in range(0, len(given), size)]
        ))  # fmt: skip

    def some(self, texts: list[str]) -> np.ndarray:
        inputs = encoded(self.tokenizer, texts)
        hidden = self.request.infer(inputs)[0]
        mask = inputs["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def in_order(texts: list[str], embed) -> np.ndarray:
    """The vectors of texts that are given in order of their lengths."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    found = embed([texts[i] for i in order])
    vectors = np.empty_like(found)
    vectors[order] = found
    return vectors


ENGINES = {
    f"{name} {dtype}": (kind, dtype)
    for dtype, kinds in {
        "float32": {"gpt2c": Own, "sentence-transformers": Transformers, "fastembed": FastEmbed,
                    "OpenVINO": OpenVINO},
        "bfloat16": {"gpt2c": Own, "sentence-transformers": Transformers, "OpenVINO": OpenVINO},
        "int8": {"gpt2c": Own, "fastembed": FastEmbed, "OpenVINO": OpenVINO},
    }.items()
    for name, kind in kinds.items()
}  # fmt: skip


def measure(name: str) -> dict:
    """Texts per second of one engine in each case, in this process."""
    kind, dtype = ENGINES[name]
    engine = kind(dtype)
    vectors = engine.embed(texts_of("256 texts"), engine.sizes[-1]).astype(np.float32)
    cosine = float((vectors * np.load("reference.npy")).sum(1).min())
    if cosine < FORMATS[dtype]:
        raise SystemExit(f"refused: the least cosine with the reference is {cosine:.6f}")
    rates = {}
    for case in CASES:
        texts = texts_of(case)
        groups = [[text] for text in texts] if case == "one by one" else [texts]
        best = 0.0
        for size in engine.sizes:
            seconds = []
            for _ in range(3):
                begin = time.perf_counter()
                for group in groups:
                    engine.embed(group, size)
                seconds.append(time.perf_counter() - begin)
            best = max(best, len(texts) / statistics.median(seconds))
        rates[case] = best
    return {"cosine": cosine, "rates": rates}


# ---- the command


def prepare(options: argparse.Namespace) -> None:
    """Engines and models."""
    options.work.mkdir(parents=True, exist_ok=True)
    python = environment(options.work, NEEDED)
    subprocess.run([python, Path(__file__).resolve(), "models"], check=True, cwd=options.work)


def run(options: argparse.Namespace) -> None:
    """Each engine once a round."""
    python = options.work.resolve() / "venv/bin/python"
    env = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    found: dict[str, list[dict]] = {name: [] for name in options.engines}
    for number in range(options.rounds):
        for name in options.engines[:: -1 if number % 2 else 1]:
            print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
            of_own = ENGINES[name][0] is Own
            which = sys.executable if of_own else python
            command = [which, Path(__file__).resolve(), "measure", "--engines", name]
            done = subprocess.run(command, cwd=options.work, env=env, capture_output=True, text=True)
            if done.returncode:
                print(f"{name} is left out: {done.stderr[-2000:]}", file=sys.stderr)
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    found = {name: results for name, results in found.items() if results}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    show(found)


def show(found: dict[str, list[dict]]) -> None:
    """Medians, and gpt2c's ratio to the best other engine of its format."""
    rates = {
        name: {case: statistics.median(each["rates"][case] for each in results) for case in CASES}
        for name, results in found.items()
    }
    print(f"| texts per second | {' | '.join(CASES)} | least cosine |\n|{'---|' * (len(CASES) + 2)}")
    for name, each in rates.items():
        cells = " | ".join(f"{each[case]:,.0f}" for case in CASES)
        print(f"| {name} | {cells} | {min(r['cosine'] for r in found[name]):.6f} |")
    for dtype in FORMATS:
        own = rates.get(f"gpt2c {dtype}")
        others = [each for name, each in rates.items() if name.endswith(f" {dtype}") and each is not own]
        if own and others:
            ratios = [own[case] / max(other[case] for other in others) for case in CASES]
            cells = " | ".join(f"**{ratio:.2f}**" for ratio in ratios)
            print(f"| gpt2c / best, {dtype} | {cells} | |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("prepare", "run", "models", "measure"))
    parser.add_argument("--work", type=Path, default=Path("build/embeddings"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=[*ENGINES], metavar="ENGINE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.what == "models":
        make_models()
    elif options.what == "measure":
        print(json.dumps(measure(*options.engines)))
    else:
        {"prepare": prepare, "run": run}[options.what](options)


if __name__ == "__main__":
    main()
