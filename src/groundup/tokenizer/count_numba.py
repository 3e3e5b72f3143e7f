"""Counting the pieces of a text in a hash table, and laying the distinct ones out for training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from groundup.core.jit import kernel

_NOTHING = -1
#: Up to so many bytes a word is its own key.
_SHORT = 16
#: Columns of the table: the two numbers of the key, length and count of the word.
HASH, SECOND, LENGTH, COUNT = 0, 1, 2, 3


@kernel
def count_pieces(
    data: npt.NDArray[Any],
    words: npt.NDArray[Any],
    ends: npt.NDArray[Any],
    counts: npt.NDArray[Any],
    state: npt.NDArray[Any],
    table: npt.NDArray[Any],
    long_words: npt.NDArray[Any],
) -> int:
    """Count pieces of a text in a hash table.

    Args:
        data: UTF-8 and 8 bytes more.
        words: the 8 bytes from each place on as one number.
        ends: where each piece ends.
        counts: how often each piece is counted.
        state: where the first piece begins, number of distinct words in the table, bytes used of `long_words`; set to
            where the next call goes on.
        table: slots of two numbers for a key, a length and a count; 0 before; a power of two of them. The key is the
            word itself up to 16 bytes, else its hash and its place in `long_words`.
        long_words: the bytes of the words beyond 16.

    Returns:
        How many pieces were counted: fewer than there are when the table is more than half full or `long_words` has
        no room, and the caller must make a larger one (`copy_counts`).
    """
    start, distinct, used = state[0], state[1], state[2]
    slots = len(table)
    done = 0
    while done < len(ends) and 2 * distinct < slots:
        length = ends[done] - start
        if length <= _SHORT:
            a = _first_bytes(words[start], min(length, 8))
            b = _first_bytes(words[start + 8], length - 8) if length > 8 else np.uint64(0)
        else:
            if used + length > len(long_words):
                break
            a, b = _long_hash(words, start, length), np.uint64(0)
        slot = np.int64(_mix(a, b, length)) & (slots - 1)
        while table[slot, LENGTH] != 0:
            if table[slot, HASH] == a and table[slot, LENGTH] == length:
                if length <= _SHORT:
                    if table[slot, SECOND] == b:
                        break
                elif _same(data, start, long_words, np.int64(table[slot, SECOND]), length):
                    break
            slot = (slot + 1) & (slots - 1)
        if table[slot, LENGTH] == 0:
            if length > _SHORT:
                b = np.uint64(used)
                for index in range(length):
                    long_words[used + index] = data[start + index]
                used += length
            table[slot, HASH], table[slot, SECOND], table[slot, LENGTH] = a, b, np.uint64(length)
            distinct += 1
        table[slot, COUNT] += np.uint64(counts[done])
        start = ends[done]
        done += 1
    state[0], state[1], state[2] = start, distinct, used
    return done


@kernel
def copy_counts(table: npt.NDArray[Any], larger: npt.NDArray[Any]) -> None:
    """Enter everything that a table counted into a larger one."""
    slots = len(larger)
    for index in range(len(table)):
        if table[index, LENGTH] != 0:
            b = table[index, SECOND] if table[index, LENGTH] <= _SHORT else np.uint64(0)
            slot = np.int64(_mix(table[index, HASH], b, np.int64(table[index, LENGTH]))) & (slots - 1)
            while larger[slot, LENGTH] != 0:
                slot = (slot + 1) & (slots - 1)
            for part in range(4):
                larger[slot, part] = table[index, part]


@kernel
def _first_bytes(word: Any, count: int) -> Any:
    """From 1 to 8 bytes of a little-endian number."""
    unwanted = np.uint64(64 - 8 * count)
    return word << unwanted >> unwanted


@kernel
def _mix(a: Any, b: Any, length: int) -> Any:
    mixed = (a + np.uint64(length)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(32)) ^ b) * np.uint64(0xC2B2AE3D27D4EB4F)
    return (mixed ^ (mixed >> np.uint64(32))) >> np.uint64(1)


@kernel
def _long_hash(words: npt.NDArray[Any], start: int, length: int) -> Any:
    value = np.uint64(length)
    for offset in range(0, length - 7, 8):
        value = (value ^ words[start + offset]) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    value = (value ^ words[start + length - 8]) * np.uint64(0xC2B2AE3D27D4EB4F)
    return value ^ (value >> np.uint64(32))


@kernel
def _same(data: npt.NDArray[Any], start: int, long_words: npt.NDArray[Any], place: int, length: int) -> bool:
    same = True
    for index in range(length):
        if data[start + index] != long_words[place + index]:
            same = False
            break
    return same


@kernel
def lay_out(
    table: npt.NDArray[Any], long_words: npt.NDArray[Any], cells: npt.NDArray[Any], weights: npt.NDArray[Any]
) -> None:
    """Write the words of a table into one row, a cell of nothing before, between and after them.

    Args:
        table, long_words: what `count_pieces` counted.
        cells: set to the bytes, -1 between words.
        weights: set to how often the word of each cell occurs.
    """
    at = 0
    cells[at] = _NOTHING
    for index in range(len(table)):
        length = np.int64(table[index, LENGTH])
        for place in range(length):
            if length > _SHORT:
                byte = np.int64(long_words[np.int64(table[index, SECOND]) + place])
            else:
                byte = np.int64(table[index, place >> 3] >> np.uint64(8 * (place & 7))) & 0xFF
            at += 1
            cells[at] = byte
            weights[at] = np.int64(table[index, COUNT])
        if length:
            at += 1
            cells[at] = _NOTHING
