"""`gpt2c info --check`: problems and surprises of a model that loads."""

from __future__ import annotations

import hashlib
import math
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import reference, reference_bert
from ..checkpoint import Checkpoint, open_checkpoint
from ..checkpoint.packed import open_packed, packed_path
from ..checkpoint.tensors import ZERO
from ..checkpoint.torch_file import checksums
from ..core import _engine
from ..errors import CheckpointError, ConfigError, TokenizerError, shown
from ..tokenizer.files import FILES, META
from .formatting import counted, quoted, size_text

if TYPE_CHECKING:
    from ..config import Config
    from ..pretrained import Pretrained
    from ..tokenizer import Tokenizer

__all__ = ["Finding", "findings", "rounding_bound"]

# Maximum tokens of the self-check.
_LENGTH = 16
# Half the distance from 1 to the next float32.
_UNIT = 2.0**-24


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    result: str
    """ "ok", "note" (it works, but is worth knowing) or "wrong"."""
    text: str
    """The finding and, if anything is to be done, the advice."""


def findings(model: Pretrained, arguments: Namespace) -> Iterator[Finding]:
    """Check a model that was loaded with the parsed ``arguments`` of a command."""
    path = packed_path(arguments.model)
    yield _configuration(model.config)
    if path is None or arguments.revision is not None:
        with _opened(arguments, arguments.strict) as checkpoint:
            directory = checkpoint.directory
            yield _stored(checkpoint)
            yield from _checksums(checkpoint)
            paths = sorted(checkpoint.files)
        if not arguments.strict:
            yield from _left_aside(arguments)
    else:
        directory, paths = None, [path]
        yield _checksum(path)
    for file in paths:
        yield _hash(file)
    finite = _finite(model)
    yield finite
    if finite.result == "ok":
        yield from _self_check(model)
    yield from _tokenizer(model, directory)


def _opened(arguments: Namespace, strict: bool) -> closing[Checkpoint]:
    return closing(
        open_checkpoint(
            arguments.model,
            adapter=arguments.adapter,
            revision=arguments.revision,
            strict=strict,
            local_files_only=arguments.offline,
        )
    )


def _left_aside(arguments: Namespace) -> Iterator[Finding]:
    """Findings that would be errors without --no-strict."""
    try:
        with _opened(arguments, strict=True):
            pass
    except (CheckpointError, ConfigError) as error:
        yield Finding("strict", "note", str(error))


def _configuration(config: Config) -> Finding:
    report = config.report
    if not report:
        return Finding("configuration", "ok", "its sizes are those of the checkpoint, which has no more")
    counts = Counter(setting.status for setting in report)
    text = (
        f"{counted(counts['honoured'], 'key')} honoured, {counts['ignored']} without effect, "
        f"{counts['default']} not given (the default)"
    )
    strange = [setting.key for setting in report if setting.status == "unknown"]
    if strange:
        text += (
            f"; unknown and ignored: {', '.join(strange)}. If one of them changes what the model computes, "
            "its logits differ here"
        )
    ends = [s for s in report if s.key in ("bos_token_id", "eos_token_id") and s.status == "ignored"]
    text += "".join(f"; {s.key} is {s.value}: {s.note}" for s in ends)
    return Finding("configuration", "note" if strange or ends else "ok", text)


def _stored(checkpoint: Checkpoint) -> Finding:
    tensors = checkpoint.tensors.values()
    counts = Counter(tensor.dtype for tensor in tensors)
    size = size_text(sum(tensor.nbytes for tensor in tensors))
    zeros = counts.pop(ZERO, 0)
    of = [f"{n} of {dtype}" for dtype, n in sorted(counts.items())]
    of += [f"{zeros} zero by a rule of the format"] * (zeros > 0)
    return Finding("tensors", "ok", f"all that the model has: {', '.join(of)}; {size} in files")


