"""A SOURCE: a file, a folder, or the name of a known text, read into documents."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from groundup.core.console import format_bytes
from groundup.core.errors import DataError, suggest
from groundup.data.document import Document, normalize_text
from groundup.data.html_text import html_to_text
from groundup.data.named import NAMED_SOURCES, read_named
from groundup.data.readers import explained, json_type, read_records, read_text

log = logging.getLogger("groundup.data.sources")

#: With so many files each is a document and a group; with fewer, sections of files are.
MANY_FILES = 20
#: Groups that a small collection is cut into, so that a split of 5 % can be had in whole groups.
REGIONS = 40
#: Characters of one piece of a long text: a page or two, some 700 tokens.
PIECE_CHARACTERS = 3_000
MIN_PIECE_CHARACTERS = 400

_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")
_KINDS = {".txt": "text", ".md": "text", ".html": "html", ".jsonl": "jsonl", ".jsonl.gz": "jsonl"}


def kind_of(path: Path) -> str | None:
    """Return `text`, `html` or `jsonl` by the file's ending, or None when it is not supported."""
    name = path.name.lower()
    return next((kind for ending, kind in _KINDS.items() if name.endswith(ending)), None)


def read_source(source: str, *, text_key: str = "text", nfc: bool = False) -> list[Document]:
    """Read a named source, a file, or every supported file below a folder.

    Line ends become `\\n`. From 20 files on, a file is one document and one group. With fewer files (or for a file
    that holds more than a twentieth of the text) a text is cut at blank lines into pieces of some KB, its documents,
    and runs of neighbouring pieces form a group: 40 groups in all, so that what is held out is a few contiguous
    regions instead of scattered paragraphs. A line of a JSON-lines file is a document and a group of its own.

    Args:
        source: a name such as `shakespeare`, or a path; a path wins when it is written with a separator (`./shakespeare`).
        text_key: the key of the text in JSON lines.
        nfc: compose characters (Unicode NFC).

    Returns:
        the documents in the sorted order of their files; never empty.

    Raises:
        DataError: saying what cannot be read, where, and what to do.
    """
    if source in NAMED_SOURCES:
        return read_named(source)
    path = Path(source).expanduser()
    with explained(path):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(
                f"the source {source!r} is neither a file, a folder nor a named source{suggest(source, tuple(NAMED_SOURCES))}"
            ) from None
    is_folder = stat.S_ISDIR(mode)
    if is_folder:
        files = find_files(path)
    elif kind_of(path) is None:
        raise DataError(f"{path} has an ending that is not supported: use {', '.join(_KINDS)}")
    elif not stat.S_ISREG(mode):
        raise DataError(
            f"{path} is neither a regular file nor a folder (a pipe or a device): copy its text into a file"
        )
    else:
        files = [path]
    documents = _read_files(files, path if is_folder else path.parent, text_key, nfc)
    if not documents:
        raise DataError(
            f"{path} is empty: there is no text in it"
            if not is_folder
            else f"the folder {path} is empty of text: its {len(files)} supported file(s) hold none"
        )
    return documents


# What marks a folder that groundup wrote: a run, a corpus, a model. Its texts are results and no source.
MADE_HERE = ("stages.json", "corpus.json", "lineage.json")


def find_files(folder: Path) -> list[Path]:
    """Return every supported file below `folder`, sorted by path, each real file once.

    Names that begin with a dot, and folders that a run left (MADE_HERE), are left out. Links are followed; a link back to a folder above ends there.

    Raises:
        DataError: when there is none (saying what was seen), or a folder cannot be listed.
    """
    found: dict[Path, Path] = {}
    others: Counter[str] = Counter()
    for path in _walk(folder):
        if kind_of(path) is None:
            others[path.suffix.lower() or "without ending"] += 1
        else:
            found.setdefault(path.resolve(), path)
    if not found:
        seen = (
            ", ".join(
                f"{count} {ending}"
                for ending, count in sorted(others.most_common(8), key=lambda item: (-item[1], item[0]))
            )
            or "nothing"
        )
        raise DataError(f"the folder {folder} has no {', '.join(_KINDS)} file: it holds {seen}")
    if others:
        log.info("left out %d files of other kinds below %s", sum(others.values()), folder)
    return sorted(found.values(), key=lambda path: path.relative_to(folder).as_posix())


def _walk(folder: Path) -> Iterator[Path]:
    visited: set[Path] = set()

    def refuse(error: OSError) -> None:
        with explained(Path(error.filename or folder)):
            raise error

    for root, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        here = Path(root)
        with explained(here):
            real = here.resolve()
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not any((here / name / made).is_file() for made in MADE_HERE)
        )
        for name in sorted(names):
            with explained(here / name):
                is_file = not name.startswith(".") and (here / name).is_file()
            if is_file:
                yield here / name


