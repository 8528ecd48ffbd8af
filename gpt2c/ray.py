"""``from gpt2c.ray import Scorer``, Generator, Embedder: for rows of a table, with Ray Data or `datasets`."""

from .integrations.ray import Embedder as Embedder
from .integrations.ray import Generator as Generator
from .integrations.ray import Scorer as Scorer
