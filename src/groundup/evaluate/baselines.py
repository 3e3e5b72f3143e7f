"""Honest baselines for bits per byte: what counting, and what compressors, make of the same text.

All see the same training text as the model and are measured on the same held-out documents. None is charged for where
documents end. The compressors get the whole held-out text in one piece, its documents joined without anything between
them: that is in their favour, since they learn from the held-out documents they have already seen. What each group of
documents adds to the compressed size makes a paired comparison with a model possible.
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError
from groundup.core.execution import available_cpus
from groundup.evaluate.language import DocumentBits, Ids, check_documents
from groundup.foundations.ngram import KneserNey

# xz needs about 11 times its dictionary in memory; of a longer training text the last part primes it.
MAX_PRIMING_BYTES = 48_000_000
MIN_DICTIONARY_BYTES = 1 << 20
# A compressor reads its whole input again for each piece that it is measured on: so many bytes of xz at most (about a
# minute of one core), and so many pieces.
MAX_PIECEWISE_BYTES = 64_000_000
MAX_PIECES = 24
PARALLEL_BYTES = 16_000_000


@dataclass(frozen=True)
class Pieces:
    """A text in consecutive pieces of whole documents, and what each adds to the compressed size.

    Attributes:
        of_document: int64, the piece that each document lies in.
        bits: float64, one per piece; their sum is the whole text's.
    """

    of_document: NDArray[np.int64]
    bits: NDArray[np.float64]


@dataclass(frozen=True)
class Baseline:
    """What one method needs for the held-out text.

    Attributes:
        name: such as "trigram of tokens".
        bits: of the whole text.
        num_bytes: of the whole text.
        documents: per document, where the method gives them (not for compressors).
        pieces: for a compressor, what each piece of the text added, where that could be measured.
    """

    name: str
    bits: float
    num_bytes: int
    documents: DocumentBits | None = None
    pieces: Pieces | None = None

    @property
    def bits_per_byte(self) -> float:
        return self.bits / self.num_bytes


def uniform_bytes(texts: Sequence[str]) -> Baseline:
    """Every byte equally likely: 8 bits per byte by definition."""
    sizes = [len(text.encode("utf-8")) for text in texts]
    return _per_document("uniform over bytes", np.array(sizes) * 8.0, sizes, sizes)


def byte_ngram(train: Sequence[str], texts: Sequence[str], order: int) -> Baseline:
    """An n-gram over UTF-8 bytes (see `KneserNey`)."""
    documents = [_bytes_of(text) for text in texts]
    bits = KneserNey([_bytes_of(text) for text in train], 256, order).document_bits(documents)
    sizes = [len(document) for document in documents]
    return _per_document(f"{_order_name(order)} of bytes", bits, sizes, sizes)


def token_ngram(
    train: Sequence[Ids],
    documents: Sequence[Ids],
    num_bytes: Sequence[int],
    vocab_size: int,
    order: int,
) -> Baseline:
    """An n-gram over the model's own tokens (see `KneserNey`).

    Args:
        train: the training documents' ids.
        documents: the held-out documents' ids.
        num_bytes: UTF-8 bytes of each held-out document.
        vocab_size: of the tokenizer.
        order: 1 for unigram, 3 for trigram.
    """
    lengths = check_documents(documents, num_bytes)
    bits = KneserNey(train, vocab_size, order).document_bits(documents)
    return _per_document(f"{_order_name(order)} of tokens", bits, num_bytes, lengths)


def gzip_text(texts: Sequence[str], groups: Sequence[str] | None = None) -> Baseline:
    """gzip at its highest level, on the joined held-out text.

    Args:
        groups: the documents' labels; with them the result has `pieces`.
    """
    return _compressed("gzip", lambda data: len(gzip.compress(data, compresslevel=9, mtime=0)), b"", texts, groups)


def xz_text(texts: Sequence[str], groups: Sequence[str] | None = None) -> Baseline:
    """xz at preset 9e, on the joined held-out text; `groups` as in `gzip_text`."""
    return _compressed("xz", xz_size, b"", texts, groups)


def xz_primed(train: Sequence[str], texts: Sequence[str], groups: Sequence[str] | None = None) -> Baseline:
    """xz at preset 9e that has read the training text: size(train + held-out) - size(train).

    The dictionary holds both texts whole, so any place of the training text can be copied from.

    Args:
        groups: as in `gzip_text`; of a long training text there are fewer pieces, or none (see MAX_PIECEWISE_BYTES).
    """
    prefix = _joined(train)[-MAX_PRIMING_BYTES:]
    # The same dictionary for all, so that the difference is the held-out text's alone.
    dictionary = _dictionary_size(len(prefix) + len(_joined(texts)))
    name = "xz primed with the training text"
    return _compressed(name, lambda data: xz_size(data, dictionary), prefix, texts, groups)


def consecutive_pieces(groups: Sequence[str], limit: int) -> NDArray[np.int64]:
    """Number the runs of documents with the same label; neighbouring runs are joined until at most `limit` are left."""
    runs = np.zeros(len(groups), dtype=np.int64)
    for index in range(1, len(groups)):
        runs[index] = runs[index - 1] + (groups[index] != groups[index - 1])
    count = int(runs[-1]) + 1 if len(runs) else 0
    return runs if count <= limit else runs * limit // count


def _compressed(
    name: str, size_of: Callable[[bytes], int], prefix: bytes, texts: Sequence[str], groups: Sequence[str] | None
) -> Baseline:
    """What `size_of` needs for the joined texts after `prefix`, and what each piece of them adds."""
    documents = [text.encode("utf-8") for text in texts]
    joined = b"".join(documents)
    if not joined:
        raise DataError("the held-out text is empty: there is nothing to compress")
    limit = 0 if groups is None else min(MAX_PIECES, MAX_PIECEWISE_BYTES // len(prefix + joined))
    of_document = consecutive_pieces(groups or [], limit) if limit > 1 else np.zeros(len(texts), dtype=np.int64)
    lengths = np.bincount(of_document, weights=[len(document) for document in documents]).cumsum().astype(int)
    ends = [0, *lengths] if prefix else lengths
    # Both compressors give up the interpreter's lock while they work.
    # xz holds some 11 times its input, so a long text is not packed twice at a time.
    workers = min(available_cpus(), max(1, PARALLEL_BYTES // len(prefix + joined)))
    with ThreadPoolExecutor(workers) as pool:
        sizes = list(pool.map(lambda end: size_of(prefix + joined[:end]), ends))
    bits = 8 * np.diff(np.array(sizes if prefix else [0, *sizes], dtype=np.float64))
    return Baseline(name, float(bits.sum()), len(joined), pieces=Pieces(of_document, bits) if len(bits) > 1 else None)


def xz_size(data: bytes, dict_size: int | None = None) -> int:
    """Bytes of `data` after xz preset 9e with a dictionary of `dict_size` bytes (by default one that holds it all)."""
    options: dict[str, Any] = {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": _dictionary_size(len(data)) if dict_size is None else dict_size,
    }
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=[options]))


def all_baselines(
    train: Sequence[str],
    texts: Sequence[str],
    encode_batch: Callable[[list[str]], list[list[int]]],
    vocab_size: int,
    *,
    groups: Sequence[str] | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[Baseline]:
    """Measure every baseline on the held-out `texts`, weakest kind first.

    Args:
        train: the training documents' texts.
        texts: the held-out documents' texts.
        encode_batch: the tokenizer's.
        vocab_size: the tokenizer's.
        groups: the held-out documents' labels, for the compressors' `pieces`.
        on_progress: called with the number of finished baselines, their total, and the name of the newest.
    """
    if not texts or not any(texts) or not any(train):
        raise DataError(
            f"baselines need text to learn from and text to measure: got {sum(map(len, train))} characters of "
            f"training text and {sum(map(len, texts))} of held-out text"
        )
    sizes = [len(text.encode("utf-8")) for text in texts]
    train_ids, ids = encode_batch(list(train)), encode_batch(list(texts))
    methods: list[Callable[[], Baseline]] = [
        lambda: uniform_bytes(texts),
        lambda: byte_ngram(train, texts, 1),
        lambda: token_ngram(train_ids, ids, sizes, vocab_size, 1),
        lambda: byte_ngram(train, texts, 3),
        lambda: token_ngram(train_ids, ids, sizes, vocab_size, 3),
        lambda: gzip_text(texts, groups),
        lambda: xz_text(texts, groups),
        lambda: xz_primed(train, texts, groups),
    ]
    results = []
    for method in methods:
        results.append(method())
        if on_progress is not None:
            on_progress(len(results), len(methods), results[-1].name)
    return results


def _per_document(name: str, bits: Any, num_bytes: Sequence[int], num_tokens: Sequence[int]) -> Baseline:
    documents = DocumentBits(
        np.asarray(bits, dtype=np.float64),
        np.asarray(num_bytes, dtype=np.int64),
        np.asarray(num_tokens, dtype=np.int64),
    )
    return Baseline(name, float(documents.bits.sum()), int(documents.num_bytes.sum()), documents)


def _order_name(order: int) -> str:
    return {1: "unigram", 2: "bigram", 3: "trigram"}.get(order, f"{order}-gram")


def _bytes_of(text: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def _joined(texts: Sequence[str]) -> bytes:
    return "".join(texts).encode("utf-8")


def _dictionary_size(num_bytes: int) -> int:
    return max(MIN_DICTIONARY_BYTES, num_bytes)