def _read_files(files: list[Path], base: Path, text_key: str, nfc: bool) -> list[Document]:
    documents: list[Document] = []
    texts: dict[Path, str] = {}
    for path in files:
        kind = kind_of(path)
        if kind != "jsonl":
            text = read_text(path, html=kind == "html")
            text = normalize_text(html_to_text(text) if kind == "html" else text, nfc=nfc).strip("\n")
            if text.strip():
                texts[path] = text
    total = sum(map(len, texts.values()))
    many = len(files) >= MANY_FILES
    for path in files:
        name = path.relative_to(base).as_posix()
        if kind_of(path) == "jsonl":
            documents += _read_jsonl(path, name, name if many else None, text_key, nfc)
        elif path in texts:
            text = texts[path]
            if many and len(text) <= total / 20:
                documents.append(Document(text=text, id=name, group=name, source=name))
            else:
                documents += cut_into_documents(text, name, total=total)
    skipped = len(files) - len({document.source for document in documents})
    if skipped and documents:
        log.warning("left out %d files without text", skipped)
    return documents


def _read_jsonl(path: Path, name: str, group: str | None, text_key: str, nfc: bool) -> list[Document]:
    documents = []
    for number, record in read_records(path):
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number} holds a JSON {json_type(record)}, an object is needed")
        if text_key not in record:
            keys = ", ".join(map(repr, record)) or "none"
            raise DataError(
                f"{path}, line {number} has no key {text_key!r}; its keys are {keys}: name the one that holds the "
                "text with --corpus.text-key"
            )
        text = record[text_key]
        if not isinstance(text, str):
            raise DataError(
                f"{path}, line {number}: {text_key!r} holds a JSON {json_type(text)}, a string is needed: name "
                "another key with --corpus.text-key"
            )
        text = normalize_text(text, nfc=nfc)
        if text.strip():
            license_name = record.get("license")
            documents.append(
                Document(
                    text=text,
                    id=f"{name}:{number}",
                    group=group or f"{name}:{number}",
                    source=name,
                    license=license_name if isinstance(license_name, str) and license_name else "unknown",
                )
            )
    return documents


def cut_into_documents(text: str, name: str, *, total: int, license: str = "unknown") -> list[Document]:
    """Cut a long text at blank lines into documents, and put neighbouring ones into contiguous groups.

    Args:
        text: the text; nothing of it is lost except blank lines at the cuts.
        name: becomes the source, the beginning of ids and of groups.
        total: characters of the whole collection: this text gets its share of 40 groups, at least one.
    """
    target = min(PIECE_CHARACTERS, max(MIN_PIECE_CHARACTERS, total // REGIONS))
    pieces = cut_text(text, target)
    regions = max(1, min(len(pieces), round(REGIONS * len(text) / max(total, 1))))
    return [
        Document(
            text=piece,
            id=f"{name}#{index}" if len(pieces) > 1 else name,
            group=f"{name}#region{index * regions // len(pieces)}" if regions > 1 else name,
            source=name,
            license=license,
        )
        for index, piece in enumerate(pieces)
    ]


def cut_text(text: str, target: int) -> list[str]:
    """Cut `text` into pieces of about `target` characters, at most twice that.

    A cut falls on a blank line where there is one within reach, else on a line end, else on a space, else anywhere.
    """
    pieces: list[str] = []
    start = 0
    while len(text) - start > 2 * target:
        low, high = start + target // 2, start + 2 * target
        cut = _nearest(_BLANK_LINES, text, low, high, start + target)
        for mark in () if cut else ("\n", " "):
            cut = cut or (text.rfind(mark, low, high) + 1)
        cut = cut or high
        pieces.append(text[start:cut])
        start = cut
    pieces.append(text[start:])
    return [piece.strip("\n") for piece in pieces if piece.strip()]


def _nearest(pattern: re.Pattern[str], text: str, low: int, high: int, wanted: int) -> int:
    ends = (match.end() for match in pattern.finditer(text, low, high))
    return min(ends, key=lambda end: abs(end - wanted), default=0)


def require_enough(
    bytes_available: int,
    bytes_needed: int,
    *,
    purpose: str = "the chosen size",
    advice: str = "choose a smaller --depth",
) -> None:
    """Raise DataError when there is less text than `purpose` needs, saying how much is missing.

    Args:
        bytes_available, bytes_needed: of UTF-8 text.
        purpose: what needs it, such as `depth 4 (3.1M parameters)`.
        advice: what else helps.
    """
    if bytes_available < bytes_needed:
        raise DataError(
            f"there is {format_bytes(bytes_available)} of text, and {purpose} needs at least "
            f"{format_bytes(bytes_needed)}: add {format_bytes(bytes_needed - bytes_available)} or {advice}"
        )
