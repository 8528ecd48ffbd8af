"""gpt2c as a model of lm-evaluation-harness: ``lm-eval run --model gpt2c --model_args pretrained=gpt2``.

lm-eval finds it by this package's entry point in the group "lm_eval.models". Its releases up to 0.4.13 do not
look there yet: with them, ``python -m gpt2c.lm_eval run …`` is the same command with gpt2c among the models,
and in Python ``import gpt2c.lm_eval`` comes before ``lm_eval.simple_evaluate(model="gpt2c")``.

lm-eval needs neither torch nor transformers for this model: ``pip install "gpt2c[lm-eval]"``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..core.checks import check_flag, check_integer
from ..generation.options import GenerateKwargs
from ..model import GPT2

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import model_registry
    from lm_eval.models.utils import (
        handle_stop_sequences,
        normalize_gen_kwargs,
        postprocess_generated_text,
    )
    from tqdm import tqdm
except ImportError as error:
    raise ImportError(f'gpt2c.lm_eval needs lm-eval ({error}): pip install "gpt2c[lm-eval]"') from error

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

__all__ = ["GPT2LM"]

NAME = "gpt2c"
# Prompts of generate_until between two steps of the progress bar.
PROMPTS_PER_CALL = 256

TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]
"""Context and continuation as texts, which may be missing, then as token ids."""


class GPT2LM(TemplateLM):
    """A GPT-2 for lm-eval; its arguments are those of ``--model_args``.

    Texts are tokenized, contexts truncated from the left and long documents split into windows as by
    lm-eval's own "hf", so that results are the same up to rounding. Requests with the same context share its
    computation.

    Parameters
    ----------
    pretrained : str, optional
        As for :meth:`gpt2c.GPT2.from_pretrained`; default: the bundled small model.
    dtype, cache_dtype, threads, revision, subfolder, tokenizer
        As there.
    add_bos_token : bool, optional
        Whether texts get the tokens that the tokenizer puts around them, with vocab.json and merges.txt the
        bos token. By default the files decide.
    prefix_token_id : int, optional
        The token that precedes a text without context; default: the bos token of the tokenizer, else its eos.
    max_length : int, optional
        The number of tokens that the model sees at once; default: its positions.
    max_gen_toks : int
        The maximum number of new tokens of generate_until if a task sets none.
    seed : int
        For tasks that sample, unless they set their own.
    batch_size, max_batch_size, device
        Accepted because lm-eval's command line always passes them (device as "cuda:0"), but ignored: the
        engine runs on the CPU and batches automatically.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        *,
        dtype: str | None = None,
        cache_dtype: str | None = None,
        threads: int | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        tokenizer: str | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        seed: int = 1234,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        model = GPT2.from_pretrained(
            pretrained,
            dtype=dtype,
            cache_dtype=cache_dtype,
            threads=threads,
            revision=revision,
            subfolder=subfolder,
            tokenizer=tokenizer,
        )
        n_ctx, n_vocab = model.config.n_ctx, model.config.n_vocab
        self.model = model
        if add_bos_token is not None:
            check_flag("add_bos_token", add_bos_token)
        self.add_bos_token = add_bos_token
        if prefix_token_id is not None:
            check_integer("prefix_token_id", prefix_token_id, 0, n_vocab - 1, ", the model's token ids")
        self._prefix_token_id = prefix_token_id
        self.max_length = (
            n_ctx
            if max_length is None
            else check_integer("max_length", max_length, 1, n_ctx, ", the model's positions")
        )
        self.max_gen_toks = check_integer("max_gen_toks", max_gen_toks, 1)
        self.seed = seed
        self.revision = revision
        self._prefix_text = model.tokenizer.decode([self.prefix_token_id])

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        ends = self.model.config.eos_token_ids
        found = self.model.tokenizer.eos_token_id
        if found is not None and found < self.model.config.n_vocab:
            return found
        return ends[0] if ends else self.prefix_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token that precedes a text without context."""
        tokenizer = self.model.tokenizer
        for token in (self._prefix_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id):
            if token is not None and token < self.model.config.n_vocab:
                return token
        return self.model.start_ids[0]

    @property
    def tokenizer_name(self) -> str:
        """The name that distinguishes requests in lm-eval's cache."""
        return self.model.tokenizer.name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Data that lm-eval records beside the results."""
        return {
            "model_num_parameters": self.model.config.n_parameters,
            "model_dtype": self.model.dtype,
            "model_numerics": self.model.numerics,
            "model_revision": self.revision,
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text in which special tokens are recognized, as in transformers.

        Includes all tokens that the tokenizer puts around it, also the end token, as in lm-eval's "hf",
        unless they are already written at the start.
        """
        if add_special_tokens is None:
            add_special_tokens = self.add_bos_token is not False and not string.startswith(self._prefix_text)
        return self._encode(string, add_special_tokens)

    def _encode(self, string: str, around: bool) -> list[int]:
        tokenizer = self.model.tokenizer
        ids = tokenizer.encode(string, special=True)
        if not around:
            return ids
        prefix, bos = tokenizer.prefix, tokenizer.bos_token_id
        if self.add_bos_token and not prefix and bos is not None and tokenizer.takes_bos:
            prefix = (bos,)
        return [*prefix, *ids, *tokenizer.suffix]

    def _loglikelihood_tokens(
        self, requests: list[TokenRequest], disable_tqdm: bool = False, **others: Any
    ) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether each of its tokens was the first choice."""
        of_context: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (_, context, _) in enumerate(requests):
            of_context[tuple(context)].append(index)
        order = [index for group in of_context.values() for index in group]

        def pairs() -> Iterator[tuple[list[int], list[int]]]:
            for index in order:
                context, continuation = requests[index][1:]
                # The last token of the continuation is not read.
                room = max(1, self.max_length + 1 - len(continuation))
                yield context[-room:], continuation

        results: list[Any] = [None] * len(requests)
        scores = self.model.score(pairs(), bos=False, window=self.max_length)
        for index in tqdm(order, desc="Running loglikelihood requests", disable=disable_tqdm):
            score = next(scores)
            results[index] = answer = (score.logprob, score.is_greedy)
            if requests[index][0] is not None:
                self.cache_hook.add_partial("loglikelihood", requests[index][0], answer)
        return results

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of whole documents, in windows; the last one is moved back to be full."""
        documents = [self.tok_encode(request.args[0]) for request in requests]
        scores = self.model.score(
            (ids for ids in documents if ids),
            bos=self.prefix_token_id,
            window=self.max_length,
            stride=self.max_length,
        )
        results = []
        bar = tqdm(requests, desc="Running loglikelihood_rolling requests", disable=disable_tqdm)
        for request, ids in zip(bar, documents, strict=True):
            results.append(next(scores).logprob if ids else 0.0)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, results[-1])
        return results

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to the first of the task's stop strings.

        The options of transformers that :meth:`gpt2c.GPT2.generate` has are honoured, others refused by name.
        A context that is requested several times (lm-eval's ``repeats``) gets that many continuations.
        """
        same: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            context, asked = request.args
            same[context, repr(sorted(asked.items()))].append(index)
        calls: dict[tuple[str, int], list[list[int]]] = defaultdict(list)
        for (_, asked), indices in same.items():
            calls[asked, len(indices)].append(indices)

        results = [""] * len(requests)
        with tqdm(total=len(requests), desc="Running generate_until requests", disable=disable_tqdm) as bar:
            for (_, repeats), groups in calls.items():
                options = self._generation_options(requests[groups[0][0]].args[1])
                room = self.max_length - options["max_new_tokens"]
                if room < 1:
                    raise ValueError(
                        f"a task asks for {options['max_new_tokens']} new tokens, but the model sees "
                        f"{self.max_length} at once: set max_gen_toks below that (--gen_kwargs)"
                    )
                waiting = iter(groups)
                while part := list(islice(waiting, PROMPTS_PER_CALL)):
                    contexts = (requests[indices[0]].args[0] for indices in part)
                    prompts = [self._encode_prompt(context)[-room:] for context in contexts]
                    texts = self.model.generate(prompts, num_return_sequences=repeats, **options)
                    for index, found in zip((i for group in part for i in group), texts, strict=True):
                        results[index] = self._text(found.token_ids, options["stop"])
                        self.cache_hook.add_partial("generate_until", requests[index].args, results[index])
                        bar.update()
        return results

    def _encode_prompt(self, context: str) -> list[int]:
        """Token ids of a prompt: here the bos token may be written out."""
        bos = self.model.tokenizer.bos_token_id
        written = bos is not None and context.startswith(self.model.tokenizer.decode([bos]))
        ids = self._encode(context, self.add_bos_token is not False and not written)
        return ids or [self.prefix_token_id]

    def _text(self, token_ids: list[int], stop: list[str]) -> str:
        """A continuation as "hf" decodes it: alone, without special tokens, up to the first stop string."""
        tokenizer = self.model.tokenizer
        special = set(tokenizer.special_tokens.values())
        text = tokenizer.decode([token for token in token_ids if token not in special])
        return postprocess_generated_text(text, stop, None)

    def _generation_options(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A task's ``generation_kwargs`` as options of ``GPT2.generate``."""
        options: dict[str, Any] = dict(normalize_gen_kwargs(asked, self.max_gen_toks))
        if not options.pop("do_sample"):
            options["temperature"] = 0.0
        else:
            # transformers' default.
            options["temperature"] = float(asked.get("temperature", 1.0))
        end = self.model.tokenizer.decode([self.eot_token_id])
        options["stop"] = handle_stop_sequences(options.pop("until"), eos=end or None)
        options["max_new_tokens"] = options.pop("max_gen_toks")
        options.setdefault("seed", self.seed)
        unknown = sorted(options.keys() - GenerateKwargs.__annotations__.keys())
        if unknown:
            raise ValueError(
                f"a task's generation_kwargs have {', '.join(unknown)}, which gpt2c does not know; allowed: "
                f"until, max_gen_toks, do_sample, {', '.join(sorted(GenerateKwargs.__annotations__))}"
            )
        return options


# The entry point may have registered it already.
if NAME not in model_registry:
    model_registry.register(NAME, target=f"gpt2c.lm_eval:{GPT2LM.__name__}")
