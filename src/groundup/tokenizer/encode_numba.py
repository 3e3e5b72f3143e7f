"""Pieces of a text to token ids: a cache of pieces, and merging by rank where it has no answer.

All tables are flat arrays: a hash table is a row of slots, and a key that finds its slot taken goes to the next one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from groundup.core.jit import kernel

#: A line of the cache is one line of the processor's caches, 16 numbers of 32 bits: 8 for up to 32 bytes of the piece,
#: one for its length and the number of its ids, 7 for the ids.
LINE_NUMBERS = 16
LONGEST_CACHED, MOST_CACHED_IDS = 32, 7
_WAYS = 4
#: Up to this length all ranks of a piece are looked at for each merge, above it a heap finds the lowest.
SCAN_LENGTH = 64
_NEVER = np.int64(1) << 62
_EMPTY = -1
_NO_TOKEN = -1


@kernel
def encode_pieces(
    data: npt.NDArray[Any],
    words: npt.NDArray[Any],
    start: int,
    ends: npt.NDArray[Any],
    byte_ids: npt.NDArray[Any],
    pairs: npt.NDArray[Any],
    vocabulary: npt.NDArray[Any],
    token_bytes: npt.NDArray[Any],
    cache_keys: npt.NDArray[Any],
    cache_ids: npt.NDArray[Any],
    documents: npt.NDArray[Any],
    id_ends: npt.NDArray[Any],
    state: npt.NDArray[Any],
    scratch: npt.NDArray[Any],
    ids: npt.NDArray[Any],
) -> int:
    """Write the ids of pieces.

    Args:
        data: UTF-8 of the documents and 8 bytes more.
        words: the 8 bytes from each place on as one number (an overlapping view of `data`).
        start: where the first piece begins.
        ends: where each piece ends.
        byte_ids: the id of each byte, or -1 (then it is left out), shape `(256,)`.
        pairs: hash table of the merges (see `fill_pairs`), shape `(slots, 2)`.
        vocabulary: hash table of whole tokens (see `fill_vocabulary`), shape `(slots, 4)`; one slot when pieces are
            not looked up as a whole.
        token_bytes: the bytes of all tokens in it.
        cache_keys, cache_ids: the cache as 64-bit and as 32-bit numbers, shapes `(lines, 8)` and `(lines, 16)`.
        documents: where each document ends.
        id_ends: set to the number of ids up to the end of each document that ends here.
        state: number of ids so far and number of the document; set to where the next call goes on.
        scratch: 64-bit numbers, `scratch_size(n)` of them where the longest piece has n bytes.
        ids: filled with the ids; as long as the bytes of the pieces is always long enough.

    Returns:
        How many ids were written.
    """
    lines = np.uint64(len(cache_keys) - 1)
    count, document = 0, state[1]
    place = start
    for piece in range(len(ends)):
        end = ends[piece]
        length = end - place
        if length <= LONGEST_CACHED:
            a, b, c, d = _key(words, place, length)
            line = np.int64(_mix(a, b, c, d, length) & lines)
            found = _find_line(cache_keys, cache_ids, line, a, b, c, d, length)
            if found >= 0:
                number = cache_ids[found, 8] >> 8
                ids[count] = cache_ids[found, 9]
                for index in range(1, number):
                    ids[count + index] = cache_ids[found, 9 + index]
                count += number
            else:
                number = _encode_piece(data, place, end, byte_ids, pairs, vocabulary, token_bytes, scratch, ids, count)
                # A piece may have no id at all; those above read one.
                if 0 < number <= MOST_CACHED_IDS:
                    _store(cache_keys, cache_ids, line, a, b, c, d, length, ids, count, number)
                count += number
        else:
            count += _encode_piece(data, place, end, byte_ids, pairs, vocabulary, token_bytes, scratch, ids, count)
        place = end
        while document < len(documents) and documents[document] == place:
            id_ends[document] = state[0] + count
            document += 1
    state[0], state[1] = state[0] + count, document
    return count


@kernel
def _key(words: npt.NDArray[Any], place: int, length: int) -> tuple[Any, Any, Any, Any]:
    """Up to 32 bytes as four numbers, zeros after the end."""
    a, b, c, d = _first_bytes(words[place], min(length, 8)), np.uint64(0), np.uint64(0), np.uint64(0)
    if length > 8:
        b = _first_bytes(words[place + 8], min(length - 8, 8))
    if length > 16:
        c = _first_bytes(words[place + 16], min(length - 16, 8))
    if length > 24:
        d = _first_bytes(words[place + 24], length - 24)
    return a, b, c, d


@kernel
def _first_bytes(word: Any, count: int) -> Any:
    """From 1 to 8 bytes of a little-endian number."""
    unwanted = np.uint64(64 - 8 * count)
    return word << unwanted >> unwanted


@kernel
def _mix(a: Any, b: Any, c: Any, d: Any, length: int) -> Any:
    """A hash of a key: multiplications by odd constants spread the bits upwards, the high half is folded down."""
    mixed = a * np.uint64(0x9E3779B97F4A7C15) + np.uint64(length)
    if length > 8:
        mixed = (mixed ^ (mixed >> np.uint64(32)) ^ b) * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed = (mixed ^ (mixed >> np.uint64(32)) ^ c) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32)) ^ d) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))


@kernel
def _find_line(
    keys: npt.NDArray[Any], numbers: npt.NDArray[Any], line: int, a: Any, b: Any, c: Any, d: Any, length: int
) -> int:
    for way in range(_WAYS):
        at = line ^ way
        if (
            keys[at, 0] == a
            and numbers[at, 8] & 0xFF == length
            and keys[at, 1] == b
            and keys[at, 2] == c
            and keys[at, 3] == d
        ):
            return at
        if numbers[at, 8] == 0:
            break
    return -1


@kernel
def _store(
    keys: npt.NDArray[Any],
    numbers: npt.NDArray[Any],
    line: int,
    a: Any,
    b: Any,
    c: Any,
    d: Any,
    length: int,
    ids: npt.NDArray[Any],
    start: int,
    count: int,
) -> None:
    """Keep the ids of a piece in a free line near its own, else in place of the piece that has this one."""
    at = line
    for way in range(_WAYS):
        if numbers[line ^ way, 8] == 0:
            at = line ^ way
            break
    keys[at, 0], keys[at, 1], keys[at, 2], keys[at, 3] = a, b, c, d
    numbers[at, 8] = count << 8 | length
    for index in range(count):
        numbers[at, 9 + index] = ids[start + index]


@kernel
def _encode_piece(
    data: npt.NDArray[Any],
    start: int,
    end: int,
    byte_ids: npt.NDArray[Any],
    pairs: npt.NDArray[Any],
    vocabulary: npt.NDArray[Any],
    token_bytes: npt.NDArray[Any],
    scratch: npt.NDArray[Any],
    ids: npt.NDArray[Any],
    count: int,
) -> int:
    if len(vocabulary) > 1:
        whole = _find_token(data, start, end, vocabulary, token_bytes)
        if whole != _NO_TOKEN:
            ids[count] = whole
            return 1
    number = 0
    for place in range(start, end):
        if byte_ids[data[place]] != _NO_TOKEN:
            scratch[number] = byte_ids[data[place]]
            number += 1
    if number <= SCAN_LENGTH:
        number = _merge_short(scratch, number, pairs)
    else:
        number, _ = merge_long(scratch, number, pairs)
    for index in range(number):
        ids[count + index] = scratch[index]
    return number


@kernel
def _merge_short(scratch: npt.NDArray[Any], number: int, pairs: npt.NDArray[Any]) -> int:
    """Merge tokens in place, the leftmost pair of lowest rank first; return how many are left."""
    tokens, ranks = scratch[:number], scratch[number : 2 * number]
    for index in range(number - 1):
        ranks[index] = find_pair(tokens[index], tokens[index + 1], pairs)
    while number > 1:
        best, at = _NEVER, 0
        for index in range(number - 1):
            if ranks[index] < best:
                best, at = ranks[index], index
        if best == _NEVER:
            break
        tokens[at] = best & 0xFFFFFFFF
        for index in range(at + 1, number - 1):
            tokens[index] = tokens[index + 1]
            ranks[index] = ranks[index + 1]
        number -= 1
        if at > 0:
            ranks[at - 1] = find_pair(tokens[at - 1], tokens[at], pairs)
        if at < number - 1:
            ranks[at] = find_pair(tokens[at], tokens[at + 1], pairs)
    return number


def scratch_size(length: int) -> int:
    """How many numbers of scratch space a piece of so many bytes needs: four rows, and a heap of three by two."""
    return 10 * max(length, SCAN_LENGTH)


@kernel
def merge_long(scratch: npt.NDArray[Any], number: int, pairs: npt.NDArray[Any]) -> tuple[int, int]:
    """Merge tokens in place, with a heap of ranks and places; n log n steps for n tokens.

    Args:
        scratch: begins with the ids, and with those that are left afterwards; `scratch_size(number)` numbers.
        number: how many there are.
        pairs: hash table of the merges.

    Returns:
        How many are left, and how many entries the heap had in all (fewer than three for each token).
    """
    tokens, ranks = scratch[:number], scratch[number : 2 * number]
    following, previous = scratch[2 * number : 3 * number], scratch[3 * number : 4 * number]
    heap_ranks, heap_places = scratch[4 * number : 7 * number], scratch[7 * number : 10 * number]
    size = pushed = 0
    for place in range(number):
        following[place], previous[place] = place + 1, place - 1
        ranks[place] = find_pair(tokens[place], tokens[place + 1], pairs) if place + 1 < number else _NEVER
        if ranks[place] != _NEVER:
            size = _push(heap_ranks, heap_places, size, ranks[place], place)
            pushed += 1
    while size:
        rank, place = heap_ranks[0], heap_places[0]
        size = _pop(heap_ranks, heap_places, size)
        if ranks[place] != rank:  # one of the two was merged in the meantime
            continue
        second = following[place]
        after = following[second]
        tokens[place] = rank & 0xFFFFFFFF
        ranks[second] = _NEVER
        tokens[second] = _NO_TOKEN
        following[place] = after
        if after < number:
            previous[after] = place
        ranks[place] = find_pair(tokens[place], tokens[after], pairs) if after < number else _NEVER
        if ranks[place] != _NEVER:
            size = _push(heap_ranks, heap_places, size, ranks[place], place)
            pushed += 1
        before = previous[place]
        if before >= 0:
            ranks[before] = find_pair(tokens[before], tokens[place], pairs)
            if ranks[before] != _NEVER:
                size = _push(heap_ranks, heap_places, size, ranks[before], before)
                pushed += 1
    left = 0
    for place in range(number):
        if tokens[place] != _NO_TOKEN:
            tokens[left] = tokens[place]
            left += 1
    return left, pushed


@kernel
def _push(ranks: npt.NDArray[Any], places: npt.NDArray[Any], size: int, rank: int, place: int) -> int:
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if ranks[parent] < rank or (ranks[parent] == rank and places[parent] < place):
            break
        ranks[at], places[at] = ranks[parent], places[parent]
        at = parent
    ranks[at], places[at] = rank, place
    return size + 1


@kernel
def _pop(ranks: npt.NDArray[Any], places: npt.NDArray[Any], size: int) -> int:
    size -= 1
    rank, place = ranks[size], places[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            ranks[right] < ranks[child] or (ranks[right] == ranks[child] and places[right] < places[child])
        ):
            child = right
        if rank < ranks[child] or (rank == ranks[child] and place < places[child]):
            break
        ranks[at], places[at] = ranks[child], places[child]
        at = child
    ranks[at], places[at] = rank, place
    return size


@kernel
def _pair_slot(key: int, slots: int) -> int:
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed ^ (mixed >> np.uint64(32))) & (slots - 1)


@kernel
def find_pair(left: int, right: int, pairs: npt.NDArray[Any]) -> int:
    """Rank (upper half) and new id (lower half) of the merge of two tokens; 2**62 where there is none."""
    key = np.int64(left) << 32 | np.int64(right)
    slot = _pair_slot(key, len(pairs))
    while pairs[slot, 0] != _EMPTY:
        if pairs[slot, 0] == key:
            return pairs[slot, 1]
        slot = (slot + 1) & (len(pairs) - 1)
    return _NEVER


@kernel
def fill_pairs(merges: npt.NDArray[Any], pairs: npt.NDArray[Any]) -> None:
    """Enter the merges into their hash table.

    Args:
        merges: rank, left id, right id and new id, shape `(merges, 4)`.
        pairs: filled with (left << 32 | right, rank << 32 | new); -1 before; a power of two of slots, some left free.
    """
    for index in range(len(merges)):
        key = merges[index, 1] << 32 | merges[index, 2]
        slot = _pair_slot(key, len(pairs))
        while pairs[slot, 0] != _EMPTY:
            slot = (slot + 1) & (len(pairs) - 1)
        pairs[slot, 0] = key
        pairs[slot, 1] = merges[index, 0] << 32 | merges[index, 3]


@kernel
def _token_hash(data: npt.NDArray[Any], start: int, end: int) -> int:
    """FNV-1a (Fowler, Noll and Vo), one bit short so that it is never negative."""
    value = np.uint64(0xCBF29CE484222325)
    for place in range(start, end):
        value = (value ^ np.uint64(data[place])) * np.uint64(0x100000001B3)
    return np.int64((value ^ (value >> np.uint64(32))) >> np.uint64(1))


@kernel
def _find_token(
    data: npt.NDArray[Any], start: int, end: int, vocabulary: npt.NDArray[Any], token_bytes: npt.NDArray[Any]
) -> int:
    value = _token_hash(data, start, end)
    slot = value & (len(vocabulary) - 1)
    while vocabulary[slot, 3] != _NO_TOKEN:
        if vocabulary[slot, 0] == value and vocabulary[slot, 2] == end - start:
            same, offset = True, vocabulary[slot, 1]
            for index in range(end - start):
                if token_bytes[offset + index] != data[start + index]:
                    same = False
                    break
            if same:
                return vocabulary[slot, 3]
        slot = (slot + 1) & (len(vocabulary) - 1)
    return _NO_TOKEN


@kernel
def fill_vocabulary(
    token_bytes: npt.NDArray[Any], ends: npt.NDArray[Any], ids: npt.NDArray[Any], vocabulary: npt.NDArray[Any]
) -> None:
    """Enter whole tokens into their hash table.

    Args:
        token_bytes: the bytes of all tokens, one after the other.
        ends: where each ends.
        ids: the id of each.
        vocabulary: filled with hash, offset, length and id, shape `(slots, 4)`; -1 before; a power of two of slots,
            some left free.
    """
    start = 0
    for index in range(len(ends)):
        value = _token_hash(token_bytes, start, ends[index])
        slot = value & (len(vocabulary) - 1)
        while vocabulary[slot, 3] != _NO_TOKEN:
            slot = (slot + 1) & (len(vocabulary) - 1)
        vocabulary[slot, 0], vocabulary[slot, 1] = value, start
        vocabulary[slot, 2], vocabulary[slot, 3] = ends[index] - start, ids[index]
        start = ends[index]
