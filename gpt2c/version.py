"""The version of gpt2c."""

__version__ = "0.2.0"
