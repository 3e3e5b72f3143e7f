"""The split patterns as a scanner over UTF-8: where each piece ends, found by looking at one or two characters.

The regular expressions try their alternatives in order at each place. Written by hand the same choice is a few
comparisons of character classes, because the alternatives begin with different classes; `scan_rules.py` says by which
rules a pattern is scanned.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from groundup.core.jit import kernel
from groundup.tokenizer.scan_rules import (
    CUTS_AFTER_LINE_ENDS,
    END_IS_ONE_PIECE,
    FOLDS_CASE,
    NUMBER_TAKES_SPACE,
    NUMBERS_FIRST,
    SIGNS_TAKE_LINE_ENDS,
    WORD_TAKES_ANY,
)
from groundup.tokenizer.unicode_classes import BLANK, LETTER, LINE_END, NUMBER, SIGN

_WHITESPACE = BLANK + LINE_END
_APOSTROPHE, _SPACE, _LF, _CR = 0x27, 0x20, 0x0A, 0x0D


@kernel
def find_pieces(
    data: npt.NDArray[Any],
    documents: npt.NDArray[Any],
    classes: npt.NDArray[Any],
    rules: int,
    max_digits: int,
    state: npt.NDArray[Any],
    ends: npt.NDArray[Any],
) -> int:
    """Find the next pieces of some documents, as many as `ends` has room for.

    Args:
        data: valid UTF-8 of all documents, one after the other, and 8 bytes more.
        documents: where each document ends, ascending, in bytes.
        classes: `character_classes()`.
        rules: `ScanRules.flags`.
        max_digits: `ScanRules.max_digits`.
        state: position in `data`, number of the document, and the longest piece so far in bytes; set to where the
            next call goes on.
        ends: filled with the end of each piece, in bytes.

    Returns:
        How many pieces were found; 0 when there are no more.
    """
    place, document, longest, found = state[0], state[1], state[2], 0
    while document < len(documents):
        end = documents[document]
        while place < end and found < len(ends):
            stop = _piece_end(data, classes, place, end, rules, max_digits)
            longest = max(longest, stop - place)
            place = ends[found] = stop
            found += 1
        if place < end:
            break
        document += 1
    state[0], state[1], state[2] = place, document, longest
    return found


@kernel
def _piece_end(
    data: npt.NDArray[Any], classes: npt.NDArray[Any], place: int, end: int, rules: int, max_digits: int
) -> int:
    first = data[place]
    if first == _APOSTROPHE:
        contraction = _contraction_end(data, place, end, rules & FOLDS_CASE)
        if contraction:
            return contraction
    kind, after = _class_at(data, classes, place)
    if kind == LETTER:
        return _run_end(data, classes, after, end, LETTER)
    if kind == NUMBER:
        return _number_end(data, classes, after, end, max_digits - 1)
    second, after_second = 0, after
    if after < end:
        second, after_second = _class_at(data, classes, after)
    if second == LETTER and (first == _SPACE or (rules & WORD_TAKES_ANY and kind != LINE_END)):
        return _run_end(data, classes, after_second, end, LETTER)
    if first == _SPACE and second == NUMBER and rules & NUMBER_TAKES_SPACE:
        return _number_end(data, classes, after_second, end, max_digits - 1)
    if kind == SIGN or (first == _SPACE and second == SIGN):
        stop = _run_end(data, classes, after, end, SIGN)
        if rules & SIGNS_TAKE_LINE_ENDS:
            while stop < end and (data[stop] == _LF or data[stop] == _CR):
                stop += 1
        return stop
    return _whitespace_end(data, classes, place, end, rules)


@kernel
def _whitespace_end(data: npt.NDArray[Any], classes: npt.NDArray[Any], place: int, end: int, rules: int) -> int:
    stop, last, after_line_end, kind = place, place, 0, 0
    while stop < end:
        kind, after = _class_at(data, classes, stop)
        if not kind & _WHITESPACE:
            break
        last, stop = stop, after
        if kind == LINE_END:
            after_line_end = after
    is_last = stop == end or (rules & NUMBERS_FIRST and kind == NUMBER)
    if is_last and (rules & END_IS_ONE_PIECE or not (rules & CUTS_AFTER_LINE_ENDS and after_line_end)):
        return stop
    if rules & CUTS_AFTER_LINE_ENDS and after_line_end:
        return after_line_end
    # The last blank goes to what follows; a single one stays, or there would be no piece.
    return last if last > place else stop


@kernel
def _contraction_end(data: npt.NDArray[Any], place: int, end: int, folds_case: int) -> int:
    """The end of `'s`, `'t`, `'d`, `'m`, `'ll`, `'ve` or `'re` at `place`, or 0."""
    if place + 1 >= end:
        return 0
    one, two = data[place + 1], data[place + 2]
    if folds_case:
        # The long s (U+017F, C5 BF) is an s to every engine that folds case.
        if one == 0xC5 and two == 0xBF:
            return place + 3
        one, two = one | 0x20, two | 0x20
    if one == 0x73 or one == 0x74 or one == 0x64 or one == 0x6D:
        return place + 2
    if place + 2 < end and ((one == 0x6C and two == 0x6C) or ((one == 0x76 or one == 0x72) and two == 0x65)):
        return place + 3
    return 0


@kernel
def _number_end(data: npt.NDArray[Any], classes: npt.NDArray[Any], place: int, end: int, more: int) -> int:
    while more > 0 and place < end:
        kind, after = _class_at(data, classes, place)
        if kind != NUMBER:
            break
        place = after
        more -= 1
    return place


@kernel
def _run_end(data: npt.NDArray[Any], classes: npt.NDArray[Any], place: int, end: int, wanted: int) -> int:
    while place < end:
        kind, after = _class_at(data, classes, place)
        if kind != wanted:
            break
        place = after
    return place


@kernel
def _class_at(data: npt.NDArray[Any], classes: npt.NDArray[Any], place: int) -> tuple[int, int]:
    """The class of the character at `place` and where the next one begins (The Unicode Standard, table 3-6)."""
    byte = data[place]
    if byte < 0x80:
        return classes[byte], place + 1
    if byte < 0xE0:
        return classes[(byte & 0x1F) << 6 | data[place + 1] & 0x3F], place + 2
    if byte < 0xF0:
        return classes[(byte & 0x0F) << 12 | (data[place + 1] & 0x3F) << 6 | data[place + 2] & 0x3F], place + 3
    code = (byte & 0x07) << 18 | (data[place + 1] & 0x3F) << 12 | (data[place + 2] & 0x3F) << 6 | data[place + 3] & 0x3F
    return classes[code], place + 4
