"""What the commands of the command line do, each with the parsed arguments."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from argparse import Namespace
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO

from ..core import _engine
from ..generation.options import SamplingOptions
from ..model import GPT2
from ..views.ansi import bold, dim, is_terminal
from .console import note, open_output, raise_at_interrupt, read_text

if TYPE_CHECKING:
    from ..corpus.jobs import Totals
    from ..generation.results import Generation
    from ..scoring.results import Suggestion

__all__ = ["convert", "generate", "info", "score", "suggest"]


def generate(arguments: Namespace) -> None:
    """Continue a text."""
    if arguments.temperature is None:
        arguments.temperature = 0.8 if arguments.num_beams == 1 else 0.0
    arguments.early_stopping = {"true": True, "false": False}.get(arguments.early_stopping, "never")
    given = vars(arguments)
    options = {name: given[name] for name in SamplingOptions.__dataclass_fields__ if name in given}
    options["logit_bias"] = dict(arguments.logit_bias)
    SamplingOptions(**options)  # bad options are told before anything is loaded
    prompt = read_text(arguments.prompt)
    with open_output(arguments.output) as out:
        begin = perf_counter()
        model = load_model(arguments)
        load_seconds = perf_counter() - begin
        if prompt is None:
            prompt = ""
            note("no prompt: from the beginning of a text")
        shown = "" if arguments.no_prompt else prompt
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
                print(bold(shown, out) + results[0].text, file=out)
            else:
                for number, result in enumerate(results, 1):
                    print(dim(f"--- {number} of {len(results)} ---", out), file=out)
                    print(bold(shown, out) + result.text, file=out)
        else:
            with model.stream(prompt, **options) as stream:
                print(bold(shown, out), end="", file=out, flush=True)
                for piece in stream:
                    print(piece, end="", file=out, flush=True)
            print(file=out)
            results, first_seconds = [stream.result], stream.first_token_seconds
        seconds = perf_counter() - begin
    if arguments.trace and not arguments.json:  # which has it
        for trace in {id(result.trace): result.trace for result in results}.values():  # a search has one
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
    parts = [f"load {load_seconds:.2f} s", f"prompt {_counted(n_prompt, 'token')}"]
    new = f"{_counted(n_new, 'new token')} in {seconds:.2f} s"
    if first_seconds is None:
        parts.append(f"{new} ({n_new / seconds:.1f} tokens/s with the prompt)")
    else:
        parts.append(f"first token after {first_seconds * 1000:.0f} ms")
        rate = f" ({(n_new - 1) / (seconds - first_seconds):.1f} tokens/s)" if n_new > 1 else ""
        parts.append(f"{new}{rate}")
    parts.append("greedy" if results[0].seed is None else f"seed {results[0].seed}")
    parts.append("ended by " + ", ".join(sorted({result.finish_reason for result in results})))
    note(" · ".join(parts))


def suggest(arguments: Namespace) -> None:
    """Say what could come next, once or again and again."""
    if arguments.k < 1:
        raise ValueError(f"-k must be at least 1; got {arguments.k}")
    text = read_text(arguments.text)
    if text is None:
        if arguments.json or arguments.output or not is_terminal(sys.stdout):
            text = ""
        else:
            _keyboard(load_model(arguments), arguments.k)
            return
    with open_output(arguments.output) as out:
        suggestions = load_model(arguments).suggest(text, arguments.k)
        if arguments.json:
            print_json({"text": text, "suggestions": list(map(told_suggestion, suggestions))}, out)
        else:
            for suggestion in suggestions:
                print(_shown(suggestion), file=out)


def _keyboard(model: GPT2, k: int) -> None:
    """Suggestions for a text that grows by what is typed and picked."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (editing of the typed line, where Python has it)
    note(
        "Type the beginning of a text. A number picks a suggestion, Enter alone the first; a line that "
        "begins with a space continues the text, any other begins a new one. Ctrl-D ends."
    )
    text, suggestions = "", []
    while True:
        try:
            with raise_at_interrupt():
                line = input("> ")
        except EOFError:
            print()
            return
        _decodable(line)
        if suggestions and not line:
            text += suggestions[0].text
        elif line.isdecimal() and 1 <= int(line) <= len(suggestions):
            text += suggestions[int(line) - 1].text
        elif suggestions and line.isdecimal() and len(line) <= 3:  # a longer one may be a text, such as 1001
            note(f"there is no suggestion {line}: 1 to {len(suggestions)}")
            continue
        else:
            text = text + line if line.startswith(" ") else line
        try:
            suggestions = model.suggest(text, k)
        except ValueError as error:  # the text has outgrown the context, say
            note(str(error))
            continue
        print(bold(text, sys.stdout))
        for number, suggestion in enumerate(suggestions, 1):
            print(f"{number:3} {_shown(suggestion)}")


