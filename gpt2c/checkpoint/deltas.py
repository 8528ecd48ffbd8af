"""An adapter's changes to the values of tensors, a block of rows at a time, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..errors import CheckpointError, shown
from .adapter import Adapter, LowRank
from .tensors import TensorInfo

__all__ = ["Apply", "Blocks", "Change", "blocks_of", "changes_of", "rows_at_a_time"]

# Elements to merge at a time.
_BLOCK = 2**18

# Changes a block of rows of a tensor, in float64, given which row is its first.
Apply = Callable[[np.ndarray, int], None]
# Gives such blocks of the base's tensor, each with its first row.
Blocks = Callable[[], Iterator[tuple[np.ndarray, int]]]
_Read = Callable[[TensorInfo], np.ndarray]


class _Added(NamedTuple):
    """The change that a pair of matrices adds."""

    pair: LowRank
    weight: float

    def check(self, shape: tuple[int, ...], adapter: Adapter) -> None:
        pair, (n_out, n_in) = self.pair, (self.pair.b.shape[0], self.pair.a.shape[1])
        fits = (n_in, n_out) if pair.transposed else (n_out, n_in)
        if fits != shape:
            told = f", {adapter.settings.base!r}" if adapter.settings.base else ""
            raise CheckpointError(
                f"{pair.a.file}: {shown(pair.a.name)} and its B change a matrix of shape {list(fits)}, but "
                f"the base's has {list(shape)}: the adapter is for another base{told}"
            )
        if pair.magnitude is not None:
            _check_shape(pair.magnitude, (n_out,))

    def prepare(self, read: _Read, blocks: Blocks) -> Apply:
        a, b = read(self.pair.a), read(self.pair.b)
        left, right = (a.T, b.T) if self.pair.transposed else (b, a)
        right = right.astype(np.float64) * (self.pair.scaling * self.weight)

        def add(block: np.ndarray, begin: int) -> None:
            block += left[begin : begin + len(block)].astype(np.float64) @ right

        if self.pair.magnitude is None:
            return add
        scale = read(self.pair.magnitude).astype(np.float64)
        squares = np.zeros(len(scale))
        for block, begin in blocks():
            add(block, begin)
            if self.pair.transposed:
                squares += np.square(block).sum(0)
            else:
                squares[begin : begin + len(block)] = np.square(block).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):  # values that are not finite are refused
            scale /= np.sqrt(squares)

        def add_and_scale(block: np.ndarray, begin: int) -> None:
            add(block, begin)
            block *= scale if self.pair.transposed else scale[begin : begin + len(block), None]

        return add_and_scale


class _Bias(NamedTuple):
    """The change that is added to a vector."""

    values: TensorInfo
    scaling: float

    def check(self, shape: tuple[int, ...], adapter: Adapter) -> None:
        _check_shape(self.values, shape)

    def prepare(self, read: _Read, blocks: Blocks) -> Apply:
        values = read(self.values).astype(np.float64) * self.scaling

        def add(block: np.ndarray, begin: int) -> None:
            block += values[begin : begin + len(block)]

        return add


class _Rows(NamedTuple):
    """Replaced rows of a matrix."""

    values: TensorInfo
    rows: list[int]

    def check(self, shape: tuple[int, ...], adapter: Adapter) -> None:
        _check_shape(self.values, (len(self.rows), *shape[1:]))
        if len({*self.rows}) < len(self.rows) or max(self.rows, default=0) >= shape[0]:
            raise CheckpointError(
                f"{adapter.settings.where}: trainable_token_indices must be different rows, below {shape[0]}"
            )

    def prepare(self, read: _Read, blocks: Blocks) -> Apply:
        values, rows = read(self.values), np.array(self.rows, np.int64)

        def replace_rows(block: np.ndarray, begin: int) -> None:
            inside = (begin <= rows) & (rows < begin + len(block))
            block[rows[inside] - begin] = values[inside]

        return replace_rows


Change = _Added | _Bias | _Rows


def _check_shape(tensor: TensorInfo, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise CheckpointError(
            f"{tensor.file}: {shown(tensor.name)} has the shape {list(tensor.shape)}; {list(shape)} is "
            "needed: the adapter is for another base, or damaged"
        )


def changes_of(adapter: Adapter) -> Iterator[tuple[str, Change]]:
    """The changes to each tensor; rows are replaced before anything is added to them."""
    for name, (rows, values) in adapter.rows.items():
        yield name, _Rows(values, rows)
    for name, pair in adapter.pairs.items():
        yield name, _Added(pair, adapter.weight)
    for name, (bias, scaling) in adapter.biases.items():
        yield name, _Bias(bias, scaling * adapter.weight)


def rows_at_a_time(shape: tuple[int, ...]) -> int:
    """The number of rows in a block of a tensor."""
    return max(1, _BLOCK // max(1, math.prod(shape[1:])))


def blocks_of(rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """The blocks of some rows, as float64, each with its first row."""
    step = rows_at_a_time(rows.shape)
    for begin in range(0, len(rows), step):
        yield rows[begin : begin + step].astype(np.float64), begin
