"""The command ``gpt2c``: parser.py has its arguments, command.py runs it; then one file per command."""

from .command import main

__all__ = ["main"]
