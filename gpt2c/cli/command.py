"""The command ``gpt2c``: it parses its arguments, runs the command they name and reports errors.

Text goes to stdout, everything else to stderr. The exit status is 0; 1 for an error that a message explains;
2 for an invalid command line; 130 after Ctrl-C and 143 after SIGTERM. Each command is the function ``run`` of
the module of its name, which is imported, and with it NumPy and the engine, once the arguments are valid.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.labels import harmless
from ..errors import GPT2CError
from . import console

if TYPE_CHECKING:
    from argparse import ArgumentParser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: this process's) and return the exit status.

    For a whole process only, because it changes the handling of Ctrl-C and SIGTERM.
    """
    try:
        try:
            console.leave_at_interrupt()
            console.make_streams_safe()
            _run(argv)
            console.note_escapes()
            status = 0
        except SystemExit as exit:
            # argparse exits after --help, --version and errors.
            status = exit.code if isinstance(exit.code, int) else 1
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output has closed it.
        console.silence_stdout()
        return 0
    except OSError as error:
        # A CheckpointError is also an OSError, with only a message.
        _complain(": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error))
    except (GPT2CError, ValueError, ImportError) as error:
        _complain(str(error))
    except MemoryError:
        _complain(
            "not enough memory for this model and context; a shorter text or a smaller model needs less"
        )
    console.silence_stdout()
    return 1


def _complain(message: str) -> None:
    if sys.stderr is not None:
        print(harmless(f"gpt2c: error: {message}"), file=sys.stderr)


def _run(argv: Sequence[str] | None) -> None:
    # Deferred, so that importing the package stays light and Ctrl-C works from the start.
    from importlib import import_module

    from .parser import COMMANDS, build_parser

    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell requests completions
        from .completion import complete

        complete(parser)
    words = sys.argv[1:] if argv is None else argv
    named = next((word for word in words if not word.startswith("-")), None)
    if named is not None and named not in COMMANDS:
        from difflib import get_close_matches

        close = get_close_matches(named, COMMANDS, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        parser.error(f"unknown command {named!r}; {meant}the commands are {', '.join(COMMANDS)}")
    arguments, extra = parser.parse_known_args(argv)
    if isinstance(vars(arguments).get("text"), list) and not any(word.startswith("-") for word in extra):
        # argparse accepts only adjacent file arguments.
        arguments.text += extra
    elif extra:
        parser = getattr(arguments, "parser", parser)
        hint = _hint(parser, extra, vars(arguments))
        parser.error(f"unrecognized arguments: {' '.join(extra)}{hint}")
    if arguments.command is None:
        parser.print_help(sys.stderr)
        parser.exit(2)
    import_module(f".{arguments.command}", __package__).run(arguments)


def _hint(parser: ArgumentParser, extra: list[str], understood: dict[str, object]) -> str:
    """The end of a message: the probable meaning of the arguments ``extra``; may be empty."""
    if not any(word.startswith("-") for word in extra):
        takes_text = "text" in understood
        return f"; put a text of several words in quotes: {extra[0]!r} is extra" if takes_text else ""
    from difflib import get_close_matches

    from .foreign_options import answer_to

    option = next(word for word in extra if word.startswith("-")).partition("=")[0]
    if said := answer_to(option, str(understood["command"]), parser):
        return f"; {said}"
    known = [name for name in parser._option_string_actions if name.startswith("--")]
    meant = [name for name in known if option.startswith("--") and name.startswith(option)]
    if not meant:
        # Compared without the dashes, which make all options alike.
        close = get_close_matches(option.lstrip("-"), [name[2:] for name in known], n=1, cutoff=0.7)
        meant = [f"--{name}" for name in close]
    if meant:
        return f"; did you mean {' or '.join(meant)}?"
    no_text = understood.get("text", "") in (None, [])
    return "; put a text that starts with - last, after --" if no_text else ""
