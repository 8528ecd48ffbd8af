"""The engines that against_peers.py measures, each set as its documentation advises for two threads."""

import ctypes
import functools
import json
import time
from pathlib import Path

import numpy as np

HERE = Path.cwd()  # with what models.py has made
MODEL = HERE / "model"
THREADS, LAYERS, HEADS, WIDTH, N_VOCAB = 2, 12, 12, 64, 50257
DECODE, PROMPT, BATCH = 128, 32, 8
SCORE_CASES = ("score 8", "score ragged")
now = time.perf_counter


class Engine:
    """The interface of an engine.

    ``start(prompts)`` gives the last logits [n, vocab] and begins n texts; ``step(tokens)`` adds one token to
    each and gives logits [n, vocab].
    """

    exact = False  # float32 throughout
    choices = (None,)  # settings left open: `choose(one)` sets it, the fastest of each case is taken
    score_choices = ("text by text", "eight padded")  # the same for several texts to score
    group = 1

    def choose(self, choice, case):
        if case in SCORE_CASES:
            self.group = 8 if choice == "eight padded" else 1

    def prefill(self, ids):
        """A prompt, without a cache, to its last logits."""
        self.start(ids[None])

    def argmax(self, logits):
        return logits.argmax(-1)

    def decode(self, prompts, n):
        """Greedy tokens [texts, n + 1], and the seconds for those after the first."""
        tokens = [self.argmax(self.start(prompts))]
        begin = now()
        for _ in range(n):
            tokens.append(self.argmax(self.step(tokens[-1])))
        seconds = now() - begin
        return np.stack([np.asarray(t) for t in tokens], 1), seconds

    def forced(self, ids, prompt):
        """Logits of ids[prompt - 1 : -1], the tokens after the prompt given one by one."""
        first = self.numpy(self.start(ids[None, :prompt]))[0]
        return np.stack([first, *(self.numpy(self.step(np.array([t])))[0] for t in ids[prompt:-1])])

    def numpy(self, logits):
        return np.array(logits)  # a copy: engines use their memory again

    def score(self, ids):
        """Log-probabilities of ids[1:]."""
        return self.score_rows(ids[None])[0]

    def score_rows(self, ids):
        """The same of every row of ids [n, T]: [n, T - 1]."""
        raise NotImplementedError

    def score_texts(self, texts):
        """Log-probabilities of several texts: those of similar length together, padded."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = [None] * len(texts)
        for at in range(0, len(order), self.group):
            some = order[at : at + self.group]
            rows = np.zeros((len(some), len(texts[some[-1]])), np.int64)
            for row, i in zip(rows, some, strict=True):
                row[: len(texts[i])] = texts[i]
            for i, logprobs in zip(some, self.score_rows(rows), strict=True):
                found[i] = logprobs[: len(texts[i]) - 1]
        return found


# ---- gpt2c


class Gpt2c(Engine):
    def __init__(self, dtype):
        import gpt2c
        from gpt2c.core import _engine

        self.exact = dtype == "float32"
        self.forward = _engine.forward
        self.model = gpt2c.GPT2.from_pretrained(HERE / f"gpt2c/{dtype}.gpt2c", threads=THREADS)
        self.settings = f"gpt2c {gpt2c.__version__}, packed file, {self.model.weights.isa}"

    def start(self, prompts):
        self.caches = [self.model.new_cache(len(p) + DECODE + 1) for p in prompts]
        return self._forward(prompts)

    def _forward(self, rows):
        pairs = list(zip(self.caches, np.ascontiguousarray(rows, np.int32), strict=True))
        return self.forward(self.model.weights, pairs, keep=1, threads=THREADS)

    def step(self, tokens):
        return self._forward(np.asarray(tokens)[:, None])

    def prefill(self, ids):
        self.model.forward(ids, logits_to_keep=1)

    score_choices = (None,)

    def score_rows(self, ids):
        return np.stack(self.score_texts(list(ids)))

    def score_texts(self, texts):
        return [score.logprobs for score in self.model.score(texts, bos=False)]


# ---- transformers


class Torch(Engine):
    def __init__(self, dtype):
        import torch
        import transformers

        torch.set_num_threads(THREADS)
        self.exact = dtype == "float32"
        self.torch, self.guard = torch, torch.inference_mode()
        self.guard.__enter__()
        self.model = transformers.GPT2LMHeadModel.from_pretrained(
            MODEL, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).eval()
        self.settings = f"torch {torch.__version__}, transformers {transformers.__version__}, sdpa"

    def start(self, prompts):
        self.past = None
        return self.step(prompts)

    def step(self, tokens):
        ids = self.torch.as_tensor(tokens)
        out = self.model(
            ids if ids.ndim == 2 else ids[:, None],
            past_key_values=self.past,
            use_cache=True,
            logits_to_keep=1,
        )
        self.past = out.past_key_values
        return out.logits[:, -1]

    def numpy(self, logits):
        return logits.float().numpy()

    def score_rows(self, ids):
        ids = self.torch.as_tensor(ids)
        logits = self.model(ids).logits[:, :-1].transpose(1, 2)
        return -self.torch.nn.functional.cross_entropy(logits, ids[:, 1:], reduction="none").float().numpy()


# ---- CTranslate2


class CTranslate2(Engine):
    """Prompt and texts in one call: decoding is the time of n + 1 tokens less that of one."""

    def __init__(self, kind):
        import ctranslate2

        self.exact = kind == "float32"
        self.generator = ctranslate2.Generator(
            str(HERE / f"ct2-{kind}"), device="cpu", compute_type=kind, inter_threads=1, intra_threads=THREADS
        )
        self.texts = json.loads((HERE / f"ct2-{kind}/vocabulary.json").read_text("utf-8"))
        self.settings = f"ctranslate2 {ctranslate2.__version__}, compute {self.generator.compute_type}"

    def _generate(self, prompts, n):
        prompts = [[self.texts[i] for i in p] for p in prompts]
        begin = now()
        found = self.generator.generate_batch(
            prompts, beam_size=1, sampling_topk=1, max_length=n, min_length=n, include_prompt_in_result=False
        )
        seconds = now() - begin
        return np.array([f.sequences_ids[0] for f in found]), seconds

    def prefill(self, ids):
        self._generate(ids[None], 1)

    def decode(self, prompts, n):
        _, first = self._generate(prompts, 1)
        tokens, seconds = self._generate(prompts, n + 1)
        return tokens, seconds - first

    score_choices = (1024, 4096)  # tokens of a batch, which it makes of texts sorted by length

    def choose(self, choice, case):
        if case in SCORE_CASES:
            self.group = choice

    def score_rows(self, ids):
        return np.stack(self.score_texts(list(ids)))

    def score_texts(self, texts):
        texts = [[self.texts[i] for i in ids] for ids in texts]
        size = max(self.group, max(map(len, texts)))
        found = self.generator.score_batch(texts, max_batch_size=size, batch_type="tokens")
        return [np.array(of_text.log_probs) for of_text in found]

    def _logits(self, ids):
        import ctranslate2

        view = self.generator.forward_batch(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(ids[None], np.int32)),
            ctranslate2.StorageView.from_array(np.array([len(ids)], np.int32)),
        )
        return np.array(view)[0]

    def forced(self, ids, prompt):
        return self._logits(ids)[prompt - 1 : -1]

    def start(self, prompts):  # of the check only
        return np.stack([self._logits(p)[-1] for p in prompts])


# ---- ONNX Runtime


class Ort(Engine):
    """Fused operators; keys and values in buffers that are input and output at once."""

    exact = True

    def __init__(self):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.ort = ort
        self.options = options
        self.session = self._session("onnx/model.onnx")
        self.settings = f"onnxruntime {ort.__version__}, GroupQueryAttention, shared buffers, IO binding"
        self.names = [f"{i}.{n}" for i in range(LAYERS) for n in ("key", "value")]

    def _session(self, file):
        return self.ort.InferenceSession(str(HERE / file), self.options, providers=["CPUExecutionProvider"])

    @functools.cached_property
    def scorer(self):
        return self._session("onnx/score.onnx")

    def score_rows(self, ids):
        rows = ids[:, :-1]
        texts, n = rows.shape
        past = np.zeros((texts, HEADS, n, WIDTH), np.float32)
        feeds = {
            "input_ids": rows.astype(np.int64),
            "position_ids": np.tile(np.arange(n), (texts, 1)),
            "seqlens_k": np.full(texts, n - 1, np.int32),
            "total": np.array([n], np.int32),
            "targets": ids[:, 1:].astype(np.int64),
            **{"past." + name: past for name in self.names},
        }
        return self.scorer.run(["logprobs"], feeds)[0][:, :, 0]

    def value(self, array):
        return self.ort.OrtValue.ortvalue_from_numpy(array)

    def start(self, prompts):
        n, rows = prompts.shape
        self.room = rows if rows > 256 else rows + DECODE
        self.caches = [self.value(np.zeros((n, HEADS, self.room, WIDTH), np.float32)) for _ in self.names]
        self.seen = 0
        return self._run(prompts)

    def step(self, tokens):
        return self._run(np.asarray(tokens)[:, None])

    def _run(self, ids):
        n, rows = ids.shape
        binding, self.seen = self.session.io_binding(), self.seen + rows
        positions = np.broadcast_to(np.arange(self.seen - rows, self.seen), ids.shape)
        feeds = {
            "input_ids": ids.astype(np.int64),
            "position_ids": np.ascontiguousarray(positions, np.int64),
            "seqlens_k": np.full(n, self.seen - 1, np.int32),
            "total": np.array([self.seen], np.int32),
        }
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, self.value(array))
        for name, cache in zip(self.names, self.caches, strict=True):
            binding.bind_ortvalue_input("past." + name, cache)
            binding.bind_ortvalue_output("present." + name, cache)
        binding.bind_output("logits", "cpu")
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()[:, 0]


# ---- OpenVINO


class OpenVino(Engine):
    def __init__(self, weights, precision):
        import openvino as ov

        self.exact = weights == "fp32" and precision == "f32"
        self.core, self.weights = ov.Core(), weights
        self.how = {
            "INFERENCE_NUM_THREADS": THREADS,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
        }
        if self.exact:
            self.how["KV_CACHE_PRECISION"] = "f32"  # the default is 8 bits
        compiled = self._compile("model.xml")
        self.request = compiled.create_infer_request()
        kv = compiled.get_property("KV_CACHE_PRECISION").to_string()
        version = ov.__version__.split("-")[0]
        self.settings = f"openvino {version}, weights {weights}, precision {precision}, cache {kv}"

    def _compile(self, file):
        return self.core.compile_model(str(HERE / f"ov-{self.weights}" / file), "CPU", self.how)

    @functools.cached_property
    def scorer(self):
        return self._compile("score.xml").create_infer_request()

    def score_rows(self, ids):
        feeds = {
            "input_ids": ids[:, :-1],
            "position_ids": np.tile(np.arange(ids.shape[1] - 1), (len(ids), 1)),
            "targets": ids[:, 1:],
        }
        return self.scorer.infer({k: v.astype(np.int64) for k, v in feeds.items()})["logprobs"].copy()

    def start(self, prompts):
        self.request.reset_state()
        self.seen, self.beams = 0, np.arange(len(prompts), dtype=np.int32)
        return self._run(prompts)

    def step(self, tokens):
        return self._run(np.asarray(tokens)[:, None])

    def _run(self, ids):
        positions = np.broadcast_to(np.arange(self.seen, self.seen + ids.shape[1]), ids.shape)
        self.seen += ids.shape[1]
        out = self.request.infer(
            {
                "input_ids": ids.astype(np.int64),
                "position_ids": np.ascontiguousarray(positions, np.int64),
                "beam_idx": self.beams,
            },
            share_inputs=True,
            share_outputs=True,
        )
        return out["logits"][:, 0]


# ---- llama.cpp


class Llama(Engine):
    choices = score_choices = ("flash", "plain")

    def __init__(self, kind):
        import llama_cpp as c

        self.c, self.exact = c, kind == "f32"
        self.silent = c.llama_log_callback(lambda level, text, data: None)
        c.llama_log_set(self.silent, ctypes.c_void_p(0))
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(
            str(HERE / f"gguf/{kind}.gguf").encode(), c.llama_model_default_params()
        )
        if not self.model:
            raise RuntimeError("llama.cpp could not load the model")
        self.settings = f"llama-cpp-python {c.__version__}, built for this machine, {kind}, batches of 512"
        self.contexts, self.flash = {}, "flash"
        self.batch = c.llama_batch_init(512, 0, BATCH)

    def choose(self, choice, case):
        self.flash = choice

    def context(self, n, flash):
        """For n texts, of 1,024 positions if alone, else 256 each."""
        if (n, flash) not in self.contexts:
            c = self.c
            p = c.llama_context_default_params()
            p.n_ctx, p.n_seq_max = (1024, 1) if n == 1 else (256 * n, n)
            p.n_batch = p.n_ubatch = 512
            p.n_threads = p.n_threads_batch = THREADS
            p.flash_attn_type = int(flash == "flash")
            p.no_perf = True
            if self.exact:
                p.type_k = p.type_v = 0  # GGML_TYPE_F32
            self.contexts[n, flash] = c.llama_init_from_model(self.model, p)
            if not self.contexts[n, flash]:
                raise RuntimeError("llama.cpp could not make a context")
        return self.contexts[n, flash]

    def start(self, prompts):
        self.now = self.context(len(prompts), self.flash)
        c = self.c
        c.llama_memory_clear(c.llama_get_memory(self.now), False)
        self.seen = 0
        return self._run(prompts)

    def step(self, tokens):
        return self._run(np.asarray(tokens)[:, None])

    def _run(self, ids, every=False):
        b, i, rows = self.batch, 0, ids.shape[1]
        wanted = []
        for s, row in enumerate(ids.tolist()):
            for at, token in enumerate(row):
                b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0] = token, self.seen + at, 1, s
                b.logits[i] = every or at == rows - 1
                if b.logits[i]:
                    wanted.append(i)
                i += 1
        b.n_tokens = i
        self.seen += rows
        if self.c.llama_decode(self.now, b):
            raise RuntimeError("llama_decode")
        first = self.c.llama_get_logits_ith(self.now, wanted[0])  # those asked for lie one after the other
        return np.ctypeslib.as_array(first, (len(wanted), N_VOCAB))

    def score_texts(self, texts):
        return [self.score(ids) for ids in texts]

    def score(self, ids):
        """Its API gives logits; NumPy does the rest, a few rows at a time."""
        self.now, self.seen = self.context(1, self.flash), 0
        self.c.llama_memory_clear(self.c.llama_get_memory(self.now), False)
        logits, targets = self._run(ids[None, :-1], every=True), ids[1:]
        found = np.empty(len(targets), np.float32)
        for i in range(0, len(targets), 8):
            rows = logits[i : i + 8]
            top = rows.max(-1, keepdims=True)
            total = np.log(np.exp(rows - top).sum(-1)) + top[:, 0]
            found[i : i + 8] = rows[np.arange(len(rows)), targets[i : i + 8]] - total
        return found


# name: (kind of engine, its arguments, format)
ENGINES = {
    **{f"gpt2c {d}": (Gpt2c, (d,), d) for d in ("float32", "bfloat16", "int8", "int4")},
    "transformers float32": (Torch, ("float32",), "float32"),
    "transformers bfloat16": (Torch, ("bfloat16",), "bfloat16"),
    "CTranslate2 float32": (CTranslate2, ("float32",), "float32"),
    "CTranslate2 int8": (CTranslate2, ("int8",), "int8"),
    "ONNX Runtime float32": (Ort, (), "float32"),
    "OpenVINO float32": (OpenVino, ("fp32", "f32"), "float32"),
    "OpenVINO bfloat16": (OpenVino, ("fp32", "bf16"), "bfloat16"),
    "OpenVINO int8": (OpenVino, ("int8", "bf16"), "int8"),
    "OpenVINO int4": (OpenVino, ("int4", "bf16"), "int4"),
    "llama.cpp bfloat16": (Llama, ("bf16",), "bfloat16"),
    "llama.cpp Q8_0": (Llama, ("q8_0",), "int8"),
    "llama.cpp Q4_0": (Llama, ("q4_0",), "int4"),
}
