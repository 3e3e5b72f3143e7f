"""Byte-pair encoding as the papers tell it: the readable versions that define what the fast ones must return.

Sennrich, Haddow and Birch 2016 (arXiv:1508.07909) for the merges, Radford et al. 2019 for doing it over bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from groundup.tokenizer.base import replace_surrogates
from groundup.tokenizer.patterns import SplitPattern, split

#: (left id, right id) -> (rank, id of the merged token); a lower rank is merged first.
MergeTable = Mapping[tuple[int, int], tuple[int, int]]


def count_words(texts: Iterable[str], pattern: SplitPattern) -> dict[bytes, int]:
    """Count the pre-tokens of some texts.

    Returns:
        UTF-8 bytes of each distinct pre-token and how often it occurs, in order of first appearance.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split(replace_surrogates(text), pattern))
    return {word.encode("utf-8"): count for word, count in counts.items()}


def train_merges_reference(
    words: Mapping[bytes, int], num_merges: int, min_count: int = 2
) -> list[tuple[bytes, bytes]]:
    """Learn merges by counting all pairs anew for each one.

    Repeat: count the adjacent pairs (overlapping ones too, `aaa` holds `aa` twice), take the most frequent, among
    equals the lexicographically greater pair of byte strings, and join it everywhere from left to right.

    Args:
        words: pre-tokens and their counts.
        num_merges: how many merges to learn at most.
        min_count: stop when no pair is as frequent as this.

    Returns:
        The merges in the order in which they were learned.
    """
    pieces = {word: [bytes([byte]) for byte in word] for word in words}
    merges: list[tuple[bytes, bytes]] = []
    while len(merges) < num_merges:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for word, tokens in pieces.items():
            for pair in pairwise(tokens):
                counts[pair] += words[word]
        best = max(counts, key=lambda pair: (counts[pair], pair), default=None)
        if best is None or counts[best] < min_count:
            break
        merges.append(best)
        for word, tokens in pieces.items():
            pieces[word] = _join(tokens, best)
    return merges


def merge_tokens_reference(ids: Sequence[int], merges: MergeTable) -> list[int]:
    """Merge the tokens of one pre-token: again and again the adjacent pair of lowest rank, the leftmost first.

    Args:
        ids: token ids, at first one for each byte.
        merges: which pairs merge, in which order, into what.

    Returns:
        The ids when no adjacent pair can be merged any more.
    """
    tokens = list(ids)
    while True:
        candidates = [(merges[pair][0], index) for index, pair in enumerate(pairwise(tokens)) if pair in merges]
        if not candidates:
            return tokens
        _, index = min(candidates)
        tokens[index : index + 2] = [merges[tokens[index], tokens[index + 1]][1]]


def encode_reference(text: str, pattern: SplitPattern, merges: MergeTable) -> list[int]:
    """Cut a text into pre-tokens and merge each on its own, where the id of a byte is the byte.

    Args:
        text: Unicode scalar values only.
        pattern: where to cut.
        merges: which pairs merge, in which order, into what.

    Returns:
        The ids.
    """
    return [id for piece in split(text, pattern) for id in merge_tokens_reference(list(piece.encode()), merges)]


def _join(tokens: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    joined: list[bytes] = []
    index = 0
    while index < len(tokens):
        if tuple(tokens[index : index + 2]) == pair:
            joined.append(pair[0] + pair[1])
            index += 2
        else:
            joined.append(tokens[index])
            index += 1
    return joined
