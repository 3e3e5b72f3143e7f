"""Learning merges: counts of all pairs that follow each merge, and a heap that knows the most frequent one.

All distinct words stand in one row with a cell for each byte. A token writes its id into its first and its last cell,
so that both neighbours of a place are found without links: the next token begins where this one ends, and the one
before says in the cell beside it what it is, hence how long. (Knuth calls these boundary tags, The Art of Computer
Programming, volume 1, 2.5.)

Every place where a pair with the new token stands comes into being in the one merge that makes the token; afterwards
its count only falls. So the places of a pair are written once, side by side, and a pair enters the heap once; when it
comes to the top with a count that has fallen since, it goes back with its true one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from groundup.core.jit import kernel

_NOTHING = -1
_EMPTY = -1
# Columns of a pair.
KEY, COUNT, FIRST, NUMBER = 0, 1, 2, 3
# Places in `state`.
TOKENS, MERGES, PLACES, HEAP, PAIRS = 0, 1, 2, 3, 4
#: What `learn_merges` returns: that it is done, or which arrays must grow first.
DONE, PAIRS_FULL, BYTES_FULL = 0, 1, 2


@kernel
def first_pairs(
    cells: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    pairs: npt.NDArray[Any],
    places: npt.NDArray[Any],
    heap: npt.NDArray[Any],
    state: npt.NDArray[Any],
    token_ends: npt.NDArray[Any],
    token_bytes: npt.NDArray[Any],
    min_count: int,
) -> None:
    """Count the pairs of bytes and enter them into the table and the heap; see `learn_merges` for the arguments."""
    for byte in range(256):
        token_bytes[byte] = byte
        token_ends[byte + 1] = byte + 1
    state[TOKENS] = 256
    for at in range(1, len(cells) - 1):
        if cells[at] != _NOTHING and cells[at + 1] != _NOTHING:
            slot = _slot_of(cells[at], cells[at + 1], pairs)
            if pairs[slot, KEY] == _EMPTY:
                pairs[slot, KEY] = np.int64(cells[at]) << 32 | np.int64(cells[at + 1])
                state[PAIRS] += 1
            pairs[slot, COUNT] += weights[at]
            pairs[slot, NUMBER] += 1
    for slot in range(len(pairs)):
        if pairs[slot, KEY] != _EMPTY:
            pairs[slot, FIRST] = state[PLACES]
            state[PLACES] += pairs[slot, NUMBER]
            pairs[slot, NUMBER] = 0
            if pairs[slot, COUNT] >= min_count:
                _push(pairs[slot, COUNT], pairs[slot, KEY], heap, state, token_ends, token_bytes)
    for at in range(1, len(cells) - 1):
        if cells[at] != _NOTHING and cells[at + 1] != _NOTHING:
            slot = _slot_of(cells[at], cells[at + 1], pairs)
            places[pairs[slot, FIRST] + pairs[slot, NUMBER]] = at
            pairs[slot, NUMBER] += 1


@kernel
def learn_merges(
    cells: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    pairs: npt.NDArray[Any],
    places: npt.NDArray[Any],
    heap: npt.NDArray[Any],
    state: npt.NDArray[Any],
    token_ends: npt.NDArray[Any],
    token_bytes: npt.NDArray[Any],
    merges: npt.NDArray[Any],
    around: npt.NDArray[Any],
    records: npt.NDArray[Any],
    min_count: int,
    stop: int,
) -> int:
    """Learn merges until there are `stop` of them, no pair is frequent enough, or an array is too small to go on.

    Args:
        cells, weights: what `lay_out` made.
        pairs: hash table of (left << 32 | right, count, its first place in `places`, number of places); -1 in the
            first column where a slot is free; a power of two of them.
        places: cells where pairs begin, those of a pair side by side.
        heap: (count, left << 32 | right), the most frequent first, of equals the greater pair of byte strings.
        state: how many tokens, merges, places, heap entries and pairs there are; goes on from there.
        token_ends: where each token ends in `token_bytes`, from the second entry on.
        token_bytes: the bytes of all tokens.
        merges: filled with the left and right id of each merge.
        around: zeros, shape `(6, tokens)`: for each token the lost count, the won count and the number of records
            before and after the new one; zeros again afterwards.
        records: scratch for places and neighbours, shape `(2 * longest list of places, 3)`.
        min_count: stop when no pair is as frequent as this.
        stop: how many merges there shall be.

    Returns:
        `DONE`; `PAIRS_FULL` when `pairs` and `heap` must grow first, `BYTES_FULL` when `token_bytes` must.
    """
    while state[MERGES] < stop and state[HEAP] > 0:
        count, key = heap[0, 0], heap[0, 1]
        left, right = key >> 32, key & 0xFFFFFFFF
        slot = _slot_of(left, right, pairs)
        if pairs[slot, COUNT] != count:  # it went down since it was pushed: back in line with its true count
            _pop(heap, state, token_ends, token_bytes)
            if pairs[slot, COUNT] >= min_count:
                _push(pairs[slot, COUNT], key, heap, state, token_ends, token_bytes)
            continue
        # Each place can bring two pairs.
        room = 2 * min(pairs[slot, NUMBER], state[TOKENS] + 1)
        if 2 * (state[PAIRS] + room) > len(pairs) or state[HEAP] + room > len(heap):
            return PAIRS_FULL
        new = state[TOKENS]
        left_length = token_ends[left + 1] - token_ends[left]
        right_length = token_ends[right + 1] - token_ends[right]
        begin = token_ends[new]
        if begin + left_length + right_length > len(token_bytes):
            return BYTES_FULL
        _pop(heap, state, token_ends, token_bytes)
        for index in range(left_length):
            token_bytes[begin + index] = token_bytes[token_ends[left] + index]
        for index in range(right_length):
            token_bytes[begin + left_length + index] = token_bytes[token_ends[right] + index]
        token_ends[new + 1] = begin + left_length + right_length
        merges[state[MERGES], 0], merges[state[MERGES], 1] = left, right
        state[TOKENS] += 1
        state[MERGES] += 1
        found = _join_everywhere(left, right, new, slot, cells, weights, pairs, places, token_ends, around, records)
        pairs[slot, COUNT] = 0
        _enter(left, right, new, found, pairs, places, heap, state, token_ends, token_bytes, around, records, min_count)
    return DONE


@kernel
def _join_everywhere(
    left: int,
    right: int,
    new: int,
    slot: int,
    cells: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    pairs: npt.NDArray[Any],
    places: npt.NDArray[Any],
    token_ends: npt.NDArray[Any],
    around: npt.NDArray[Any],
    records: npt.NDArray[Any],
) -> int:
    """Write the new token wherever the pair stands, and note what that changes; return the number of records."""
    left_length = token_ends[left + 1] - token_ends[left]
    length = left_length + token_ends[right + 1] - token_ends[right]
    found = 0
    # Ascending, because in a run such as `aaaa` the leftmost two are merged first. A place can be out of date when an
    # earlier merge took one of the two tokens: a token at a place only ever grows, so it is then different for good.
    for index in range(pairs[slot, FIRST], pairs[slot, FIRST] + pairs[slot, NUMBER]):
        at = places[index]
        second = at + left_length
        if cells[at] != left or cells[second] != right:
            continue
        after = at + length
        weight = weights[at]
        cells[second - 1], cells[second] = _NOTHING - 1, _NOTHING - 1
        cells[at], cells[after - 1] = new, new
        before = cells[at - 1]
        if before == new:
            # Two new ones side by side. The first one's last record stands, for the old pair between them is lost; but
            # what it won is no pair any more, and has no place.
            records[found - 1, 0] = _NOTHING
            around[4, left] -= weight
            around[5, left] -= 1
            around[4, new] += weight
            around[5, new] += 1
            records[found, 0], records[found, 1], records[found, 2] = at - length, new, 1
            found += 1
        elif before != _NOTHING:
            around[0, before] += weight
            around[2, before] += weight
            around[3, before] += 1
            records[found, 0] = at - (token_ends[before + 1] - token_ends[before])
            records[found, 1], records[found, 2] = before, 0
            found += 1
        beyond = cells[after]
        if beyond != _NOTHING:
            around[1, beyond] += weight
            around[4, beyond] += weight
            around[5, beyond] += 1
            records[found, 0], records[found, 1], records[found, 2] = at, beyond, 1
            found += 1
    return found


@kernel
def _enter(
    left: int,
    right: int,
    new: int,
    found: int,
    pairs: npt.NDArray[Any],
    places: npt.NDArray[Any],
    heap: npt.NDArray[Any],
    state: npt.NDArray[Any],
    token_ends: npt.NDArray[Any],
    token_bytes: npt.NDArray[Any],
    around: npt.NDArray[Any],
    records: npt.NDArray[Any],
    min_count: int,
) -> None:
    """Take the lost counts away, make a pair of each new neighbour, and give it its places."""
    for index in range(found):
        other, is_after = records[index, 1], records[index, 2]
        lost, won, number = (1, 4, 5) if is_after else (0, 2, 3)
        if around[lost, other]:
            old = _slot_of(right, other, pairs) if is_after else _slot_of(other, left, pairs)
            pairs[old, COUNT] -= around[lost, other]
            around[lost, other] = 0
        if around[number, other] == 0:
            continue
        slot = _slot_of(new, other, pairs) if is_after else _slot_of(other, new, pairs)
        if pairs[slot, KEY] == _EMPTY:
            first, second = (new, other) if is_after else (other, new)
            pairs[slot, KEY] = np.int64(first) << 32 | np.int64(second)
            pairs[slot, COUNT] = around[won, other]
            pairs[slot, FIRST], pairs[slot, NUMBER] = state[PLACES], 0
            state[PLACES] += around[number, other]
            state[PAIRS] += 1
            if pairs[slot, COUNT] >= min_count:
                _push(pairs[slot, COUNT], pairs[slot, KEY], heap, state, token_ends, token_bytes)
        if records[index, 0] != _NOTHING:
            places[pairs[slot, FIRST] + pairs[slot, NUMBER]] = records[index, 0]
            pairs[slot, NUMBER] += 1
    for index in range(found):
        for row in range(6):
            around[row, records[index, 1]] = 0


@kernel
def copy_pairs(pairs: npt.NDArray[Any], larger: npt.NDArray[Any]) -> int:
    """Enter the pairs that are still there into a larger table; return how many they are."""
    number = 0
    for index in range(len(pairs)):
        if pairs[index, KEY] != _EMPTY and pairs[index, COUNT] > 0:
            slot = _slot_of(pairs[index, KEY] >> 32, pairs[index, KEY] & 0xFFFFFFFF, larger)
            for column in range(4):
                larger[slot, column] = pairs[index, column]
            number += 1
    return number


@kernel
def _slot_of(left: int, right: int, pairs: npt.NDArray[Any]) -> int:
    """The slot of a pair, or the free one where it belongs."""
    key = np.int64(left) << 32 | np.int64(right)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(mixed >> np.uint64(32)) & (len(pairs) - 1)
    while pairs[slot, KEY] != _EMPTY and pairs[slot, KEY] != key:
        slot = (slot + 1) & (len(pairs) - 1)
    return slot


@kernel
def _push(
    count: int,
    key: int,
    heap: npt.NDArray[Any],
    state: npt.NDArray[Any],
    token_ends: npt.NDArray[Any],
    token_bytes: npt.NDArray[Any],
) -> None:
    at = state[HEAP]
    while at > 0:
        parent = (at - 1) >> 1
        if not _comes_first(count, key, heap[parent, 0], heap[parent, 1], token_ends, token_bytes):
            break
        heap[at, 0], heap[at, 1] = heap[parent, 0], heap[parent, 1]
        at = parent
    heap[at, 0], heap[at, 1] = count, key
    state[HEAP] += 1


@kernel
def _pop(
    heap: npt.NDArray[Any], state: npt.NDArray[Any], token_ends: npt.NDArray[Any], token_bytes: npt.NDArray[Any]
) -> None:
    state[HEAP] -= 1
    size = state[HEAP]
    count, key = heap[size, 0], heap[size, 1]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _comes_first(
            heap[child + 1, 0], heap[child + 1, 1], heap[child, 0], heap[child, 1], token_ends, token_bytes
        ):
            child += 1
        if not _comes_first(heap[child, 0], heap[child, 1], count, key, token_ends, token_bytes):
            break
        heap[at, 0], heap[at, 1] = heap[child, 0], heap[child, 1]
        at = child
    heap[at, 0], heap[at, 1] = count, key


@kernel
def _comes_first(
    count: int, key: int, other_count: int, other_key: int, token_ends: npt.NDArray[Any], token_bytes: npt.NDArray[Any]
) -> bool:
    """Whether a pair is more frequent than another, or as frequent and the greater pair of byte strings."""
    if count != other_count:
        return count > other_count
    order = _compare(key >> 32, other_key >> 32, token_ends, token_bytes)
    if order == 0:
        order = _compare(key & 0xFFFFFFFF, other_key & 0xFFFFFFFF, token_ends, token_bytes)
    return order > 0


@kernel
def _compare(token: int, other: int, token_ends: npt.NDArray[Any], token_bytes: npt.NDArray[Any]) -> int:
    if token == other:
        return 0
    start, other_start = token_ends[token], token_ends[other]
    length, other_length = token_ends[token + 1] - start, token_ends[other + 1] - other_start
    for index in range(min(length, other_length)):
        difference = np.int64(token_bytes[start + index]) - np.int64(token_bytes[other_start + index])
        if difference:
            return difference
    return length - other_length
