"""Bytes of a file to text: encodings, JSON lines, compressed files, and clear errors for each that cannot be read."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundup.core.errors import DataError

#: Byte order marks with their encodings; the 32-bit ones first, since they begin like the 16-bit ones.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Control bytes that no text holds (tab, line ends, form feed and escape are allowed).
_CONTROL = bytes(set(range(32)) - {8, 9, 10, 12, 13, 27})
_HTML_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what can go wrong while reading `path` into a DataError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except PermissionError:
        raise DataError(f"{path} cannot be read: permission denied. Change its permissions or copy it") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, a file is needed here") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is not a complete gzip file ({error}): it is truncated or damaged, so fetch or compress it again"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def read_text(path: Path, *, html: bool = False) -> str:
    """Read a text file in UTF-8, or in UTF-8, UTF-16 or UTF-32 with a byte order mark.

    Args:
        path: the file.
        html: also accept the encoding that the page declares in a `<meta charset>`.

    Raises:
        DataError: unreadable, binary, or in another encoding (with the offset of the first wrong byte).
    """
    with explained(path):
        data = path.read_bytes()
    declared = _HTML_CHARSET.search(data[:4096]) if html else None
    return decode(data, path, fallback=declared.group(1).decode("ascii") if declared else None)


def decode(data: bytes, path: Path, *, start: int = 0, fallback: str | None = None) -> str:
    """Decode the bytes of `path`; `start` is the offset of `data` in the file, for the message."""
    for mark, encoding in MARKS:
        if start == 0 and data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path} begins with the mark of {encoding.upper()}, but byte {error.start:,} does not fit: "
                    "the file is damaged"
                ) from None
    _refuse_binary(data, path, start)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if fallback is not None:
            try:
                # The web reads "iso-8859-1" as windows-1252 (WHATWG encoding standard).
                return data.decode("cp1252" if fallback.lower() in ("iso-8859-1", "latin1", "ascii") else fallback)
            except (LookupError, UnicodeDecodeError):
                pass
        raise DataError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02X} at offset {start + error.start:,} cannot be decoded. "
            f"Convert it to UTF-8, for instance: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > converted.txt "
            "(with the encoding it really has)"
        ) from None


def _refuse_binary(data: bytes, path: Path, start: int) -> None:
    sample = data[: 1 << 16]
    if not sample:
        return
    zero = data.find(b"\0")
    if zero >= 0:
        even, odd = sample[::2].count(0), sample[1::2].count(0)
        # In text of western letters nearly every second byte of UTF-16 is 0.
        if max(even, odd) > 0.7 * len(sample) / 2 and min(even, odd) < 0.1 * max(even, odd):
            name = "UTF-16LE" if odd > even else "UTF-16BE"
            raise DataError(
                f"{path} looks like {name} without a byte order mark (byte 0x00 at offset {start + zero:,}): "
                f"convert it to UTF-8, for instance: iconv -f {name} -t UTF-8 {path.name} > converted.txt"
            )
        raise DataError(f"{path} is binary, not text: it has byte 0x00 at offset {start + zero:,}. Leave it out")
    controls = len(sample) - len(sample.translate(None, _CONTROL))
    if controls > 0.05 * len(sample):
        raise DataError(
            f"{path} is binary, not text: {controls:,} of its first {len(sample):,} bytes are control characters. "
            "Leave it out"
        )


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, JSON value) for every line of a `.jsonl` or `.jsonl.gz` file that is not blank.

    Raises:
        DataError: with file and line number for a malformed line; see `read_text` and gzip's errors otherwise.
    """
    with explained(path):
        number = 0
        for number, line in _lines(path):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except RecursionError:
                raise DataError(f"{path}, line {number}: JSON nested too deeply") from None
            except ValueError as error:
                detail = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                raise DataError(
                    f"{path}, line {number} is not JSON: {detail}. Each line holds one JSON object; it begins "
                    f"{line.strip()[:60]!r}"
                ) from None
            yield number, value


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # Only "\n" ends a line: JSON strings may hold U+2028, at which str.splitlines would cut.
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
        first = file.readline()
        if any(first.startswith(mark) for mark, _ in MARKS if len(mark) != 3):
            for number, line in enumerate(decode(first + file.read(), path).split("\n"), 1):
                yield number, line
            return
        offset = 0
        for number, raw in enumerate(_chain(first, file), 1):
            yield number, decode(raw, path, start=offset)
            offset += len(raw)


def _chain(first: bytes, file: io.BufferedIOBase | gzip.GzipFile) -> Iterator[bytes]:
    if first:
        yield first
    yield from file


def json_type(value: Any) -> str:
    """Return what JSON calls a value: object, array, string, number, boolean or null."""
    if value is None:
        return "null"
    names: dict[type, str] = {bool: "boolean", dict: "object", list: "array", str: "string"}
    return names.get(type(value), "number")
