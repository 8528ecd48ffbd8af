"""``from gpt2c.ray import Scorer``: scores for the rows of a table, with Ray Data or `datasets`."""

from .integrations.ray import Scorer as Scorer
