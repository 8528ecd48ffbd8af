"""The base class of results that can be drawn, independent of the code that draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Displayed"]


class Displayed:
    """A result that can be plotted, and shown in a notebook.

    Results lie below the views that draw them, so this class is the one place that imports upward. Each view
    is a function of :func:`functools.singledispatch`, registered for the types that it can draw.
    """

    __slots__ = ()

    def plot(self, *args: Any, **options: Any) -> Figure:
        """Draw the result with matplotlib.

        Plots and their arguments:

        - ``ActivationCache.plot(layer, head=None, *, ax=None)``: the attention pattern of one head, or of all
          heads of a layer, each on a scale that ends at its largest weight. Layers and heads are counted from
          0, negative ones from the end; the layer's ``attn.hook_pattern`` must have been captured.
        - ``CrossAttention.plot(*, ax=None)``: its weights as a map.
        - ``Score.plot(*, ax=None)``: the surprisal of each token in bits, coloured by its rank, beside the
          surprisal expected.
        - ``LogitLens.plot(*, ax=None)``: the first choice after each layer for each token, coloured by its
          log-probability (nats); 24 tokens side by side, the rest below, unless ``ax`` is given.
        - ``Attribution.plot()``: what each component adds as a bar, and each head as a cell of a map.
        - ``HeadScores.plot()``: a map of layers and heads for each score.
        - ``Patching.plot()``: a map of layers and positions, or of layers and heads for each position.
        - ``Trace.plot(token_ids=(), *, ax=None)``: the candidates of every step; of beam search the tree of
          its texts, with the path of ``token_ids`` highlighted.
        - ``Generation.plot(*, ax=None)``: its trace, with its own path highlighted.

        Parameters
        ----------
        ax : matplotlib axes, optional
            Axes to draw into, instead of a new figure.

        Returns
        -------
        matplotlib.figure.Figure
            Notebooks show it, once; elsewhere ``matplotlib.pyplot.show()`` does.

        Raises
        ------
        ImportError
            matplotlib is not installed: ``pip install "gpt2c[plot]"``.
        ValueError
            There is nothing to draw.

        Examples
        --------
        >>> figure = model.score("The king had three daughters.").plot()
        >>> figure.savefig("score.png")
        """
        from ..views import plots

        return plots.plot(self, *args, **options)

    def _repr_html_(self) -> str | None:
        from ..views import notebook

        return notebook.html(self)