def _checksums(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The checksums of files that torch wrote."""
    found = [(file, *member) for file in checkpoint.files.values() for member in checksums(file)]
    wrong = [f"{file.path}: the CRC-32 of {shown(name)}" for file, name, is_right in found if not is_right]
    if wrong:
        text = f"{', '.join(wrong[:4])} does not match its bytes: the file is damaged; get or make it again"
        yield Finding("checksum", "wrong", text)
    elif found:
        yield Finding("checksum", "ok", "the CRC-32 of every tensor is correct")


def _checksum(path: Path) -> Finding:
    try:
        open_packed(path).check()
    except CheckpointError as error:
        return Finding("checksum", "wrong", str(error))
    return Finding("checksum", "ok", "the checksum of its contents is correct")


def _hash(path: Path) -> Finding:
    with open(path, "rb") as file:
        return Finding(f"SHA-256 of {path.name}", "ok", hashlib.file_digest(file, "sha256").hexdigest())


def _finite(model: Pretrained) -> Finding:
    bad = [name for name in model.weights if not np.isfinite(model.weights[name]).all()]
    if bad:
        more = ", …" if len(bad) > 4 else ""
        return Finding(
            "values",
            "wrong",
            f"NaN or infinity in {', '.join(bad[:4])}{more}: the file is damaged, or the training of the "
            "model diverged; get or make it again",
        )
    return Finding("values", "ok", "all were read and are finite")


# ---- the self-check


def _self_check(model: Pretrained) -> Iterator[Finding]:
    """The hash of the logits of fixed token ids and, in float32, their distance from the exact ones."""
    config = model.config
    if config.add_cross_attention:
        yield Finding("self-check", "note", "not made: logits depend on the output of an encoder, too")
        return
    ids = [(7 * i * i + 3 * i + 1) % config.n_vocab for i in range(min(_LENGTH, config.n_ctx))]
    logits = _computed(model, ids)
    what = "hidden states" if config.is_bert and not config.masked_head else "logits"
    if not np.isfinite(logits).all():
        yield Finding(
            "self-check",
            "wrong",
            f"{what} are NaN or infinite: the weights are too large for float32, or the file is damaged",
        )
        return
    digest = hashlib.sha256(np.ascontiguousarray(logits, "<f4").tobytes()).hexdigest()
    equal = "the same wherever weights and numerics are the same"
    if model.backend == "blas":
        equal = "another machine's BLAS may round differently"
    yield Finding(
        "self-check",
        "ok",
        f"{what} of {counted(len(ids), 'token')}: SHA-256 {digest}, numerics {model.numerics}; {equal}",
    )
    if model.dtype != "float32":
        return
    # Over fewer numbers LayerNorm is nearly a sign function, which rounding may flip.
    if config.n_embd < 4:
        yield Finding("reference", "note", "not compared: the model is too narrow for a bound on rounding")
        return
    exact = _exact(config, model.weights, ids)
    error = float(np.abs(logits - exact).max())
    bound = rounding_bound(model, ids, exact)
    text = f"{what} differ by up to {error:.1e} from those in float64; rounding may cause {bound:.1e}"
    if error <= bound:
        yield Finding("reference", "ok", text)
    else:
        yield Finding(
            "reference",
            "wrong",
            f"{text}: this build or this CPU computes something different; try whether GPT2C_ISA=generic or "
            "--backend blas helps, and report it",
        )


def _computed(model: Pretrained, ids: list[int]) -> np.ndarray:
    """The engine's output for token ids: logits, or hidden states for a BERT without a token head.

    For other classifiers the logits of its embedding, which test the whole body.
    """
    sequences = [(model.new_cache(len(ids)), np.array(ids, np.int32))]
    if model.config.is_bert and not model.config.masked_head:
        return _engine.hidden(model.weights, sequences, [np.arange(len(ids))], threads=model.threads)
    return _engine.forward(model.weights, sequences, threads=model.threads)


def _exact(config: Config, weights: Mapping[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """The same in float64."""
    if not config.is_bert:
        return reference.forward(config, weights, ids)
    compute = reference_bert.forward if config.masked_head else reference_bert.hidden_states
    return compute(config, weights, np.array(ids), None)


def rounding_bound(model: Pretrained, ids: list[int], exact: np.ndarray, trials: int = 3) -> float:
    """A bound on the distance of correct float32 logits from the exact ones.

    A sum with rounding errors is the exact sum with slightly different weights. So the model itself shows how
    it propagates errors: it is computed with all weights perturbed at random by the size of the roundings,
    and the largest change of a logit is multiplied by 4, since so few trials may miss the worst case; 8
    roundings of the head's sum are added. The tests of gpt2c use the same bound, and document its derivation.

    Parameters
    ----------
    model : Pretrained
        In float32.
    ids : list of int
    exact : ndarray
        The logits of these ids in float64, [len(ids), n_vocab].
    trials : int
        The number of times the model is computed.
    """
    config, weights = model.config, _Moved(model)
    changes = [np.abs(_exact(config, weights, ids) - exact).max() for _ in range(trials)]
    if config.is_bert and not config.masked_head:
        return 4 * float(max(changes))
    norm = "ln_head" if config.is_bert else "ln_f"
    head = model.weights["wte.weight" if config.tie_word_embeddings else "lm_head.weight"]
    size = np.abs(model.weights[f"{norm}.weight"]) + np.abs(model.weights[f"{norm}.bias"])
    return 4 * float(max(changes)) + 8 * _UNIT * float((np.abs(head) @ size).max())


class _Moved(Mapping[str, np.ndarray]):
    """The weights of a model in float64, perturbed at random whenever one is read; none is kept."""

    def __init__(self, model: Pretrained) -> None:
        self._weights, self._blas = model.weights, model.backend == "blas"
        self._random = np.random.default_rng(0)

    def __getitem__(self, name: str) -> np.ndarray:
        exact = self._weights[name]
        moved = self._random.uniform(-1, 1, exact.shape)
        moved *= math.sqrt(self._roundings(name, exact.shape)) * _UNIT
        moved += 1
        moved *= exact
        return moved

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def _roundings(self, name: str, shape: tuple[int, ...]) -> int:
        """Roundings of a dense layer's sums: blocks of 256, or any order; 16 for everything else."""
        if len(shape) == 1 or name in ("wte.weight", "wpe.weight", "wtt.weight"):
            return 16
        n = shape[1] if name == "lm_head.weight" else shape[0]
        return n + 1 if self._blas else min(n, 256) + -(-n // 256)


# ---- the tokenizer


def _tokenizer(model: Pretrained, directory: Path | None) -> Iterator[Finding]:
    try:
        tokenizer = model.tokenizer
    except TokenizerError as error:
        names = (*FILES, META)
        there = directory is not None and any((directory / name).is_file() for name in names)
        yield Finding("tokenizer", "wrong" if there else "note", str(error))
        return
    yield _sizes(tokenizer, model.config)
    if model.config.is_bert:
        yield _mask(tokenizer, model.config)
    else:
        yield from _ends(tokenizer, model.config)
    kept = "also where one is classified"
    before, after = f"before every text, {kept}", f"after every text, {kept}"
    if not (model.config.is_classifier or model.config.is_bert):
        before = "before every text; it is kept before prompts and scored texts"
        after = "after every text; it is left out, since texts are continued"
    for name, ids, what in (("prefix", tokenizer.prefix, before), ("suffix", tokenizer.suffix, after)):
        if ids:
            tokens = ", ".join(_named(tokenizer, index) for index in ids)
            yield Finding(name, "note", f"the tokenizer puts {tokens} {what}")


def _sizes(tokenizer: Tokenizer, config: Config) -> Finding:
    """Whether the tokenizer has as many tokens as the embedding has rows."""
    n, rows = tokenizer.n_vocab, config.n_vocab
    if n > rows:
        special = [_named(tokenizer, i) for i in tokenizer.special_tokens.values() if i >= rows]
        of_these = f", among them {', '.join(special[:4])}" if special else ""
        return Finding(
            "vocabulary",
            "wrong",
            f"the embedding, of {rows:,} rows, lacks {n - rows:,} of the tokenizer's {n:,} tokens"
            f"{of_these}: texts with them are refused. Give the tokenizer that the model was trained "
            "with, or resize the embedding and train it",
        )
    if n < rows:
        return Finding(
            "vocabulary",
            "note",
            f"{n:,} tokens, {counted(rows - n, 'row')} of the embedding without a token: never generated",
        )
    return Finding("vocabulary", "ok", f"{n:,} tokens, as many as the embedding has rows")


def _ends(tokenizer: Tokenizer, config: Config) -> Iterator[Finding]:
    """Whether the tokens that start and end a text are special."""
    special = set(tokenizer.special_tokens.values())
    begins = () if config.bos_token_id is None else (config.bos_token_id,)
    for name, ids, absent, ordinary in (
        (
            "bos",
            begins or config.eos_token_ids[:1],
            "no token starts a text: give a prompt, and score with --no-bos or --bos ID",
            "precedes scored texts; --no-bos and --bos ID change that",
        ),
        (
            "eos",
            config.eos_token_ids,
            "no token ends a text: it ends at -n, at a --stop text or at --eos-token-id ID",
            "ends a text when the model generates it; --eos-token-id changes that",
        ),
    ):
        words = [_named(tokenizer, index) for index in ids if index not in special]
        if words:
            text = f"{', '.join(words)}, an ordinary token, {ordinary}"
            yield Finding(name, "note", text)
        elif ids:
            yield Finding(name, "ok", ", ".join(_named(tokenizer, index) for index in ids))
        else:
            yield Finding(name, "note", absent)


def _mask(tokenizer: Tokenizer, config: Config) -> Finding:
    """Whether a BERT has a mask token."""
    if tokenizer.mask_id is not None:
        return Finding("mask", "ok", _named(tokenizer, tokenizer.mask_id))
    text = "the tokenizer names no mask: none can be filled"
    return Finding("mask", "note" if config.masked_head else "ok", text)


def _named(tokenizer: Tokenizer, index: int) -> str:
    """A token as its text and its id."""
    names = {number: text for text, number in tokenizer.special_tokens.items()}
    return f"{quoted(names.get(index) or tokenizer.decode([index]))} ({index})"