def _decodable(line: str) -> None:
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the typed line is not UTF-8 text") from None


def _shown(suggestion: Suggestion) -> str:
    return f"{suggestion.probability:7.2%}  {_quoted(suggestion.text)}"


def told_suggestion(suggestion: Suggestion) -> dict[str, Any]:
    return {**suggestion._asdict(), "bytes": suggestion.bytes.hex()}


def _quoted(text: str) -> str:
    """A token so that its spaces and line breaks can be seen."""
    return json.dumps(text, ensure_ascii=False)


def score(arguments: Namespace) -> None:
    """Judge a text token by token, or files of texts."""
    if arguments.text and arguments.file is not None:
        raise ValueError("give a text or a file (-f), not both")
    if arguments.file is None and _scores_files(arguments):
        _score_files(arguments)
        return
    asked = {name: getattr(arguments, name) for name in _FILES_ONLY}
    given = [name for name, value in asked.items() if value is not None and value is not False]
    if given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} is for files of texts: give them as arguments, with -o DIR"
        )
    text = read_text(arguments.text[0] if arguments.text else None, arguments.file)
    if text is None:
        raise ValueError("no text to score: give it as an argument, with -f FILE, or on stdin")
    with open_output(arguments.output) as out:
        model = load_model(arguments)
        result = model.score(text, bos=not arguments.no_bos, stride=arguments.stride)
        tokens = [model.token_text(token) for token in result.token_ids]
        totals = {
            "tokens": len(result),
            "logprob": result.logprob,
            "perplexity": result.perplexity,
            "bits": result.bits,
            "bits_per_byte": result.bits_per_byte,
            "bits_per_char": result.bits_per_char,
        }
        columns = [
            result.token_ids,
            result.logprobs.tolist(),
            result.ranks.tolist(),
            result.entropies.tolist(),
            result.contexts.tolist(),
        ]
        if arguments.json:
            names = ("token_id", "logprob", "rank", "entropy", "context", "text", "offsets")
            offsets = result.offsets or [None] * len(result)  # some tokenizers change the text
            rows = zip(*columns, tokens, offsets, strict=True)
            totals["per_token"] = [dict(zip(names, row, strict=True)) for row in rows]
            print_json(totals, out)
            return
        print(f"{'logprob':>9} {'rank':>6} {'entropy':>8}  token", file=out)
        for _, logprob, rank, entropy, _, token in zip(*columns, tokens, strict=True):
            print(f"{logprob:9.4f} {rank:6} {entropy:8.4f}  {_quoted(token)}", file=out)
        per_byte = "" if result.bits_per_byte is None else f", {result.bits_per_byte:.4f} per byte"
        print(
            f"\n{_counted(len(result), 'token')} · log-probability {result.logprob:.4f} · "
            f"perplexity {result.perplexity:.2f} · {result.bits:.1f} bits{per_byte}",
            file=out,
        )


_FILES_ONLY = ("text_field", "lines", "max_tokens", "shard", "prefix")


def _scores_files(arguments: Namespace) -> bool:
    """Whether the arguments of `score` are names of files rather than a text."""
    from ..corpus.jobs import is_input

    given, output = arguments.text, arguments.output or ""
    return (
        len(given) > 1
        or output.endswith("/")
        or os.path.isdir(output)
        or (len(given) == 1 and is_input(given[0]) and os.path.isfile(given[0]))
    )


