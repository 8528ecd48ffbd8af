"""The version of gpt2c."""

__version__ = "0.1.0"
