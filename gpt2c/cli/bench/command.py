"""The measurements of `gpt2c bench`, and their order."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...checkpoint import open_checkpoint
from ...checkpoint.packed import open_packed, packed_path
from ...core import _engine
from ...core.labels import harmless
from ...errors import ConfigError
from ...model import GPT2
from ...scoring.comparison import SAMPLE
from ..console import note, read_text
from ..formatting import print_json
from ..loading import load_model
from ..parser import BENCH_PARTS
from .cases import rates
from .formats import USES, allowed_loss, fastest, load_formats, measure_formats, sample
from .kernels import kernels
from .load import load
from .models import check_shape, random_model
from .report import formats_table, heading, kernels_table, load_table, rates_table, roofline_table
from .roofs import roofline

__all__ = ["cpu_name", "run"]


def run(arguments: Namespace) -> None:
    """Run the requested measurements. Tables are printed one by one; JSON has everything, at the end.

    JSON: ``machine`` and ``model`` describe what was measured; the rest as requested, with seconds, bytes,
    bytes per second and operations per second: ``load`` (`load.load`), ``roofline`` (`roofs.roofline`),
    ``kernels`` and ``rates`` (`cases.Result.report` of each); ``recommend`` (see `_recommend`) is alone.
    """
    wanted = _wanted(arguments)
    if not arguments.shape:
        _check_language_model(arguments)
    if arguments.recommend:
        _recommend(arguments)
        return
    source = None if arguments.shape else _local(arguments)
    note(f"measuring {', '.join(wanted)}; keep the machine quiet …")
    model, found = _model(arguments, source, "load" in wanted)
    isa, threads = model.weights.isa, model.threads
    report: dict[str, Any] = {
        "machine": _machine(model),
        "model": {
            "name": arguments.model or model.name,
            "dtype": model.dtype,
            "backend": model.weights.backend,
            "bytes": model.weights.nbytes,
        },
        **found,
    }

    def show(lines: Iterable[str]) -> None:
        if not arguments.json:
            _show(lines)

    show(heading(report))
    if "load" in wanted:
        show(load_table(report["load"]))
    if "roofline" in wanted:
        report["roofline"] = roofline(isa, threads)
        show(roofline_table(report["roofline"]))
    if "kernels" in wanted:
        results = kernels(model.config, model.dtype, isa=isa, threads=threads)
        report["kernels"] = [result.report() for result in results]
        show(kernels_table(results))
    if "model" in wanted:
        results = rates(model)
        report["rates"] = [result.report() for result in results]
        show(rates_table(results))
    if arguments.json:
        print_json(report, sys.stdout)


def _recommend(arguments: Namespace) -> None:
    """Measure every number format, and recommend one.

    JSON: under ``recommend`` the ``formats`` (`formats.Format`), the loss that a format may have
    (``max_loss_percent``), the ``text`` (null: gpt2c's own) and how many ``tokens`` of it were compared, and
    the ``dtype`` for each use.
    """
    text = read_text(None, arguments.file or str(SAMPLE)) or ""
    note("loading every number format; keep the machine quiet …")
    given = vars(arguments)
    models = load_formats(lambda dtype: load_model(Namespace(**{**given, "dtype": dtype})))
    model = next(iter(models.values()))
    texts = sample(model, text)
    tokens = sum(len(ids) - 1 for ids in texts)
    note(f"measuring {' and '.join(USES)}, and the loss of {tokens:,} tokens …")
    formats = measure_formats(models, texts)
    limit = allowed_loss(formats, arguments.max_loss)
    found = {
        "max_loss_percent": limit,
        "text": arguments.file,
        "tokens": tokens,
        "formats": [of._asdict() for of in formats],
        "dtype": {use: fastest(formats, use, limit).dtype for use in USES},
    }
    report = {
        "machine": _machine(model),
        "model": {"name": arguments.model or model.name},
        "recommend": found,
    }
    if arguments.json:
        print_json(report, sys.stdout)
    else:
        _show(heading(report))
        _show(formats_table(formats, limit, given=arguments.max_loss is not None))


def _show(lines: Iterable[str]) -> None:
    # A name of a model or of the machine may hold any character.
    print(harmless("\n".join([*lines, ""])), flush=True)


def _machine(model: GPT2) -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "isa": model.weights.isa,
        "threads": model.threads,
        "team": _engine.team(),
    }


def _wanted(arguments: Namespace) -> list[str]:
    """The parts to measure; raises ValueError if arguments exclude one another."""
    if arguments.shape and arguments.model:
        raise ValueError("give --shape or --model, not both")
    if arguments.shape and arguments.adapter:
        raise ValueError("--adapter is for a model: leave it out, or give -m MODEL instead of --shape")
    if arguments.shape:
        check_shape(arguments.shape)
    if arguments.recommend:
        _check_recommend(arguments)
    for name in ("file", "max_loss"):
        if not arguments.recommend and getattr(arguments, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for --recommend: give both or none")
    wanted = [part for part in BENCH_PARTS if part in (arguments.parts or BENCH_PARTS)]
    if arguments.backend != "blas":
        return wanted
    # Its dense layers are NumPy's, and it does not read packed files.
    without = ("kernels", "load") if arguments.shape else ("kernels",)
    if refused := [part for part in arguments.parts if part in without]:
        raise ValueError(
            f"{' and '.join(refused)} cannot be measured with --backend blas"
            + (" and --shape" if "load" in refused else "")
            + ": leave out one or the other"
        )
    return [part for part in wanted if part not in without]


def _check_recommend(arguments: Namespace) -> None:
    """Raise ValueError if --recommend cannot measure every number format."""
    if arguments.parts:
        raise ValueError(f"--recommend is a separate measurement: leave out {' '.join(arguments.parts)}")
    if arguments.shape:
        raise ValueError("--recommend compares losses, and random weights (--shape) have none: give -m MODEL")
    if arguments.dtype:
        raise ValueError(f"--recommend measures every dtype: leave out --dtype {arguments.dtype}")
    if arguments.backend != "native":
        raise ValueError(f"--recommend is for backend 'native'; {arguments.backend!r} has float32 only")
    packed = None if arguments.revision else packed_path(arguments.model)
    if packed is not None:
        raise ValueError(
            f"{packed} holds {open_packed(packed).dtype} and no other format to compare it with: give the "
            "original model"
        )


def _model(arguments: Namespace, source: str | None, measure_load: bool) -> tuple[GPT2, dict[str, Any]]:
    """The model, from ``source`` or of a shape; and, if measured, what loading costs, as ``load``."""
    found = {}
    how: dict[str, Any] = {
        "dtype": arguments.dtype,
        "backend": arguments.backend,
        "threads": arguments.threads,
    }
    if arguments.shape:
        model = random_model(arguments.shape, **how | {"dtype": arguments.dtype or "float32"})
        if measure_load:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "model.gpt2c")
                model.save(path)
                found["load"] = load(path, threads=arguments.threads)
        return model, found
    how |= {"strict": arguments.strict, "adapter": arguments.adapter}
    # Before this process maps a file, which the system could then not drop from its cache.
    if measure_load:
        found["load"] = load(source, **how)
    return GPT2.from_pretrained(source, tokenizer=arguments.tokenizer, **how), found


def _check_language_model(arguments: Namespace) -> None:
    """Raise ConfigError for a classifier, before anything is measured."""
    path = None if arguments.revision else packed_path(arguments.model)
    if path is not None:
        config = open_packed(path).config
    else:
        checkpoint = open_checkpoint(
            arguments.model,
            adapter=arguments.adapter,
            revision=arguments.revision,
            local_files_only=arguments.offline,
            strict=arguments.strict,
        )
        config = checkpoint.config
        checkpoint.close()
    if config.is_classifier:
        raise ConfigError(
            f"{arguments.model} is a classifier; bench measures language models. gpt2c classify on a file of "
            "texts shows its speed"
        )


def _local(arguments: Namespace) -> str | None:
    """A source that other processes can load repeatedly: a model on the hub is fetched once."""
    source, revision = arguments.model, arguments.revision
    if source is None or (revision is None and os.path.exists(os.path.expanduser(source))):
        return source
    found = open_checkpoint(
        source, adapter=[], revision=revision, local_files_only=arguments.offline, strict=arguments.strict
    )
    # A merged adapter has no directory of its own.
    return source if found.is_merged else str(found.directory)


def cpu_name() -> str:
    """The name of the processor."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