def _score_files(arguments: Namespace) -> None:
    from ..core.checks import check_integer
    from ..corpus.jobs import FileOptions, Totals, check_input, claim, is_input, plan, score_file, survey

    directory = arguments.output and (arguments.output.rstrip("/") or "/")
    if directory == "":
        raise ValueError("-o takes the name of a directory, and got an empty one")
    if not arguments.text:
        raise ValueError(f"{directory} is a directory: give the files whose scores it is for, or -o FILE")
    if (
        directory is None
        or os.path.isfile(directory)
        or (is_input(directory) and not os.path.isdir(directory))
    ):
        for source in arguments.text:
            check_input(source)
        name = arguments.text[0]
        got = "" if directory is None else f"; {directory} is the name of a file"
        raise ValueError(
            f"scores of files go to a directory: give it with -o DIR{got} (for one text token by token: -f "
            f"{name})"
        )
    if arguments.json:
        raise ValueError("--json is for a single text; scores of files are in the format of the files")
    given = {name: getattr(arguments, name) for name in _FILES_ONLY if getattr(arguments, name) is not None}
    options = FileOptions(bos=not arguments.no_bos, stride=arguments.stride, **given)
    jobs = plan(arguments.text, directory, options)
    model = load_model(arguments)
    if options.stride is not None:
        check_integer("stride", options.stride, 1, model.config.n_ctx, ", the model's positions")
    _ = model.tokenizer, options.bos and model.bos_token_id  # what is missing is told before the long work
    os.makedirs(directory, exist_ok=True)
    claim(directory, model, options, jobs)
    todo = [job for job in jobs if not os.path.isfile(job.target)]
    if len(todo) < len(jobs):
        rest = "" if todo else ": nothing to do"
        note(f"already in {directory}: {len(jobs) - len(todo)} of {_counted(len(jobs), 'output')}{rest}")
    if not todo:
        return

    from tqdm import tqdm

    quiet = not is_terminal(sys.stderr)
    size, problems = 0, []
    for job in tqdm(todo, "reading", unit="file", delay=1.5, leave=False, disable=quiet):
        try:
            size += survey(job, options)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    totals = Totals()
    with tqdm(total=size, desc="scoring", unit="B", unit_scale=True, leave=False, disable=quiet) as bar:
        begin = perf_counter()
        tokens = 0

        def advance(n_bytes: int, n_tokens: int) -> None:
            nonlocal tokens
            tokens += n_tokens
            bar.set_postfix_str(f"{tokens / (perf_counter() - begin):,.0f} tokens/s", refresh=False)
            bar.update(n_bytes)

        for job in todo:
            done = score_file(model, job, options, advance)
            totals.add(done)
            with tqdm.external_write_mode(sys.stderr):
                note(f"{job.target}: {_work(done)}")
    cost = ""
    if totals.bytes:
        hours = model.threads * totals.seconds / 3600 / (totals.bytes / 1e9)
        cost = f" · {hours:,.1f} vCPU-hours per GB with {_counted(model.threads, 'thread')}"
    note(f"{_counted(len(todo), 'file')}: {_work(totals)}{cost}")


def _work(totals: Totals) -> str:
    """What was done, and how fast."""
    counts = [(totals.unscored, "without a score"), (totals.truncated, "cut")]
    some = ", ".join(f"{n:,} {what}" for n, what in counts if n)
    return (
        f"{totals.records:,} record{'s' * (totals.records != 1)}{f' ({some})' * bool(some)} · "
        f"{totals.tokens:,} tokens · {totals.bytes / 1e6:,.3f} MB in {totals.seconds:,.1f} s · "
        f"{totals.tokens / totals.seconds:,.0f} tokens/s · {totals.bytes / 1e6 / totals.seconds:,.3f} MB/s"
    )


def info(arguments: Namespace) -> None:
    """Tell what a model is, and how it runs here."""
    if arguments.source is not None:
        if arguments.model is not None:
            raise ValueError("give the model once: as an argument or with -m")
        arguments.model = arguments.source
    with open_output(arguments.output) as out:
        model = load_model(arguments)
        if arguments.check:
            _check(arguments.model, model)
        tokenizer = model.tokenizer if model.has_tokenizer else None
        told = {
            "model": model.name,
            "config": [setting._asdict() for setting in model.config.report],
            "generation_config": model.generation_config,
            "parameters": model.config.n_parameters,
            "vocabulary": {
                "kind": tokenizer.kind,
                "tokens": tokenizer.n_vocab,
                "special_tokens": tokenizer.special_tokens,
            }
            if tokenizer
            else None,
            "notes": model.notes,
            "memory": model.memory_plan(),
            "numerics": model.numerics,
            "isa": model.weights.isa,
            "isas": _engine.isas(),
            "threads": model.threads,
        }
        if arguments.json:
            print_json(told, out)
        else:
            _print_info(told, out)


