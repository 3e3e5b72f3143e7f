"""The fast versions of training and merging: the same results as `bpe_reference`, without counting anew.

Training keeps all distinct words in one flat row of tokens, an index from each pair to its places, and a heap of
pair counts. A merge touches only the places where its pair stands.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from groundup.tokenizer.bpe_reference import MergeTable

Progress = Callable[[int, int], None]

_NOTHING = -1  # between two words, and where a merge took a token away
_COMPLEMENT = bytes(255 - byte for byte in range(256))
# Below this length looking at every pair again is cheaper in Python than keeping a heap.
_HEAP_LENGTH = 48


class Row:
    """All distinct words in one row: tokens, neighbours, weights, and where each pair stands.

    Args:
        words: the ids of each word (of bytes or of characters) and how often it occurs.
    """

    def __init__(self, words: Iterable[tuple[Sequence[int], int]]) -> None:
        self.tokens: list[int] = [_NOTHING]
        self.weights: list[int] = [0]
        for word, count in words:
            self.tokens.extend(word)
            self.tokens.append(_NOTHING)
            self.weights.extend([count] * (len(word) + 1))
        self.next = list(range(1, len(self.tokens) + 1))
        self.previous = list(range(-1, len(self.tokens) - 1))
        self.counts: Counter[tuple[int, int]] = Counter()
        self.places: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for place in range(1, len(self.tokens) - 1):
            left, right = self.tokens[place], self.tokens[place + 1]
            if left != _NOTHING and right != _NOTHING:
                self.counts[left, right] += self.weights[place]
                self.places[left, right].append(place)

    def merge(self, pair: tuple[int, int], new: int) -> tuple[set[tuple[int, int]], int]:
        """Replace `pair` by `new` wherever it stands; return the pairs that came into being, and how often it stood."""
        tokens, following, previous = self.tokens, self.next, self.previous
        weights, counts, places = self.weights, self.counts, self.places
        left, right = pair
        created: set[tuple[int, int]] = set()
        joined = 0
        # Ascending, because in a run such as `aaaa` the leftmost two are merged first. A place can be out of date
        # when an earlier merge took one of the two tokens: a token at a place only ever grows, so it is then
        # different for good and the place is passed over.
        for place in sorted(places.pop(pair)):
            second = following[place]
            if tokens[place] != left or tokens[second] != right:
                continue
            weight = weights[place]
            joined += weight
            before, after = previous[place], following[second]
            tokens[place], tokens[second] = new, _NOTHING
            following[place], previous[after] = after, place
            if tokens[before] != _NOTHING:
                counts[tokens[before], left] -= weight
                added = (tokens[before], new)
                counts[added] += weight
                places[added].append(before)
                created.add(added)
            if tokens[after] != _NOTHING:
                counts[right, tokens[after]] -= weight
                added = (new, tokens[after])
                counts[added] += weight
                places[added].append(place)
                created.add(added)
        del counts[pair]
        return created, joined


def train_merges(
    words: Mapping[bytes, int], num_merges: int, min_count: int = 2, *, on_progress: Progress | None = None
) -> list[tuple[bytes, bytes]]:
    """Learn merges with incremental pair counts and a heap; see `train_merges_reference` for what is learned.

    Args:
        words: pre-tokens and their counts.
        num_merges: how many merges to learn at most.
        min_count: stop when no pair is as frequent as this.
        on_progress: called with (merges learned, merges asked for) now and then.

    Returns:
        The merges in the order in which they were learned.
    """
    row = Row(words.items())
    content = [bytes([byte]) for byte in range(256)]
    keys = [_descending(token) for token in content]

    def entry(pair: tuple[int, int]) -> tuple[int, str, str, tuple[int, int]]:
        return (-row.counts[pair], keys[pair[0]], keys[pair[1]], pair)

    heap = [entry(pair) for pair in row.counts]
    heapq.heapify(heap)
    merges: list[tuple[bytes, bytes]] = []
    while heap and len(merges) < num_merges:
        negative_count, _, _, pair = heapq.heappop(heap)
        count = row.counts.get(pair, 0)
        if count < min_count:
            continue
        if count != -negative_count:  # it went down since it was pushed: back in line with its true count
            heapq.heappush(heap, entry(pair))
            continue
        left, right = content[pair[0]], content[pair[1]]
        merges.append((left, right))
        content.append(left + right)
        keys.append(_descending(left + right))
        for created in row.merge(pair, len(content) - 1)[0]:
            heapq.heappush(heap, entry(created))
        if on_progress is not None and len(merges) % 64 == 0:
            on_progress(len(merges), num_merges)
    if on_progress is not None:
        on_progress(len(merges), num_merges)
    return merges


def _descending(token: bytes) -> str:
    """Return a key that sorts byte strings from the greatest to the least (`ab` before `a`), for the min-heap."""
    return token.translate(_COMPLEMENT).decode("latin-1") + "\u0100"


def merge_tokens(ids: Sequence[int], merges: MergeTable) -> list[int]:
    """Merge the tokens of one pre-token by rank; see `merge_tokens_reference` for what comes out.

    Short pieces rescan the ranks kept beside the tokens; long ones (a page of `=` signs, base64) use a heap, which
    takes n log n steps instead of n squared.

    Args:
        ids: token ids, at first one for each byte.
        merges: which pairs merge, in which order, into what.
    """
    if len(ids) > _HEAP_LENGTH:
        return _merge_with_heap(ids, merges)
    tokens = list(ids)
    never = len(merges) + 1
    unknown = (never, _NOTHING)
    ranks = [merges.get(pair, unknown)[0] for pair in pairwise(tokens)]
    while ranks:
        best = min(ranks)
        if best == never:
            break
        index = ranks.index(best)
        tokens[index : index + 2] = [merges[tokens[index], tokens[index + 1]][1]]
        del ranks[index]
        if index > 0:
            ranks[index - 1] = merges.get((tokens[index - 1], tokens[index]), unknown)[0]
        if index < len(ranks):
            ranks[index] = merges.get((tokens[index], tokens[index + 1]), unknown)[0]
    return tokens


def _merge_with_heap(ids: Sequence[int], merges: MergeTable) -> list[int]:
    tokens = [*ids, _NOTHING]
    following = list(range(1, len(tokens) + 1))
    previous = list(range(-1, len(tokens) - 1))
    heap: list[tuple[int, int, int, int]] = []

    def push(place: int) -> None:
        pair = (tokens[place], tokens[following[place]])
        if pair in merges:
            heapq.heappush(heap, (merges[pair][0], place, *pair))

    for place in range(len(ids) - 1):
        push(place)
    while heap:
        _, place, left, right = heapq.heappop(heap)
        second = following[place]
        if tokens[place] != left or tokens[second] != right:  # one of the two was merged in the meantime
            continue
        after = following[second]
        tokens[place], tokens[second] = merges[left, right][1], _NOTHING
        following[place], previous[after] = after, place
        if tokens[after] != _NOTHING:
            push(place)
        if previous[place] >= 0:
            push(previous[place])
    return [token for token in tokens if token != _NOTHING]
