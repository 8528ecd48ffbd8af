"""Records of .jsonl files, and of .txt files, whose outputs are JSON lines too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from ..core.files import decoded
from ..errors import TokenizerError
from ..tokenizer.base import check_text
from .lines import byte_lines, text_lines
from .records import FileOptions, Job, Record, Scored, missing_field, refuse_collision

__all__ = ["read_jsonl", "read_txt", "write_jsonl"]


def read_txt(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    """The file as one record, or each of its lines; each goes out as a JSON object."""
    texts: Iterator[str]
    if options.lines:
        texts = (line.removesuffix("\n").removesuffix("\r") for _, line in text_lines(job))
    else:
        texts = iter([decoded(b"".join(line for _, line in byte_lines(job)), job.source)])
    for text in texts:
        yield Record(text, json.dumps({"text": text}, ensure_ascii=False))


def read_jsonl(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    """A record for each line that is not blank. Errors name the line, such as one that is cut off."""
    first: dict[str, Any] = {}
    found = False
    for place, line in text_lines(job):
        line = line.rstrip(" \t\r\n")
        if not line:
            continue
        try:
            # Numbers are not used, and int refuses those of thousands of digits.
            record = json.loads(line, parse_int=float)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not JSON: {error.msg}, at character {error.pos}") from None
        except RecursionError:
            raise ValueError(f"{place}: JSON too deep to be read") from None
        if not isinstance(record, dict):
            raise ValueError(f"{place}: each line must be a JSON object, {{...}}; it begins with {line:.20}")
        refuse_collision(record, options, place)
        first = first or record
        found = found or options.text_field in record
        yield Record(_text(record.get(options.text_field), options.text_field, place), line)
    if first and not found:
        raise missing_field(job.source, "no record has a field", options.text_field, first)


def _text(value: Any, field: str, place: str) -> str | None:
    """``value`` if it can be scored; None, which is no text, included."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{place}: {field!r} must be a text or null; it is {value!r:.60}")
    try:
        check_text(value)
    except TokenizerError:
        raise ValueError(
            f"{place}: {field!r} has half a surrogate pair (\\ud800 to \\udfff): no Unicode"
        ) from None
    return value


def write_jsonl(out: IO[bytes], job: Job, names: dict[str, str], scored: Scored) -> None:
    """Append the scores to each JSON object, which is copied as it is."""
    for record, row in scored:
        added = json.dumps({names[column]: value for column, value in row.items()}, ensure_ascii=False)
        fields = record.original[:-1]
        comma = "" if fields.strip(" \t") == "{" else ", "
        out.write(f"{fields}{comma}{added[1:]}\n".encode())
