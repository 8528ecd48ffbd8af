"""A reader of a torch file's pickle that builds values and calls nothing.

A pickle is a program for a small stack machine, which can name and call any Python function. Here its
instructions are only inspected: a few of them make numbers, texts, lists, tuples and dicts; the few functions
that torch names in a file of tensors are not called, but mapped by torch_names.py; everything else is refused
by name. `pickletools` splits the bytes into instructions. The format: PEP 307, PEP 3154, and the comments in
Lib/pickletools.py.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Hashable
from typing import IO, Any, cast

from ..errors import CheckpointError
from .torch_names import STORAGES, Name, Storage, is_size, named

__all__ = ["MOST_BYTES", "read_pickle"]

# Maximum instructions of a pickle: GPT-2 1.5B with the state of Adam has 68,000. Each takes up to 200 bytes.
_MOST_INSTRUCTIONS = 100_000
# Maximum bytes of a pickle; a text takes up to four times its bytes.
MOST_BYTES = 4 * 2**20
_LONGEST_NAME = 1000


class _Mark:
    """The start of a list's, tuple's or dict's values on the stack."""


_MARK = _Mark()


def read_pickle(file: IO[bytes], where: str, *, is_torch: bool = True, is_stream: bool = False) -> Any:
    """The value of the pickle at the file's position, which moves past it.

    Tensors are `Tensor`, storages `Storage`; an OrderedDict is a dict; its attributes are left out.

    Parameters
    ----------
    file : binary file
        Buffered.
    where : str
        The name of the file; errors start with it.
    is_torch : bool
        Whether torch wrote it, for the advice in errors.
    is_stream : bool
        Whether it is of a stream, where the description of a storage has one more part.

    Raises
    ------
    CheckpointError
        It is damaged, or names anything that a file of tensors does not need.
    """
    machine, stream = _Machine(where, is_torch, is_stream), cast("IO[bytes]", _Bounded(file))
    end = 0  # of the current frame, which holds instructions and may not be truncated
    try:
        for n, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if n == _MOST_INSTRUCTIONS:
                raise CheckpointError(f"{where} has a pickle of more than {n:,} instructions, too many")
            if opcode.name == "FRAME":
                end = file.tell() + cast("int", argument)
            if opcode.name == "STOP":
                if file.tell() < end:
                    raise ValueError("a frame is truncated")
                return machine.result()
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, EOFError, UnicodeDecodeError, OverflowError) as error:
        raise CheckpointError(f"{where} has a damaged pickle: {error}") from None
    raise CheckpointError(f"{where} has a damaged pickle: it is truncated")


