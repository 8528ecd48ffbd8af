"""``python -m gpt2c`` is the command ``gpt2c``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
