"""Numbers and hostile text made readable: rounding, units, plain names, visible control characters."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

MINUS = "\u2212"
NOTHING = "–"
# Sums and axes of numbers beyond this would overflow; no quantity of a run comes near it.
MAX_MAGNITUDE = 1e60
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# These turn the direction of the text around them, so that a page could seem to say something else.
_BIDIRECTIONAL = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c")
_KINDS = {
    "reading": "reading",
    "recall": "recall",
    "reading.default": "default value of a parameter",
    "reading.next_parameter": "parameter after a given one",
    "reading.quote": "rest of a sentence from a given word on",
    "reading.next_word": "word after a given one",
    "recall.does": "what a function does",
    "recall.signature": "signature of a function",
    "recall.module": "module of a name",
    "recall.continue": "how a passage goes on",
    "recall.refusal": "refusing a name that does not exist",
}
_MODELS = {"base": "base (before tuning)", "chat": "chat (after tuning)"}


def number(value: Any) -> float | None:
    """Return a finite number of drawable size, or None for anything else: what stands in a file is not trusted."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if abs(result) <= MAX_MAGNITUDE else None


def clean(text: str) -> str:
    """Make characters visible that HTML forbids or that change the look of what stands around them.

    Control characters (but line ends and tabs), lone surrogates, non-characters and marks of text direction become
    escapes such as \\x1b, as Python writes them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(character) if _is_hidden(character) else character for character in text)


def _is_hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    code = ord(character)
    non_character = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return unicodedata.category(character) in ("Cc", "Cs") or character in _BIDIRECTIONAL or non_character


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def shorten(text: str, limit: int) -> str:
    """Cut a text to `limit` characters and say how many are left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({len(text) - limit:,} more characters)"


def label(text: Any, limit: int = 48) -> str:
    """One short clean line, for axes and cells."""
    line = " ".join(clean(str(text)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def decimal(value: Any, digits: int = 3, *, sign: bool = False) -> str:
    """A number with a fixed count of digits after the point and a real minus sign."""
    known = number(value)
    if known is None:
        return NOTHING
    text = f"{known:{'+' if sign else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def count(value: Any) -> str:
    """A whole number with thousands separators."""
    return decimal(value, 0)


def compact(value: Any) -> str:
    """About three digits with the magnitude as a word: 3.21 million."""
    known = number(value)
    if known is None:
        return NOTHING
    for limit, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(known) >= 0.9995 * limit:
            return f"{significant(known / limit)} {word}"
    return count(known)


def size(value: Any) -> str:
    """Bytes in decimal units: 2.13 MB."""
    known = number(value)
    if known is None:
        return NOTHING
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(known) >= 0.9995 * limit:
            return f"{significant(known / limit)} {unit}"
    return "1 byte" if known == 1 else f"{known:,.0f} bytes"


def significant(value: float, digits: int = 3) -> str:
    """At least `digits` significant digits, and never an exponent: 3.21, 32.1, 3,210."""
    value = float(f"{value:.{digits - 1}e}")
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return decimal(value, min(places, 12))


def scientific(value: Any) -> str:
    """Large or tiny numbers as 1.2 × 10¹⁴, others as they are."""
    known = number(value)
    if known is None:
        return NOTHING
    if known == 0 or 1e-3 <= abs(known) < 1e6:
        return significant(known, 2)
    mantissa, _, exponent = f"{known:.1e}".partition("e")
    return f"{mantissa.replace('-', MINUS)} × {power_of_ten(int(exponent))}"


def power_of_ten(exponent: int) -> str:
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def duration(value: Any) -> str:
    """Seconds as a person says them: 0.8 s, 41 s, 6 min 12 s, 2 h 5 min."""
    known = number(value)
    if known is None:
        return NOTHING
    if known < 9.95:
        return f"{known:.1f} s"
    seconds = round(known)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    minutes = round(known / 60)
    return f"{minutes // 60:,} h {minutes % 60} min"


def percent(value: Any) -> str:
    """A share as a whole percentage: 0.674 as 67%."""
    known = number(value)
    return NOTHING if known is None else f"{100 * known:.0f}%"


def percents(low: Any, high: Any) -> str:
    """An interval of shares: 67–75%."""
    a, b = number(low), number(high)
    return NOTHING if a is None or b is None else f"{100 * a:.0f}–{100 * b:.0f}%"


def points(value: Any) -> str:
    """A difference of shares in percentage points: +39 points."""
    known = number(value)
    if known is None:
        return NOTHING
    text = decimal(100 * known, 0 if abs(known) >= 0.0995 else 1, sign=True)
    return f"{text} {'point' if text.lstrip('+' + MINUS) == '1' else 'points'}"


def kind_words(kind: str) -> str:
    """The kind of a question in plain words: `reading.next_word` is asked for a word after a given one."""
    if kind in _KINDS:
        return _KINDS[kind]
    group, point, rest = kind.partition(".")
    return label(f"{group}: {rest}" if point else kind).replace("_", " ")


def model_words(name: str) -> str:
    return _MODELS.get(name, label(name))


def listed(parts: list[str]) -> str:
    """Join with commas and `and`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
