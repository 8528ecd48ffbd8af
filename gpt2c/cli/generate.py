"""`gpt2c generate`: continue a text, or those of files."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from dataclasses import asdict, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..checkpoint.bundled import is_encoder_decoder
from ..generation.options import SamplingOptions
from ..model import GPT2
from ..views.ansi import bold, dim, is_terminal, shown
from .console import note, open_output, read_text
from .formatting import counted, print_json
from .loading import load_draft, load_writer
from .text_or_files import names_files, refuse_for_a_text

if TYPE_CHECKING:
    from ..generation.results import Generation

__all__ = ["run"]

_MOST_NEW = 60


def run(arguments: Namespace) -> None:
    """Continue a text, or those of files."""
    translates = is_encoder_decoder(arguments.model)
    if arguments.temperature is None:
        searches = arguments.num_beams > 1 or arguments.penalty_alpha
        arguments.temperature = 0.0 if searches or translates else 0.8
    if arguments.top_k is None:
        arguments.top_k = 4 if arguments.penalty_alpha else 0 if arguments.mirostat else 40
    if arguments.top_p is None:
        arguments.top_p = 1.0 if arguments.mirostat else 0.95
    arguments.early_stopping = {"true": True, "false": False}.get(arguments.early_stopping, "never")
    given = vars(arguments)
    options = {name: given[name] for name in SamplingOptions.__dataclass_fields__ if name in given}
    options["logit_bias"] = dict(arguments.logit_bias)
    if options["max_new_tokens"] is None:
        del options["max_new_tokens"]
        options |= {} if translates else {"max_new_tokens": _MOST_NEW}
    if options["dry_sequence_breakers"] is None:
        del options["dry_sequence_breakers"]
    # Refuse bad options before loading anything.
    checked = SamplingOptions(**options)
    if names_files(arguments):
        _continue_files(arguments, checked)
    else:
        _continue_text(arguments, options)


def _continue_files(arguments: Namespace, options: SamplingOptions) -> None:
    # Deferred, because a single text does not need them.
    from ..corpus.jobs import recorded
    from ..corpus.tasks import Generating, continuation_columns
    from .corpora import Work, run_files

    if arguments.shard is not None and options.seed is None and not options.greedy:
        raise ValueError("--shard needs --seed N, the same for all shards, so that they sample alike")

    def make_task(directory: str) -> Generating:
        seed = options.seed
        if seed is None and not options.greedy:
            # The same command resumes with the same seed.
            known = recorded(directory).get("seed")
            seed = int.from_bytes(os.urandom(4)) if known is None else known
        model, chosen = load_writer(arguments), replace(options, seed=seed, draft=load_draft(arguments))
        if isinstance(model, GPT2):
            return Generating(model, chosen)
        from ..corpus.translating import Translating

        return Translating(model, chosen, limited=arguments.max_new_tokens is not None)

    work = Work(
        results="continuations",
        for_a_text="for one prompt: gpt2c generate - <",
        of_a_text=("json", "no_prompt", "stats", "trace", "edits", "deadline"),
        columns=continuation_columns(options),
        make_task=make_task,
    )
    run_files(arguments, work)


def _continue_text(arguments: Namespace, options: dict[str, Any]) -> None:
    refuse_for_a_text(arguments)
    prompt = read_text(arguments.text[0] if arguments.text else None)
    with open_output(arguments.output) as out:
        begin = perf_counter()
        model = load_writer(arguments)
        options["draft"] = load_draft(arguments)
        load_seconds = perf_counter() - begin
        if prompt is None:
            prompt = ""
            note("no prompt: generating unconditionally")
        hides = arguments.no_prompt or is_encoder_decoder(arguments.model)
        beginning, end = ("", "") if hides else (prompt, arguments.suffix or "")
        begin, first_seconds = perf_counter(), None
        if arguments.json or arguments.num_return_sequences > 1 or arguments.num_beams > 1:
            results = model.generate([prompt], **options)
            if arguments.json:
                print_json(
                    {
                        "model": model.name,
                        "numerics": model.numerics,
                        "prompt": prompt,
                        "seed": results[0].seed,
                        "generations": [asdict(result) for result in results],
                    },
                    out,
                )
            elif len(results) == 1:
                print(bold(beginning, out) + shown(results[0].text, out) + bold(end, out), file=out)
            else:
                for number, result in enumerate(results, 1):
                    print(dim(f"--- {number} of {len(results)} ---", out), file=out)
                    print(bold(beginning, out) + shown(result.text, out) + bold(end, out), file=out)
        else:
            with model.stream(prompt, **options) as stream:
                # Errors in the options appear with the first piece.
                first = next(stream, "")
                print(bold(beginning, out), shown(first, out), sep="", end="", file=out, flush=True)
                for piece in stream:
                    print(shown(piece, out), end="", file=out, flush=True)
            print(bold(end, out), file=out)
            results, first_seconds = [stream.result], stream.first_token_seconds
        seconds = perf_counter() - begin
    # JSON already has the traces, and all results of a search share one.
    if arguments.trace and not arguments.json:
        for trace in {id(result.trace): result.trace for result in results}.values():
            note(str(trace))
    if arguments.stats:
        _print_stats(results, load_seconds, first_seconds, seconds)
    elif (
        arguments.seed is None
        and results[0].seed is not None
        and is_terminal(sys.stderr)
        and not arguments.json
    ):
        note(f"seed {results[0].seed}")


def _print_stats(
    results: list[Generation], load_seconds: float, first_seconds: float | None, seconds: float
) -> None:
    n_new = sum(len(result.token_ids) for result in results)
    n_prompt = len(results[0].prompt_token_ids)
    parts = [f"load {load_seconds:.2f} s", f"prompt {counted(n_prompt, 'token')}"]
    new = f"{counted(n_new, 'new token')} in {seconds:.2f} s"
    if first_seconds is None:
        parts.append(f"{new} ({n_new / seconds:.1f} tokens/s with the prompt)")
    else:
        parts.append(f"first token after {first_seconds * 1000:.0f} ms")
        rate = f" ({(n_new - 1) / (seconds - first_seconds):.1f} tokens/s)" if n_new > 1 else ""
        parts.append(f"{new}{rate}")
    parts.append("greedy" if results[0].seed is None else f"seed {results[0].seed}")
    parts.append("ended by " + ", ".join(sorted({result.finish_reason for result in results})))
    note(" · ".join(parts))
