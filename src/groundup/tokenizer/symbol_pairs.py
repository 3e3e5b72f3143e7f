"""Learning to join pairs of characters: SentencePiece BPE, and WordPiece, whose pieces inside a word begin with `##`.

Sennrich, Haddow and Birch 2016 (arXiv:1508.07909) for the pair that occurs most often; Schuster and Nakajima 2012 for
the pair that occurs most often for how often its parts do. Byte-level BPE has a home of its own in `train`.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from groundup.core.progress import Progress
from groundup.tokenizer.bpe_fast import Row

#: What decides which pair is joined next: how often it occurs, or that over the product of its parts' counts.
PairScore = Literal["count", "ratio"]
Pair = tuple[int, int]


@dataclass(frozen=True)
class LearnedPairs:
    """What was learned.

    Attributes:
        tokens: the characters by code point, then those inside words, then what merges made, in their order.
        merges: pairs of tokens in the order in which they were joined.
    """

    tokens: list[str]
    merges: list[tuple[str, str]]


def learn_pairs_reference(
    words: Mapping[str, int],
    num_tokens: int,
    inside: str = "",
    score: PairScore = "count",
    min_count: int = 2,
    reserved: Collection[str] = (),
) -> LearnedPairs:
    """Learn tokens by counting everything anew for each one.

    Repeat: count the adjacent pairs (`aaa` holds `aa` twice), take the one of the highest score, among equals the one
    whose left token came first, then whose right token did, and join it everywhere from left to right. A token that
    two different pairs make is one token with two merges. These are the rules of the trainers of `tokenizers`.

    Args:
        words: pre-tokens and their counts.
        num_tokens: how many tokens there shall be, characters included.
        inside: what a token inside a word begins with (WordPiece: `##`).
        score: `count`: how often the pair occurs; `ratio`: count(ab) / (count(a) count(b)).
        min_count: a pair that occurs less often is not joined.
        reserved: what no pair may become, such as the names of special tokens.

    Returns:
        The tokens and the merges; fewer where no pair is left.
    """
    tokens = _alphabet(words, inside)
    ids = {token: id for id, token in enumerate(tokens)}
    pieces = {word: _symbols(word, ids, inside) for word in words}
    merges: list[tuple[str, str]] = []
    while len(tokens) < num_tokens:
        pairs: Counter[Pair] = Counter()
        singles: Counter[int] = Counter()
        for word, piece in pieces.items():
            for pair in pairwise(piece):
                pairs[pair] += words[word]
            for id in piece:
                singles[id] += words[word]
        candidates = [
            (-_value(score, count, singles, pair), pair)
            for pair, count in pairs.items()
            if count >= min_count and _joined(pair, tokens, inside) not in reserved
        ]
        if not candidates:
            break
        _, (left, right) = min(candidates)
        merges.append((tokens[left], tokens[right]))
        new = _id_of(_joined((left, right), tokens, inside), tokens, ids)
        for word, piece in pieces.items():
            pieces[word] = _join(piece, (left, right), new)
    return LearnedPairs(tokens, merges)


def learn_pairs(
    words: Mapping[str, int],
    num_tokens: int,
    inside: str = "",
    score: PairScore = "count",
    min_count: int = 2,
    reserved: Collection[str] = (),
    *,
    on_progress: Progress | None = None,
) -> LearnedPairs:
    """Learn tokens with counts that are kept up to date; see `learn_pairs_reference` for what is learned.

    A count only falls once its pair is there, so with `count` an entry of the heap is at worst too high and goes back
    with its true value. A ratio rises when its parts become rarer: then all pairs of the two tokens enter anew.

    Args:
        words, num_tokens, inside, score, min_count, reserved: as there.
        on_progress: called with (tokens, tokens asked for) now and then.
    """
    tokens = _alphabet(words, inside)
    ids = {token: id for id, token in enumerate(tokens)}
    symbols = [(_symbols(word, ids, inside), count) for word, count in words.items()]
    row = Row(symbols)
    singles: Counter[int] = Counter()
    pairs_of: defaultdict[int, set[Pair]] = defaultdict(set)
    if score == "ratio":
        for piece, count in symbols:
            for id in piece:
                singles[id] += count
        for pair in row.counts:
            pairs_of[pair[0]].add(pair)
            pairs_of[pair[1]].add(pair)
    heap = [(-_value(score, count, singles, pair), pair) for pair, count in row.counts.items() if count >= min_count]
    heapq.heapify(heap)
    merges: list[tuple[str, str]] = []
    while heap and len(tokens) < num_tokens:
        negative, pair = heapq.heappop(heap)
        count = row.counts.get(pair, 0)
        name = _joined(pair, tokens, inside)
        if count < min_count or name in reserved:
            continue
        value = _value(score, count, singles, pair)
        if value != -negative:
            heapq.heappush(heap, (-value, pair))
            continue
        left, right = pair
        merges.append((tokens[left], tokens[right]))
        new = _id_of(name, tokens, ids)
        changed, joined = row.merge(pair, new)
        if score == "ratio":
            singles.update({new: joined})
            for id in pair:
                singles[id] -= joined
            for made in changed:
                pairs_of[made[0]].add(made)
                pairs_of[made[1]].add(made)
            changed = _alive(row, pairs_of, {left, right, new}, min_count)
        for made in changed:
            heapq.heappush(heap, (-_value(score, row.counts[made], singles, made), made))
        if on_progress is not None and len(merges) % 64 == 0:
            on_progress(len(tokens), num_tokens)
    if on_progress is not None:
        on_progress(len(tokens), num_tokens)
    return LearnedPairs(tokens, merges)


def _alive(row: Row, pairs_of: dict[int, set[Pair]], ids: Iterable[int], min_count: int) -> set[Pair]:
    """The pairs of some tokens that still occur often enough; the others are forgotten."""
    found: set[Pair] = set()
    for id in ids:
        pairs_of[id] = {pair for pair in pairs_of[id] if row.counts.get(pair, 0) > 0}
        found.update(pair for pair in pairs_of[id] if row.counts[pair] >= min_count)
    return found


def _value(score: PairScore, count: int, singles: Mapping[int, int], pair: Pair) -> float:
    return count if score == "count" else count / (singles[pair[0]] * singles[pair[1]])


def _alphabet(words: Iterable[str], inside: str) -> list[str]:
    """All characters by code point and, where parts inside a word are written differently, those that stand there."""
    tokens = sorted(set().union(*words))
    return tokens + sorted({inside + character for word in words for character in word[1:]}) if inside else tokens


def _symbols(word: str, ids: Mapping[str, int], inside: str) -> list[int]:
    return [ids[inside + character if place else character] for place, character in enumerate(word)]


def _joined(pair: Pair, tokens: Sequence[str], inside: str) -> str:
    return tokens[pair[0]] + tokens[pair[1]].removeprefix(inside)


def _id_of(token: str, tokens: list[str], ids: dict[str, int]) -> int:
    if token not in ids:
        ids[token] = len(tokens)
        tokens.append(token)
    return ids[token]


def _join(piece: list[int], pair: Pair, new: int) -> list[int]:
    joined: list[int] = []
    place = 0
    while place < len(piece):
        is_pair = place + 1 < len(piece) and (piece[place], piece[place + 1]) == pair
        joined.append(new if is_pair else piece[place])
        place += 1 + is_pair
    return joined
