"""What is done to a text before it is cut, as `tokenizer.json` lists it: Unicode forms, case, replacements, tables.

The steps are kept as they are written in the file, so what was read is written again. SentencePiece's compiled table
(`Precompiled`) is a double-array trie from character sequences to what replaces them: S. Yata, darts-clone.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import regex

from groundup.core.errors import TokenizerError
from groundup.tokenizer.added_tokens import WHITESPACE
from groundup.tokenizer.hf_parse import describe

_MARKS = regex.compile(r"\p{M}+")
_GRAPHEMES = regex.compile(r"\X")
_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
# `tokenizers` looks for a whole grapheme in the table only where it has fewer bytes than this.
_LONGEST_GRAPHEME = 6

Change = Callable[[str], str]


class Normalizer:
    """Changes a text step by step.

    Args:
        steps: objects as in `tokenizer.json`: NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Replace, Prepend,
            Precompiled.
        where: the file, for messages.

    Raises:
        TokenizerError: for a step that is not known or malformed.
    """

    def __init__(self, steps: Sequence[dict[str, Any]] = (), where: str = "the normalizer") -> None:
        self.steps = list(steps)
        self._changes = [_change(step, where) for step in self.steps]

    def __call__(self, text: str) -> str:
        """Return the changed text."""
        for change in self._changes:
            text = change(text)
        return text


def _change(step: dict[str, Any], where: str) -> Change:
    kind = step.get("type")
    if kind in _FORMS:
        form: Any = kind
        return lambda text: unicodedata.normalize(form, text)
    if kind == "Lowercase":
        # Character by character: Python alone writes a sigma at the end of a word differently.
        return lambda text: text.replace("\u03a3", "\u03c3").lower()
    if kind == "StripAccents":
        return lambda text: str(_MARKS.sub("", text))
    if kind == "Strip":
        left, right = bool(step.get("strip_left", True)), bool(step.get("strip_right", True))
        return lambda text: _strip(text, left, right)
    if kind == "Prepend" and isinstance(step.get("prepend"), str):
        prepended = step["prepend"]
        return lambda text: prepended + text if text else text
    if kind == "Replace" and isinstance(step.get("content"), str):
        return _replacement(step.get("pattern"), step["content"], where)
    if kind == "Precompiled":
        return Charsmap(_decoded(step.get("precompiled_charsmap"), where), where)
    raise TokenizerError(
        f"{where}: the normalizer {describe(step)} cannot be read; {', '.join(_FORMS)}, Lowercase, StripAccents, "
        "Strip, Prepend, Replace and Precompiled can"
    )


def _strip(text: str, left: bool, right: bool) -> str:
    text = text.lstrip(WHITESPACE) if left else text
    return text.rstrip(WHITESPACE) if right else text


def _replacement(pattern: Any, content: str, where: str) -> Change:
    plain = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(plain, str) and plain:
        replaced = plain
        return lambda text: text.replace(replaced, content)
    source = pattern.get("Regex") if isinstance(pattern, dict) else None
    if not isinstance(source, str):
        raise TokenizerError(f"{where}: a Replace of the normalizer has the pattern {pattern!r}: String or Regex")
    try:
        compiled = regex.compile(source)
    except (regex.error, RecursionError, OverflowError) as error:
        raise TokenizerError(f"{where}: {source[:80]!r} is not a valid regular expression: {error}") from None
    return lambda text: str(compiled.sub(lambda _: content, text))


def _decoded(value: Any, where: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise TokenizerError(f"{where}: precompiled_charsmap is {describe(value)}, not base64") from None


class Charsmap:
    """SentencePiece's table of replacements (`nmt_nfkc` and the like), applied as `tokenizers` applies it.

    Each grapheme of few bytes is looked up as a whole, else its characters one by one. Of several entries that begin a
    key the shortest is taken; SentencePiece itself takes the longest over the whole text, which differs only for rare
    sequences of combining characters.

    Args:
        table: the size of the trie, its units (32 bits each, little-endian), and the replacements, each ended by a
            zero byte.
        where: the file, for messages.

    Raises:
        TokenizerError: when the table is cut short or its replacements are no text.
    """

    def __init__(self, table: bytes, where: str = "the normalizer") -> None:
        size = int.from_bytes(table[:4], "little")
        if len(table) < 4 or size % 4 or not 4 <= size <= len(table) - 4:
            raise TokenizerError(
                f"{where}: precompiled_charsmap has {len(table)} bytes and says its trie has {size}: it is damaged"
            )
        self._units = np.frombuffer(table, dtype="<u4", count=size // 4, offset=4).tolist()
        self._replacements = table[4 + size :]
        self._where = where
        self._grapheme = lru_cache(maxsize=1 << 14)(self._replace)

    def __call__(self, text: str) -> str:
        """Return the text with what the table replaces."""
        return "".join(map(self._grapheme, _GRAPHEMES.findall(text)))

    def _replace(self, grapheme: str) -> str:
        content = grapheme.encode("utf-8")
        if len(content) < _LONGEST_GRAPHEME:
            whole = self._find(content)
            if whole is not None:
                return whole
        found = ((self._find(character.encode("utf-8")), character) for character in grapheme)
        return "".join(character if new is None else new for new, character in found)

    def _find(self, key: bytes) -> str | None:
        """Walk the trie: a unit holds the byte that leads to it, whether an entry ends there, and where to go on."""
        units = self._units
        try:
            place = _offset(units[0])
            for byte in key:
                place ^= byte
                unit = units[place]
                if byte == 0 or unit & 0x800000FF != byte:
                    return None
                place ^= _offset(unit)
                if unit >> 8 & 1:
                    start = units[place] & 0x7FFFFFFF
                    end = self._replacements.index(0, start)
                    return self._replacements[start:end].decode("utf-8")
        except (IndexError, ValueError):
            raise TokenizerError(
                f"{self._where}: precompiled_charsmap points outside of itself: it is damaged"
            ) from None
        return None


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 1 << 9) >> 6)