def _check(source: str | None, model: GPT2) -> None:
    from ..checkpoint.packed import open_packed, packed_path

    path = packed_path(source)
    if path is None:
        raise ValueError(f"--check is for packed files, which hold a checksum; {model.name} is none")
    open_packed(path).check()
    model.notes.append("the checksum of its contents is right")


def convert(arguments: Namespace) -> None:
    """Write a packed file."""
    from ..checkpoint.packed import packed_path
    from ..scoring.comparison import SAMPLE, compare, windows

    if packed_path(arguments.source) is not None:
        raise ValueError(
            f"{arguments.source} is a packed file already: convert the model that it was made from"
        )
    if arguments.no_comparison and arguments.text is not None:
        raise ValueError("--text is for the comparison that --no-comparison leaves out: give one of them")
    text = read_text(None, arguments.text or str(SAMPLE)) or ""  # before the long work
    arguments.model, arguments.backend = arguments.source, "native"
    model = load_model(arguments)
    model.save(arguments.destination)
    size = os.stat(arguments.destination).st_size
    told: dict[str, Any] = {"file": arguments.destination, "bytes": size, "dtype": model.dtype}
    if not arguments.json:
        print(f"{arguments.destination}: {bytes_told(size)}, {model.dtype}")
    texts = []
    if not arguments.no_comparison and model.dtype != "float32":
        if model.has_tokenizer:
            texts = windows(model, text)
        else:
            note("no comparison with float32: the model has no tokenizer")
    if texts:
        arguments.dtype = "float32"
        written = GPT2.from_pretrained(arguments.destination, threads=arguments.threads)
        loss, found = compare(texts, load_model(arguments), {model.dtype: written})
        cost = found[model.dtype]
        n = sum(len(ids) - 1 for ids in texts)
        told["comparison"] = {"text": arguments.text, "tokens": n, "float32_loss": loss, **cost}
        if not arguments.json:
            what = arguments.text or "gpt2c's sample text"
            print(
                f"against float32 on {what} ({_counted(n, 'token')}; {loss:.4f} nats each): "
                f"log-loss {cost['delta_percent']:+.3f} %, "
                f"same most probable token {cost['agreement_percent']:.2f} %, "
                f"KL divergence {cost['kl']:.2e} nats"
            )
    if arguments.json:
        print_json(told, sys.stdout)


def _print_info(told: dict[str, Any], out: TextIO) -> None:
    def section(title: str) -> None:
        print("\n" + bold(title, out), file=out)

    def line(name: str, value: object) -> None:
        print(f"  {name:<32} {value}", file=out)

    print(f"{bold(told['model'], out)}: GPT-2 with {told['parameters']:,} parameters", file=out)
    section("Configuration")
    for setting in told["config"]:
        remark = setting["status"] + (f": {setting['note']}" if setting["note"] else "")
        line(setting["key"], f"{_short(setting['value']):<12} {remark}")
    if told["generation_config"]:
        section("Its defaults for generation (not applied, but for bos and eos ids)")
        for name, value in told["generation_config"].items():
            line(name, _short(value))
    section("Vocabulary")
    if told["vocabulary"]:
        line("kind", told["vocabulary"]["kind"])
        line("tokens", f"{told['vocabulary']['tokens']:,}")
        for token, number in told["vocabulary"]["special_tokens"].items():
            line(f"special token {number}", _quoted(token))
    else:
        print("  none: token ids only", file=out)
    section("What was read")
    for remark in told["notes"] or ["nothing remarkable"]:
        print(f"  {remark}", file=out)
    section("Memory")
    for name, size in told["memory"].items():
        line(name.replace("_", " "), bytes_told(size))
    section("Here")
    line("instruction set", f"{told['isa']} (usable: {', '.join(told['isas'])})")
    line("threads", told["threads"])
    line("numerics", told["numerics"])


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def bytes_told(n: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= scale:
            return f"{n / scale:.1f} {unit}"
    return f"{n} bytes"


def load_model(arguments: Namespace) -> GPT2:
    return GPT2.from_pretrained(
        arguments.model,
        dtype=arguments.dtype,
        backend=arguments.backend,
        threads=arguments.threads,
        revision=arguments.revision,
        local_files_only=arguments.offline,
        progress=is_terminal(sys.stderr),
    )


def print_json(value: object, out: TextIO) -> None:
    # Escapes where the output's encoding might lack a character: a question mark would be another text.
    unicode = (out.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, ensure_ascii=not unicode, indent=2), file=out)