class _Bounded:
    """A file for pickletools that checks announced lengths before they are trusted."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, MOST_BYTES

    def read(self, n: int) -> bytes:
        if n > self._left:
            raise ValueError(f"a value of {n} bytes makes it larger than {MOST_BYTES} bytes")
        self._left -= n
        return self._file.read(n)

    def readline(self) -> bytes:
        return self._file.readline(_LONGEST_NAME)


class _Machine:
    """The stack, and the effect of each instruction on it."""

    def __init__(self, where: str, is_torch: bool, is_stream: bool) -> None:
        self.where, self.is_torch, self.is_stream = where, is_torch, is_stream
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def result(self) -> Any:
        if len(self.stack) != 1:
            raise ValueError("values are left over at its end")
        return self._pop()

    def step(self, name: str, argument: Any) -> None:
        """Execute an instruction."""
        literal = _LITERALS.get(name)
        if literal is not None:
            self.stack.append(literal(argument))
            return
        method = _METHODS.get(name)
        if method is None:
            raise CheckpointError(f"{self.where} has a pickle with {name}, which no file of tensors needs")
        method(self, argument)

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a value is missing")
        return value

    def _peek(self) -> Any:
        if self.stack[-1] is _MARK:
            raise ValueError("a value is missing")
        return self.stack[-1]

    def _since_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                values = self.stack[at + 1 :]
                del self.stack[at:]
                return values
        raise ValueError("a mark is missing")

    def _top(self, kind: type) -> Any:
        value = self.stack[-1]
        if type(value) is not kind:
            raise ValueError(f"a {kind.__name__} is missing")
        return value

    # ---- one method for each instruction

    def op_proto(self, version: int) -> None:
        if version > 5:
            raise ValueError(f"version {version} of the format is unknown")

    def op_frame(self, _: int) -> None:
        pass

    def op_mark(self, _: None) -> None:
        self.stack.append(_MARK)

    def op_tuple(self, _: None) -> None:
        self.stack.append(tuple(self._since_mark()))

    def op_tuple1(self, _: None) -> None:
        self._gather(1)

    def op_tuple2(self, _: None) -> None:
        self._gather(2)

    def op_tuple3(self, _: None) -> None:
        self._gather(3)

    def _gather(self, n: int) -> None:
        values = [self._pop() for _ in range(n)]
        self.stack.append(tuple(reversed(values)))

    def op_append(self, _: None) -> None:
        value = self._pop()
        self._top(list).append(value)

    def op_appends(self, _: None) -> None:
        values = self._since_mark()
        self._top(list).extend(values)

    def op_setitem(self, _: None) -> None:
        value, key = self._pop(), self._pop()
        self._put([key, value])

    def op_setitems(self, _: None) -> None:
        self._put(self._since_mark())

    def _put(self, values: list[Any]) -> None:
        table = self._top(dict)
        if len(values) % 2:
            raise ValueError("a key has no value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (str, int, float, bool, type(None), bytes):
                raise ValueError(f"a key of a dict is a {type(key).__name__}")
            table[key] = value

    def op_binput(self, index: int) -> None:
        self.memo[index] = self._peek()

    op_long_binput = op_binput

    def op_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self._peek()

    def op_binget(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"it refers to value {index} before that exists")
        self.stack.append(self.memo[index])

    op_long_binget = op_binget

    def op_global(self, words: str) -> None:
        module, _, name = words.partition(" ")
        self.stack.append(named(module, name, self.where, self.is_torch))

    def op_stack_global(self, _: None) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a name is not a text")
        self.stack.append(named(module, name, self.where, self.is_torch))

    def op_reduce(self, _: None) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Name) or function.call is None or type(arguments) is not tuple:
            raise ValueError("something is called that is not a function")
        try:
            self.stack.append(function.call(*arguments))
        except TypeError:
            raise ValueError(f"{function.name} has unexpected arguments") from None

    def op_build(self, _: None) -> None:
        """Attributes of an OrderedDict, such as the _metadata of a state dict, are left out."""
        self._pop()
        self._top(dict)

    def op_binpersid(self, _: None) -> None:
        parts = self._pop()
        if type(parts) is not tuple or len(parts) != 5 + self.is_stream or parts[0] != "storage":
            raise ValueError("a storage is missing")
        kind, key, numel = parts[1], parts[2], parts[4]
        name = kind.name.rpartition(".")[2] if isinstance(kind, Name) else ""
        if name not in STORAGES or type(key) is not str or not is_size(numel):
            raise ValueError("a storage is described incorrectly")
        if self.is_stream and parts[5] is not None:
            raise ValueError("a storage is a part of another, which is not supported")
        storage = Storage(key, STORAGES[name], numel)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("a storage is described in two ways")
        self.stack.append(storage)


_METHODS: dict[str, Callable[[_Machine, Any], None]] = {
    name.removeprefix("op_").upper(): method
    for name, method in vars(_Machine).items()
    if name.startswith("op_")
}


def _same(value: Hashable) -> Callable[[Any], Any]:
    return lambda _: value


_LITERALS: dict[str, Callable[[Any], Any]] = {
    "NONE": _same(None),
    "NEWTRUE": _same(True),
    "NEWFALSE": _same(False),
    "EMPTY_TUPLE": _same(()),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
            *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        ),
        lambda argument: argument,
    ),
}
