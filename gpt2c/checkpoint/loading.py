"""Loading a model from a checkpoint, whose weights are packed, or from a packed file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..core import _engine
from ..core.checks import check_flag
from ..core.lm import LoadedModel
from ..core.roles import wrong_class
from ..core.threads import check_threads
from ..errors import TokenizerError
from .bundled import BUNDLED_MASKED
from .packed import open_packed, packed_path
from .special_tokens import with_tokenizer

if TYPE_CHECKING:
    import numpy as np

    from ..config import Config
    from ..tokenizer.base import Tokenizer
    from .opening import Checkpoint

__all__ = [
    "check_arithmetic",
    "check_map",
    "findable",
    "given_tokenizer",
    "load",
    "load_checkpoint",
    "load_packed",
    "origin_of",
]

Model = TypeVar("Model", bound=LoadedModel)


def load(
    classes: Sequence[type[Model]],
    source: str | os.PathLike[str] | None,
    *,
    dtype: str | None = None,
    cache_dtype: str | None = None,
    backend: str = "native",
    threads: int | None = None,
    tokenizer: Any = None,
    adapter: Any = None,
    revision: str | None = None,
    subfolder: str | None = None,
    map: bool | None = None,
    strict: bool = True,
    progress: bool = False,
    **hub: Any,
) -> Model:
    """A model of the one of ``classes`` that is for its type.

    The options are those of :meth:`gpt2c.GPT2.from_pretrained`.
    """
    if adapter is not None:
        from .merging import given_adapters

        adapter = given_adapters(adapter)
    origin = origin_of(
        source,
        hub,
        dtype=dtype,
        backend=backend,
        threads=threads,
        tokenizer=findable(tokenizer),
        adapter=adapter and [(findable(path), weight) for path, weight in adapter],
        revision=revision,
        subfolder=subfolder,
        map=check_map(map),
        strict=strict,
    )
    threads = check_threads(threads)  # before the long work
    check_arithmetic(dtype, backend)
    how: dict[str, Any] = {"threads": threads, "cache_dtype": cache_dtype, "origin": origin}
    find = None if tokenizer is None else partial(given_tokenizer, tokenizer, hub)
    path = None if revision is not None or subfolder else packed_path(source)
    if path is not None and adapter:
        raise ValueError(
            f"{path} is a packed file, and adapters cannot be merged into it: give the original model "
            "with the adapter; save writes both into one packed file"
        )
    if path is not None:
        return load_packed(classes, path, dtype, backend, find, how, map=map)

    from .opening import open_checkpoint

    checkpoint = open_checkpoint(
        source, adapter=adapter, revision=revision, subfolder=subfolder, strict=strict, **hub
    )
    with checkpoint.loading():
        return load_checkpoint(classes, checkpoint, dtype, backend, find, progress, how)


def check_arithmetic(dtype: Any, backend: Any) -> None:
    """Raise ValueError for an unknown number format or back end."""
    if dtype is not None and dtype not in _engine.DTYPES:
        measured = "; gpt2c bench --recommend shows which is fastest here" if dtype == "auto" else ""
        raise ValueError(
            f"dtype must be None or one of {', '.join(map(repr, _engine.DTYPES))}, not {dtype!r}{measured}"
        )
    if backend not in _engine.BACKENDS:
        raise ValueError(f"backend must be 'native' or 'blas', not {backend!r}")


def check_map(map: Any) -> bool | None:
    """``map`` as it is, or TypeError."""
    return None if map is None else check_flag("map", map)


def origin_of(source: Any, hub: dict[str, Any], **how: Any) -> dict[str, Any]:
    """The arguments that load a model again, for a pickle; without the access token, which is a secret."""
    known = {name: value for name, value in hub.items() if name != "token"}
    return {"source": findable(source), **how, **known}


def findable(given: Any) -> Any:
    """A path made absolute; anything else, such as a hub name, unchanged."""
    return os.path.abspath(given) if isinstance(given, str | os.PathLike) and os.path.exists(given) else given


def _class_of(config: Config, name: str, classes: Sequence[type[Model]]) -> type[Model]:
    for cls in classes:
        if cls.model_type in (None, config.model_type):
            return cls
    raise wrong_class(config, name)


def load_checkpoint(
    classes: Sequence[type[Model]],
    checkpoint: Checkpoint,
    dtype: str | None,
    backend: str,
    find: Callable[[Config], Tokenizer] | None,
    progress: bool,
    how: dict[str, Any],
    *,
    keeps_bos: bool = False,
) -> Model:
    """The model of a checkpoint; its tokenizer is the one from ``find``, or its own."""
    cls = _class_of(checkpoint.config, checkpoint.name, classes)
    notes = list(checkpoint.notes)
    found, problem = _tokenizer(find, checkpoint.config, lambda: _own_tokenizer(checkpoint), notes)
    config, remarks = with_tokenizer(checkpoint.config, found, keeps_bos=keeps_bos)
    with _counting(checkpoint, progress) as (read, read_rows):
        weights = _engine.Weights(
            config,
            read,
            read_rows=read_rows,
            backend=backend,
            dtype=dtype or "float32",
            threads=how["threads"],
        )
    return cls(
        weights,
        found,
        name=checkpoint.name,
        notes=notes + remarks,
        generation_config=checkpoint.generation_config,
        no_tokenizer=problem,
        source_sha256=lambda: checkpoint.sha256,
        **how,
    )


def _own_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of the files beside the weights."""
    from .tokenizer import tokenizer_at

    return tokenizer_at(checkpoint.directory, checkpoint.config)


