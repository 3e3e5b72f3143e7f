"""The compiled ways to split and to encode, as Python calls them; `patterns` and `bpe_reference` say what they return.

They run where numba works, the scanner knows the pattern, and there is enough text to be worth loading or compiling
them (`worth_it`). The ids are the same either way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from groundup.core.jit import compiled_before, numba_works
from groundup.tokenizer.bpe_reference import MergeTable
from groundup.tokenizer.patterns import PATTERNS, SplitPattern
from groundup.tokenizer.scan_rules import SCAN_RULES, ScanRules
from groundup.tokenizer.unicode_classes import character_classes

log = logging.getLogger("groundup.tokenizer")

Ids = npt.NDArray[np.int32]

# Pieces that are found before they are encoded: their ends stay in the processor's cache in between.
_CHUNK_PIECES = 1 << 15
# Lines of the cache of pieces, 64 bytes each. More of them hit more often and miss the processor's caches instead.
_CACHE_LINES = 1 << 16
# What a kernel may read beyond the end of a text.
_PADDING = bytes(8)

# Characters that the pure path takes in the time in which the kernels are loaded (about a second) or compiled (ten), at
# 3 million a second; compiling is a little cheaper here, because it serves later processes too.
_PRICE_OF_LOADING, _PRICE_OF_COMPILING = 2_000_000, 16_000_000
# Below this a call of the kernels takes longer than the pure path.
_LEAST_CHARACTERS = 256


class _Account:
    """The characters that went the slow way in this process."""

    characters = 0


_account = _Account()


def worth_it(num_characters: int) -> bool:
    """Whether to take the compiled path for the next so many characters.

    A prompt should not wait for a compiler, and a corpus should. Nobody says beforehand how much text will come, so
    the kernels are loaded once the slow way has cost as much as that: then the sum is at most twice the best choice,
    whatever comes (the rule of rent or buy).
    """
    if num_characters < _LEAST_CHARACTERS:
        return False
    if load.cache_info().currsize == 0:
        _account.characters += num_characters
        if _account.characters < (_PRICE_OF_LOADING if _compiled_before() else _PRICE_OF_COMPILING):
            return False
    return load()


def prepare(num_characters: int, on_compile: Callable[[], None]) -> None:
    """Load the kernels at once where so many characters are worth it.

    Args:
        num_characters: how many will be encoded or trained on.
        on_compile: called first where the kernels must be compiled, which takes some ten seconds.
    """
    if num_characters >= (_PRICE_OF_LOADING if _compiled_before() else _PRICE_OF_COMPILING) and numba_works():
        if not _compiled_before():
            on_compile()
        load()


@lru_cache(maxsize=1)
def load() -> bool:
    """Load or compile the kernels of encoding; False, with one line in the log, where that fails."""
    if not numba_works():
        return False
    try:
        encoder = CompiledEncoder({byte: byte for byte in range(256)}, {(97, 98): (0, 256)}, {}, _ANY_RULES)
        if encoder.encode("ab" * 20) != [256] * 20:
            raise ValueError("the compiled encoder gives wrong ids")
    except Exception as error:  # whatever a broken installation raises, the pure path still works
        log.warning(
            "the tokenizer's kernels cannot be used (%s: %s): the slower path runs", type(error).__name__, error
        )
        return False
    return True


@lru_cache(maxsize=1)
def _compiled_before() -> bool:
    folder = Path(__file__).parent
    return all(compiled_before(folder / name) for name in ("split_numba.py", "encode_numba.py"))


_ANY_RULES = SCAN_RULES[PATTERNS["llama3"].portable]


class Text:
    """Documents as the kernels read them: UTF-8 in one row, with where each ends.

    Args:
        documents: Unicode scalar values only (see `replace_surrogates`).
    """

    def __init__(self, documents: Sequence[str]) -> None:
        encoded = [document.encode("utf-8") for document in documents]
        self.ends = np.cumsum([*map(len, encoded)], dtype=np.int64)
        self.read(b"".join(encoded))

    def read(self, raw: bytes) -> None:
        """Take other bytes, which need not be UTF-8 unless they are split."""
        self.raw = raw + _PADDING
        self.data = np.frombuffer(self.raw, dtype=np.uint8)
        self.words = np.ndarray((len(self.raw) - 7,), dtype="<u8", buffer=self.raw, strides=(1,))

    def pieces(self, rules: ScanRules) -> Iterator[tuple[int, npt.NDArray[np.int64], int]]:
        """Yield where some pieces begin, where each of them ends, and the longest piece so far, all in bytes."""
        find_pieces = kernels()[0].find_pieces
        state, ends = np.zeros(3, dtype=np.int64), np.empty(_CHUNK_PIECES, dtype=np.int64)
        start = 0
        while found := find_pieces(
            self.data, self.ends, character_classes(), rules.flags, rules.max_digits, state, ends
        ):
            yield start, ends[:found], int(state[2])
            start = int(ends[found - 1])


def split_compiled(text: str, pattern: SplitPattern) -> list[str]:
    """Cut a text as `patterns.split` does, for a pattern in `SCAN_RULES`."""
    row = Text([text])
    pieces: list[str] = []
    for start, ends, _ in row.pieces(SCAN_RULES[pattern.portable]):
        for end in ends.tolist():
            pieces.append(row.raw[start:end].decode("utf-8"))
            start = end
    return pieces


def encode_compiled(text: str, pattern: SplitPattern, merges: MergeTable) -> list[int]:
    """Encode a text as `bpe_reference.encode_reference` does, for a pattern in `SCAN_RULES`."""
    byte_ids = {byte: byte for byte in range(256)}
    return CompiledEncoder(byte_ids, merges, {}, SCAN_RULES[pattern.portable]).encode(text)


class CompiledEncoder:
    """Byte-level BPE over flat tables; several threads may use one at the same time.

    Args:
        byte_ids: the id of each byte that has one.
        merges: which pairs merge, in which order, into what.
        whole: bytes and id of each token that a piece becomes as a whole, without looking at the merges.
        rules: how texts are split.
    """

    def __init__(
        self, byte_ids: Mapping[int, int], merges: MergeTable, whole: Mapping[bytes, int], rules: ScanRules
    ) -> None:
        self._rules = rules
        self._byte_ids = np.array([byte_ids.get(byte, -1) for byte in range(256)], dtype=np.int32)
        encode = kernels()[1]
        ordered = sorted((rank, *pair, new) for pair, (rank, new) in merges.items())
        self._pairs = np.full((_slots(len(ordered)), 2), -1, dtype=np.int64)
        encode.fill_pairs(np.array(ordered, dtype=np.int64).reshape(-1, 4), self._pairs)
        self._token_bytes = np.frombuffer(b"".join(whole) + _PADDING, dtype=np.uint8)
        self._vocabulary = np.full((_slots(len(whole)) if whole else 1, 4), -1, dtype=np.int64)
        ends = np.cumsum([0, *map(len, whole)])[1:]
        encode.fill_vocabulary(self._token_bytes, ends, np.array([*whole.values()], dtype=np.int64), self._vocabulary)
        # Python numbers that exist already: a list of them is made twice as fast as from numbers alone, and takes a
        # quarter of the memory.
        largest = max([*byte_ids.values(), *(new for _, new in merges.values()), *whole.values()], default=0)
        self._numbers = np.array(range(largest + 1), dtype=object)
        # A thread takes a cache and brings it back: none is used by two at a time, and there are as many as threads.
        self._idle: list[npt.NDArray[np.uint64]] = []

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text of Unicode scalar values, without special tokens."""
        ids: list[int] = []
        for part in self._parts(Text([text]), np.empty(1, dtype=np.int64)):
            ids += self._numbers[part].tolist()
        return ids

    def encode_arrays(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text as 32-bit numbers; many short texts take one call."""
        id_ends = np.zeros(len(texts), dtype=np.int64)
        parts = [part.copy() for part in self._parts(Text(texts), id_ends)]
        ids = np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
        return np.split(ids, id_ends[:-1]) if texts else []

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode(text)` for each text."""
        return [self._numbers[ids].tolist() for ids in self.encode_arrays(texts)]

    def _parts(self, text: Text, id_ends: npt.NDArray[np.int64]) -> Iterator[Ids]:
        """Yield the ids chunk by chunk, in an array that is used again, and note where each document ends."""
        encode = kernels()[1]
        try:
            cache = self._idle.pop()
        except IndexError:
            cache = _aligned_cache(_CACHE_LINES)
        state = np.zeros(2, dtype=np.int64)
        scratch, ids = np.empty(encode.scratch_size(0), dtype=np.int64), np.empty(0, dtype=np.int32)
        # Empty documents at the beginning end before any piece does.
        state[1] = int(np.searchsorted(text.ends, 0, side="right"))
        for start, ends, longest in text.pieces(self._rules):
            if len(scratch) < encode.scratch_size(longest):
                scratch = np.empty(encode.scratch_size(longest), dtype=np.int64)
            if len(ids) < ends[-1] - start:
                ids = np.empty(int(ends[-1]) - start, dtype=np.int32)
            count = encode.encode_pieces(
                text.data,
                text.words,
                start,
                ends,
                self._byte_ids,
                self._pairs,
                self._vocabulary,
                self._token_bytes,
                cache,
                cache.view(np.int32),
                text.ends,
                id_ends,
                state,
                scratch,
                ids,
            )
            yield ids[:count]
        self._idle.append(cache)


def _slots(entries: int) -> int:
    """A power of two that leaves at least half of a hash table free."""
    return 1 << max(1, (2 * entries).bit_length())


def _aligned_cache(lines: int) -> npt.NDArray[np.uint64]:
    """An empty cache whose lines do not cross those of the processor (64 bytes)."""
    room = np.zeros(8 * lines + 8, dtype=np.uint64)
    skipped = -room.ctypes.data % 64 // 8
    return room[skipped : skipped + 8 * lines].reshape(lines, 8)


@lru_cache(maxsize=1)
def kernels() -> tuple[ModuleType, ModuleType]:
    """The modules of the scanner and of the encoder, imported at first use."""
    from groundup.tokenizer import encode_numba, split_numba

    return split_numba, encode_numba
