"""Records of .jsonl, .ndjson and .json files, and of .txt files, whose outputs are JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

from ..errors import TokenizerError
from ..tokenizer.base import check_text
from .lines import MARK, byte_lines, text_of, unpacked
from .records import Done, Fault, FileOptions, Job, Place, Record, missing_field, refuse_collision, spelled
from .tasks import Row

__all__ = ["read_json", "read_jsonl", "read_txt", "write_json", "write_jsonl"]

# Bytes of a JSON array to read at once.
CHUNK = 1 << 18
BLANK = " \t\r\n"


# ---- read


def read_txt(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    """The file as one record, or each of its lines; each is written as a JSON object."""
    lines = byte_lines(job)
    for several in ([line] for line in lines) if options.lines else [lines]:
        pieces: list[str] = []
        first = Place(job.source, "line", 1)
        try:
            for place, line in several:
                first = place if not pieces else first
                pieces.append(text_of(line, place))
        except Fault as fault:
            yield Record(fault.place, None, None, fault)
            continue
        text = "".join(pieces)
        text = text[:-1].removesuffix("\r") if text.endswith("\n") else text
        yield Record(first, text, json.dumps({"text": text}, ensure_ascii=False))


def read_jsonl(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    """A record for each line that is not blank. Errors name the line, such as a truncated one."""
    blank, mark = BLANK.encode(), MARK.encode()
    lines = ((place, line.rstrip(blank)) for place, line in byte_lines(job))
    filled = ((place, line) for place, line in lines if line.removeprefix(mark if place.number == 1 else b""))
    return _records(filled, job, options)


def read_json(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    """A record for each element of an array, or each line, depending on the file."""
    if not _is_array(job):
        return _lines_of_json(job, options)
    return _records(((place, data.strip(BLANK.encode())) for place, data in _elements(job)), job, options)


def _lines_of_json(job: Job, options: FileOptions) -> Iterator[Record]:
    """The lines of a .json file, whose first line may be the start of something else."""
    for record in read_jsonl(job, options, False):
        fault = record.fault
        if fault is not None and fault.place.number == 1 and fault.field is None:
            hint = "a .json file is an array of objects, or has one on each line"
            record = record._replace(fault=Fault(fault.place, f"{fault.reason}; {hint}"))
        yield record


def _records(objects: Iterable[tuple[Place, bytes]], job: Job, options: FileOptions) -> Iterator[Record]:
    """A record for each JSON object; its original is its text in the file."""
    field = options.text_field
    first: dict[str, Any] = {}
    found = False
    for place, data in objects:
        try:
            spelling = text_of(data, place)
            record = _parsed(spelling, place)
        except Fault as fault:
            yield Record(place, None, None, fault)
            continue
        refuse_collision(record, options, place)
        first = first or record
        here, value = _looked_up(record, field)
        found = found or here
        wrong = _wrong(value)
        if wrong is None:
            yield Record(place, value, spelling)
        else:
            reason = f"{wrong}; it is {spelled(_spelling(spelling, field))}"
            yield Record(place, None, spelling, Fault(place, reason, field))
    if first and not found:
        inside = [name for name, value in first.items() if isinstance(value, list)]
        if job.format == ".json" and inside:
            raise ValueError(
                f"{job.source}: no record has a field {field!r}; if the records are in {inside[0]!r}, write "
                f"them into a separate file, for example with jq '.{inside[0]}'"
            )
        raise missing_field(job.source, "no record has a field", field, first)


def _parsed(spelling: str, place: Place) -> dict[str, Any]:
    try:
        # Numbers are not used, and int refuses those of thousands of digits.
        record = json.loads(spelling, parse_int=float)
    except json.JSONDecodeError as error:
        near = spelled(spelling[max(0, error.pos - 20) :], 40)
        reason = f"not JSON: {error.msg}, at character {error.pos}" + (f", near {near}" if near else "")
        raise Fault(place, reason) from None
    except RecursionError:
        raise Fault(place, "JSON nested too deeply") from None
    if not isinstance(record, dict):
        unit = "element" if place.unit == "record" else place.unit
        raise Fault(
            place, f"each {unit} must be a JSON object, {{...}}; it starts with {spelled(spelling, 20)}"
        )
    return record


def _looked_up(record: dict[str, Any], field: str) -> tuple[bool, Any]:
    """Whether there is a field, and its value: "a.b" is the field b of the field a, if none has that name."""
    if field in record:
        return True, record[field]
    head, _, rest = field.partition(".")
    inner = record.get(head)
    return _looked_up(inner, rest) if rest and isinstance(inner, dict) else (False, None)


def _wrong(value: Any) -> str | None:
    """Why ``value`` cannot be scored, or None if it can, as a text or null."""
    if value is None:
        return None
    if not isinstance(value, str):
        return "must be a text or null"
    try:
        check_text(value)
    except TokenizerError:
        return "has half a surrogate pair (\\ud800 to \\udfff): not Unicode"
    return None


_BETWEEN = re.compile(r"[ \t\r\n]*[{:,]?[ \t\r\n]*")


def _spelling(record: str, field: str) -> str:
    """The text in a JSON object of the value that `_looked_up` finds."""

    def after(at: int) -> int:
        match = _BETWEEN.match(record, at)
        return at if match is None else match.end()

    decode = json.JSONDecoder(parse_int=float).raw_decode
    members, at = {}, after(0)
    while record[at] != "}":
        name, at = decode(record, at)
        start = after(at)
        _, at = decode(record, start)
        members[name] = record[start:at]
        at = after(at)
    head, _, rest = field.partition(".")
    return members[field] if field in members else _spelling(members[head], rest)


# ---- arrays

# In UTF-8, bytes below 128 are always these characters. A string ends with its line, even a broken one.
_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\n]|\\.?', re.DOTALL)


def _chunks(job: Job) -> Iterator[bytes]:
    """The non-empty pieces of a file, without a byte order mark or white space before JSON."""
    size = 0
    before: bytes | None = MARK.encode()
    with unpacked(job, lambda: f"after byte {size}") as file:
        while chunk := file.read(CHUNK):
            size += len(chunk)
            if before is not None:
                chunk = chunk.removeprefix(before).lstrip(BLANK.encode())
                before = None if chunk else b""
            if chunk:
                yield chunk


def _is_array(job: Job) -> bool:
    """Whether the file is an array, rather than lines."""
    return next(_chunks(job), b"").startswith(b"[")


def _elements(job: Job) -> Iterator[tuple[Place, bytes]]:
    """The elements of an array as text; only one and a chunk are in memory."""
    chunks = _chunks(job)
    # The current element begins at start; everything before at has been scanned.
    data, start, at = next(chunks), 1, 1
    depth, quoted, number = 0, False, 0
    while True:
        match = (_INSIDE if quoted else _OUTSIDE).search(data, at)
        token = match[0] if match else b""
        # Nothing here, or a backslash whose character is in the next chunk.
        if match is None or token == b"\\":
            chunk = next(chunks, None)
            if chunk is None:
                raise ValueError(f"{job.source}: truncated after record {number}: the array has no end")
            at = (match.start() if match else len(data)) - start
            data, start = data[start:] + chunk, 0
            continue
        at = match.end()
        if quoted:
            quoted = token not in (b'"', b"\n")
        elif token == b'"':
            quoted = True
        elif depth or token in b"[{":
            depth += (token in b"[{") - (token in b"]}")
        else:
            element, start = data[start : match.start()], at
            # An array without elements has nothing before its end.
            if number or token == b"," or element.strip():
                number += 1
                yield Place(job.source, "record", number), element
            if token != b",":
                break
    if token == b"}" or data[start:].strip() or any(chunk.strip() for chunk in chunks):
        raise ValueError(f"{job.source}: the array ends after record {number}, but the file continues")


# ---- written


def _extended(record: Record, row: Row, names: dict[str, str]) -> str:
    """A JSON object, copied unchanged, with further fields."""
    added = json.dumps({names[column]: value for column, value in row.items()}, ensure_ascii=False)
    fields = record.original[:-1]
    # One of several lines ends with a line break.
    fields = fields.rstrip() if "\n" in fields else fields
    comma = "" if fields.strip(" \t") == "{" else ", "
    return f"{fields}{comma}{added[1:]}"


def write_jsonl(out: IO[bytes], job: Job, options: FileOptions, done: Done) -> None:
    """Append the new fields to each JSON object, on its own line."""
    for record, rows in done:
        for row in rows:
            out.write(f"{_extended(record, row, options.names)}\n".encode())


def write_json(out: IO[bytes], job: Job, options: FileOptions, done: Done) -> None:
    """An array from an array, and lines from lines."""
    if not _is_array(job):
        write_jsonl(out, job, options, done)
        return
    before = "[\n"
    for record, rows in done:
        for row in rows:
            out.write(f"{before}{_extended(record, row, options.names)}".encode())
            before = ",\n"
    out.write(b"\n]\n" if before[0] == "," else b"[]\n")
