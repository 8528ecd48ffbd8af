"""`gpt2c score`: how probable a text is, token by token, or files of texts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from ..corpus.tasks import SCORES, Scoring
from .console import open_output, read_text
from .corpora import FILES_ONLY, Work, names_files, refuse_for_a_text, run_files
from .dtype import load_to_score
from .formatting import counted, print_json, quoted

if TYPE_CHECKING:
    from ..scoring.results import Score

__all__ = ["run"]


def run(arguments: Namespace) -> None:
    """Score a text token by token, or files of texts."""
    if arguments.text and arguments.file is not None:
        raise ValueError("give a text or a file (-f), not both")
    if arguments.file is None and names_files(arguments):
        run_files(arguments, Work("scores", "for one text token by token: -f", SCORES, _task(arguments)))
    else:
        _score_text(arguments)


def _task(arguments: Namespace) -> Callable[[str], Scoring]:
    """What makes the task of scoring files into a directory."""
    options = {name: getattr(arguments, name) for name in ("max_tokens", "bos", "special", "stride")}
    return lambda directory: Scoring(load_to_score(arguments, directory), **options)


def _score_text(arguments: Namespace) -> None:
    refuse_for_a_text(arguments, (*FILES_ONLY, "max_tokens"))
    text = read_text(arguments.text[0] if arguments.text else None, arguments.file)
    if text is None:
        raise ValueError("no text to score: give it as an argument, with -f FILE, or on stdin")
    with open_output(arguments.output) as out:
        model = load_to_score(arguments)
        score = model.score(
            text, bos=arguments.bos, special=arguments.special, stride=arguments.stride, edits=arguments.edits
        )
        if arguments.json:
            print_json(_to_dict(score), out)
        else:
            _print_score(score, [model.token_text(token) for token in score.token_ids], out)


def _to_dict(score: Score) -> dict[str, object]:
    return {
        "tokens": len(score),
        "logprob": score.logprob,
        "perplexity": score.perplexity,
        "bits": score.bits,
        "bits_per_byte": score.bits_per_byte,
        "bits_per_char": score.bits_per_char,
        "per_token": score.rows(),
    }


def _print_score(score: Score, tokens: Sequence[str], out: TextIO) -> None:
    print(f"{'logprob':>9} {'rank':>6} {'entropy':>8}  token", file=out)
    columns = (score.logprobs.tolist(), score.ranks.tolist(), score.entropies.tolist(), tokens)
    for logprob, rank, entropy, token in zip(*columns, strict=True):
        print(f"{logprob:9.4f} {rank:6} {entropy:8.4f}  {quoted(token)}", file=out)
    per_byte = "" if score.bits_per_byte is None else f", {score.bits_per_byte:.4f} per byte"
    print(
        f"\n{counted(len(score), 'token')} · log-probability {score.logprob:.4f} · "
        f"perplexity {score.perplexity:.2f} · {score.bits:.1f} bits{per_byte}",
        file=out,
    )
