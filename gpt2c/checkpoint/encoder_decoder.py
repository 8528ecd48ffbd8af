"""Encoder-decoder models on disk: a folder from transformers, or a folder of two packed files."""

from __future__ import annotations

import contextlib
import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..core.encoder_decoder import LoadedEncoderDecoder, Projection
from ..core.files import new_directory
from ..core.lm import LoadedModel
from ..core.threads import check_threads
from ..errors import CheckpointError, ConfigError
from ..tokenizer.files import FILES
from .bert import match_bert
from .bundled import ENCODER_DECODER
from .checkpoint import Checkpoint
from .directory import open_weights
from .encoder_decoder_config import Pair, pair_from_hf
from .files import RegularFile, read_object, reading
from .loading import (
    check_arithmetic,
    check_map,
    findable,
    given_tokenizer,
    load_checkpoint,
    load_packed,
    origin_of,
)
from .names import without_wrappers
from .opening import check_given, find
from .packed import save as save_packed
from .safetensors import read_header, write_tensors
from .tensors import TensorInfo, read_from
from .validate import LOOSE, listed, match

if TYPE_CHECKING:
    from ..config import Config

__all__ = ["load_encoder_decoder", "save_encoder_decoder"]

Model = TypeVar("Model", bound=LoadedEncoderDecoder[Any, Any])

_PARTS = ("encoder", "decoder")
# The names in a folder of packed files, beside config.json and the layer between the two, if any.
_PACKED = tuple(f"{part}.gpt2c" for part in _PARTS)
_BETWEEN = "enc_to_dec_proj"
_PACKED_BETWEEN = f"{_BETWEEN}.safetensors"


def load_encoder_decoder(
    cls: type[Model],
    classes: tuple[type[LoadedModel], type[LoadedModel]],
    source: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    cache_dtype: str | None = None,
    backend: str = "native",
    threads: int | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    subfolder: str | None = None,
    map: bool | None = None,
    strict: bool = True,
    progress: bool = False,
    **hub: Any,
) -> Model:
    """A model of class ``cls``, whose encoder and decoder are of these classes.

    The options are those of :meth:`gpt2c.EncoderDecoder.from_pretrained`.
    """
    check_given(source, subfolder)
    check_arithmetic(dtype, backend)
    tokenizers = _of_both(tokenizer)
    origin = origin_of(
        source,
        hub,
        dtype=dtype,
        cache_dtype=cache_dtype,
        backend=backend,
        threads=threads,
        tokenizer=None if tokenizer is None else tuple(findable(one) for one in tokenizers),
        revision=revision,
        subfolder=subfolder,
        map=check_map(map),
        strict=strict,
    )
    threads = check_threads(threads)
    path, notes, _ = find(source, revision, subfolder, hub | {"check": _read_pair})
    finders = [None if given is None else partial(given_tokenizer, given, hub) for given in tokenizers]
    how = {"threads": threads, "cache_dtype": cache_dtype, "origin": None}
    with reading(path):
        if any((path / file).exists() for file in _PACKED):
            parts = [
                load_packed([kind], path / file, dtype, backend, own, how, map=map, keeps_bos=True)
                for kind, file, own in zip(classes, _PACKED, finders, strict=True)
            ]
            projection = _packed_projection(path, parts[0].config, parts[1].config)
        else:
            opened = _open(path, os.fspath(source), strict)
            notes += opened.notes
            with opened.encoder.loading(), opened.decoder.loading():
                parts = [
                    load_checkpoint([kind], checkpoint, dtype, backend, own, progress, how, keeps_bos=True)
                    for kind, checkpoint, own in zip(classes, opened[:2], finders, strict=True)
                ]
                projection = opened.projection()
    encoder, decoder = parts
    return cls(encoder, decoder, projection, name=os.fspath(source), notes=notes, origin=origin)


def _of_both(tokenizer: Any) -> tuple[Any, Any]:
    """The requested tokenizers: the encoder's and the decoder's."""
    if not isinstance(tokenizer, tuple):
        return tokenizer, tokenizer
    if len(tokenizer) != 2:
        raise TypeError(
            "tokenizer must be one for both parts or a pair (the encoder's, the decoder's), not "
            f"{len(tokenizer)} in a tuple"
        )
    return tokenizer


