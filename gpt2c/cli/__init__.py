"""The command ``gpt2c``.

Each of its commands has a file or folder of its name: generate.py, suggest.py, score.py, explain.py, info.py,
convert.py, bench/. Their arguments are in parser.py and options.py; command.py runs the one asked for.
"""

from .command import main

__all__ = ["main"]