def load_packed(
    classes: Sequence[type[Model]],
    path: Path,
    dtype: str | None,
    backend: str,
    find: Callable[[Config], Tokenizer] | None,
    how: dict[str, Any],
    *,
    map: bool | None,
    keeps_bos: bool = False,
) -> Model:
    """The model of a packed file; like `load_checkpoint`."""
    from ..tokenizer.load import unpack

    packed = open_packed(path, map)
    cls = _class_of(packed.config, str(path), classes)
    if dtype not in (None, packed.dtype):
        raise ValueError(
            f"dtype is {dtype!r}, but {path} holds its weights in {packed.dtype!r} only: leave dtype out, or "
            "load the original model"
        )
    if backend != "native":
        raise ValueError(f"backend is {backend!r}, but {path} is packed for backend 'native'")
    metadata = packed.metadata
    notes = [
        f"packed file of version {metadata['version']}, "
        f"{'mapped and used in place' if packed.guard else 'read into memory'}: {packed.dtype}",
        f"made from {metadata.get('name')}, SHA-256 of its weights "
        f"{metadata.get('source_sha256') or 'unknown'}, with numerics {metadata.get('numerics')}",
    ]

    def own() -> Tokenizer:
        if packed.vocabulary is None:
            raise TokenizerError(
                f"{path} holds no tokenizer: give one with tokenizer= (--tokenizer), or token ids"
            )
        return unpack(packed.vocabulary, str(path), packed.config.n_vocab)

    found, problem = _tokenizer(find, packed.config, own, notes)
    config, remarks = with_tokenizer(packed.config, found, keeps_bos=keeps_bos)
    packed = replace(packed, config=config)
    return cls(
        packed.weights(threads=how["threads"]),
        found,
        name="the bundled masked model" if path == BUNDLED_MASKED else str(path),
        notes=notes + remarks,
        generation_config=packed.generation_config,
        no_tokenizer=problem,
        source_sha256=lambda: metadata.get("source_sha256", ""),
        **how,
    )


def given_tokenizer(given: Any, hub: dict[str, Any], config: Config) -> Tokenizer:
    """The requested tokenizer."""
    from .tokenizer import find_tokenizer

    return find_tokenizer(given, config, **hub)


def _tokenizer(
    find: Callable[[Config], Tokenizer] | None,
    config: Config,
    own: Callable[[], Tokenizer],
    notes: list[str],
) -> tuple[Tokenizer | None, str]:
    """The requested tokenizer, which must exist, else the model's own; or None and why.

    Without its own tokenizer a model still works with token ids, so that is a note, not an error.
    """
    if find is not None:
        return find(config), ""
    try:
        return own(), ""
    except TokenizerError as error:
        notes.append(f"no tokenizer: {error}")
        return None, str(error)


@contextlib.contextmanager
def _counting(
    checkpoint: Checkpoint, progress: bool
) -> Iterator[tuple[Callable[..., Any], Callable[..., Any]]]:
    """The checkpoint's two methods to read; with a progress bar of the bytes read."""
    if not progress:
        yield checkpoint.read, checkpoint.read_rows
        return
    from tqdm import tqdm

    total = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="loading", delay=1.5, leave=False) as bar:

        def counted(read: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
            def reading(name: str, *rows: int) -> np.ndarray:
                found = read(name, *rows)
                bar.update(checkpoint.tensors[name].size_of(found.size))
                return found

            return reading

        yield counted(checkpoint.read), counted(checkpoint.read_rows)
