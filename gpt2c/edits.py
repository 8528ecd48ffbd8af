"""``from gpt2c import edits``: interventions in a forward pass; see gpt2c.introspection.edits."""

from .introspection.edits import Edit, add, mean, replace, scale, zero

__all__ = ["Edit", "add", "mean", "replace", "scale", "zero"]
