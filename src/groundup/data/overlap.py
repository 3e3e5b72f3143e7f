"""How much of a held-out split stands in the training split, token for token, and how often each token occurs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from groundup.data.shards import TokenShards

#: A document is taken for a copy when so much of it stands in the training split.
COPIED = 0.8
#: Text bytes of a passage that is looked up: the 13 words of GPT-3's filter (Brown et al. 2020, arXiv:2005.14165,
#: appendix C) are about as long.
PASSAGE_BYTES = 75
#: Training tokens hashed at once.
PIECE_TOKENS = 1 << 20
#: Base of the rolling hash: odd, so that it has an inverse modulo 2^64.
_BASE = 0x9E3779B97F4A7C15

_Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Overlap:
    """What two splits share.

    Attributes:
        passage_tokens: length of the passages that were compared.
        tokens: held-out tokens that were looked at.
        shared_tokens: those inside of a passage that stands in the training split.
        documents: held-out documents long enough to hold a passage.
        copied: numbers of those of which `COPIED` or more is shared.
        copied_tokens: tokens in them.
    """

    passage_tokens: int
    tokens: int
    shared_tokens: int
    documents: int
    copied: tuple[int, ...]
    copied_tokens: int

    @property
    def shared_share(self) -> float:
        return self.shared_tokens / self.tokens if self.tokens else 0.0

    @property
    def copied_share(self) -> float:
        """Share of the held-out tokens that lie in copied documents."""
        return self.copied_tokens / self.tokens if self.tokens else 0.0


def find_overlap(train: TokenShards, held_out: TokenShards, *, most_tokens: int = 1 << 19) -> Overlap:
    """Look every passage of the held-out split up in the training split.

    Passages of `PASSAGE_BYTES` at every place inside of a document are compared by a 64-bit rolling hash (Karp and
    Rabin 1987), so the work is one pass over the training tokens and the memory that of the held-out ones.

    Args:
        train, held_out: written with one tokenizer.
        most_tokens: read so many held-out tokens, and no more.
    """
    count = passage_tokens(held_out)
    spans = [span for span in held_out.document_spans if span[1] <= most_tokens] or held_out.document_spans[:1]
    end = spans[-1][1]
    tokens = held_out.read(0, end)
    hashes, starts = _inside_documents(tokens, spans, count)
    wanted = np.unique(hashes)
    seen = np.zeros(len(wanted), dtype=bool)
    for piece in _pieces(train, count):
        places = np.searchsorted(wanted, piece)
        places[places == len(wanted)] = 0
        seen[places[wanted[places] == piece]] = True
    shared = starts[seen[np.searchsorted(wanted, hashes)]]
    edges = np.zeros(end + 1, dtype=np.int64)
    np.add.at(edges, shared, 1)
    np.add.at(edges, shared + count, -1)
    covered = np.concatenate([[0], np.cumsum(np.cumsum(edges[:-1]) > 0)])
    # The eos at the end of a document belongs to none of its passages.
    sizes = [(number, begin, stop - 1) for number, (begin, stop) in enumerate(spans) if stop - 1 - begin >= count]
    copied = [entry for entry in sizes if covered[entry[2]] - covered[entry[1]] >= COPIED * (entry[2] - entry[1])]
    return Overlap(
        passage_tokens=count,
        tokens=end,
        shared_tokens=int(covered[-1]),
        documents=len(sizes),
        copied=tuple(number for number, _, _ in copied),
        copied_tokens=sum(stop - begin for _, begin, stop in copied),
    )


def passage_tokens(shards: TokenShards) -> int:
    """Tokens of about `PASSAGE_BYTES` of text, at least 8."""
    return max(8, math.ceil(PASSAGE_BYTES * shards.num_tokens / max(1, int(shards.index["text_bytes"]))))


def unigram_entropy(counts: npt.NDArray[np.int64]) -> float:
    """Nats per token of a model that knows how often each token occurs and nothing else.

    Args:
        counts: occurrences of each id.
    """
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def count_tokens(shards: TokenShards, *, most_tokens: int = 1 << 22) -> npt.NDArray[np.int64]:
    """Occurrences of each id, in evenly spread pieces of the stream where it is longer than `most_tokens`."""
    size = 1 << 16
    pieces = -(-shards.num_tokens // size)
    every = max(1, -(-pieces * size // most_tokens))
    counts = np.zeros(shards.vocab_size, dtype=np.int64)
    for piece in range(0, pieces, every):
        ids = shards.read(piece * size, min((piece + 1) * size, shards.num_tokens))
        found = np.bincount(ids, minlength=shards.vocab_size)
        if len(found) > len(counts):  # damaged shards: the caller reports ids out of range
            counts = np.concatenate([counts, np.zeros(len(found) - len(counts), dtype=np.int64)])
        counts += found
    return counts


def _pieces(shards: TokenShards, count: int) -> Iterator[_Hashes]:
    """The hashes of all passages of a stream, a piece at a time."""
    for start in range(0, max(1, shards.num_tokens - count + 1), PIECE_TOKENS):
        yield _rolling(shards.read(start, min(start + PIECE_TOKENS + count - 1, shards.num_tokens)), count)


def _inside_documents(
    tokens: npt.NDArray[np.integer], spans: list[tuple[int, int]], count: int
) -> tuple[_Hashes, npt.NDArray[np.int64]]:
    """Hash and start of each passage that lies inside of one document, its eos left out."""
    parts = [np.arange(begin, stop - count, dtype=np.int64) for begin, stop in spans if stop - count > begin]
    starts = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    hashes = _rolling(tokens, count)
    return hashes[starts], starts


def _rolling(tokens: npt.NDArray[np.integer], count: int) -> _Hashes:
    """The hash of each run of `count` tokens: its polynomial in `_BASE`, modulo 2^64.

    With prefix sums P of t_k B^k, the run at i has (P_{i+count} - P_i) B^{-i}, the same number wherever it stands.
    """
    if len(tokens) < count:
        return np.empty(0, dtype=np.uint64)
    size = len(tokens)
    with np.errstate(over="ignore"):
        powers = _powers(_BASE, size)
        back = _powers(pow(_BASE, -1, 1 << 64), size - count + 1)
        sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(_scrambled(tokens) * powers)])
        return np.asarray((sums[count:] - sums[:-count]) * back)


def _powers(base: int, count: int) -> _Hashes:
    """1, base, base^2, ... modulo 2^64."""
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _scrambled(tokens: npt.NDArray[np.integer]) -> _Hashes:
    """Ids spread over 64 bits (the finaliser of splitmix64, Steele et al. 2014), so that small ones do not cancel."""
    with np.errstate(over="ignore"):
        x = tokens.astype(np.uint64) + np.uint64(_BASE)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))