def save_encoder_decoder(model: LoadedEncoderDecoder[Any, Any], path: str | os.PathLike[str]) -> None:
    """See :meth:`gpt2c.EncoderDecoder.save`."""
    with new_directory(os.fspath(path)) as name:
        folder = Path(name)
        for part, file in zip((model.encoder, model.decoder), _PACKED, strict=True):
            save_packed(part, folder / file)
        config = {"model_type": ENCODER_DECODER, **dict(zip(_PARTS, _PACKED, strict=True))}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if model.projection is not None:
            with open(folder / _PACKED_BETWEEN, "wb") as file_between:
                write_tensors(file_between, model.projection._asdict(), {"format": "pt"})


def _read_pair(directory: Path) -> Pair:
    """The configurations of the two parts in a directory."""
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{directory} has no config.json: give the folder of an encoder-decoder model, as "
            "transformers or gpt2c writes it"
        )
    of_generation = directory / "generation_config.json"
    try:
        return pair_from_hf(read_object(path), read_object(of_generation) if of_generation.exists() else {})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


class _Opened(NamedTuple):
    """A folder from transformers, checked to be complete."""

    encoder: Checkpoint
    decoder: Checkpoint
    between: dict[str, TensorInfo]
    notes: list[str]

    def projection(self) -> Projection | None:
        """The layer between the two, read."""
        if not self.between:
            return None
        return Projection(*(read_from(self.decoder.files, self.between[name]) for name in Projection._fields))


def _open(path: Path, name: str, strict: bool) -> _Opened:
    configs = _read_pair(path)
    with contextlib.ExitStack() as stack:
        files, stored, notes = open_weights(path, stack, strict=strict)
        own: dict[str, list[TensorInfo]] = {part: [] for part in (*_PARTS, _BETWEEN)}
        others = []
        for tensor in stored:
            whole = without_wrappers(tensor.name)
            part, _, rest = whole.partition(".")
            if part in own:
                own[part].append(tensor._replace(name=rest))
            else:
                others.append(tensor.name)
        if others and strict:
            raise CheckpointError(
                f"{path} does not hold the encoder-decoder model of its config.json: {listed(others)} not "
                f"expected{LOOSE}"
            )
        notes += [f"{listed(others)} ignored (strict=False)"] if others else []
        between = _between(own[_BETWEEN], configs, path)
        how: dict[str, Any] = {"source": "its config.json", "strict": strict}
        encoder, e_tensors, e_notes = match_bert(
            own["encoder"], configs.encoder, f"the encoder in {path}", **how
        )
        d_tensors, d_notes = match(own["decoder"], configs.decoder, f"the decoder in {path}", **how)
        stack.pop_all()
    opened = {file.path: file for file in files}
    return _Opened(
        Checkpoint(
            encoder, _tokenizer_of(path, "encoder"), f"{name} (encoder)", e_tensors, {}, e_notes, opened
        ),
        Checkpoint(
            configs.decoder,
            _tokenizer_of(path, "decoder"),
            f"{name} (decoder)",
            d_tensors,
            {},
            d_notes,
            opened,
        ),
        between,
        notes,
    )


def _tokenizer_of(path: Path, part: str) -> Path:
    """The location of a part's tokenizer: a folder of its name, or, for both, beside the weights."""
    own = path / part
    return own if any((own / file).is_file() for file in FILES) else path


def _between(stored: list[TensorInfo], configs: Pair, path: Path) -> dict[str, TensorInfo]:
    """The layer between encoder and decoder, which is required if their widths differ."""
    found = {tensor.name: tensor for tensor in stored}
    n_encoder, n_decoder = configs.encoder.n_embd, configs.decoder.n_embd
    wanted = {"weight": (n_decoder, n_encoder), "bias": (n_decoder,)} if n_encoder != n_decoder else {}
    shapes = {name: tensor.shape for name, tensor in found.items()}
    if shapes != wanted:
        needed = f"{_BETWEEN} with the shapes {wanted}" if wanted else f"no {_BETWEEN}"
        raise CheckpointError(
            f"{path}: the encoder is {n_encoder} wide and the decoder {n_decoder}, so it needs "
            f"{needed}; found: {shapes}"
        )
    return found


def _packed_projection(path: Path, encoder: Config, decoder: Config) -> Projection | None:
    if not (path / _PACKED_BETWEEN).exists():
        _between([], Pair(encoder, decoder), path)
        return None
    with RegularFile(path / _PACKED_BETWEEN) as file:
        found = _between(list(read_header(file).values()), Pair(encoder, decoder), path)
        return Projection(*(read_from({file.path: file}, found[name]) for name in Projection._fields))
