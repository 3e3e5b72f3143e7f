"""Token shards: the tokens of a split in memory-mapped files, with an index that holds the hash of each."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from groundup.core.errors import DataError
from groundup.core.files import atomic_write, read_json, sha256_file, write_bytes, write_json
from groundup.data.document import Document

if TYPE_CHECKING:
    from groundup.tokenizer.base import Tokenizer

log = logging.getLogger("groundup.data.shards")

INDEX = "index.json"
DOCUMENTS = "documents.bin"
FORMAT_VERSION = 1
#: Tokens of one file: 512 MB of 16-bit ids, so that a damaged file costs little and every file system can hold it.
SHARD_TOKENS = 1 << 28
#: Characters handed to `encode_batch` at once: enough to amortise the call, small beside the memory.
BATCH_CHARACTERS = 1 << 20

#: The ids of a document (with eos), and the bytes of its text.
Encoded = tuple[npt.NDArray[Any], int]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return little-endian uint16 where every id fits (up to 65,536 ids), uint32 otherwise."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_shards(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Tokenise documents and write `tokens-*.bin`, `documents.bin` and, last, `index.json`.

    Every document ends with the tokenizer's eos id. A document never crosses from one file into the next.

    Args:
        documents: in the order they shall have in the stream.
        tokenizer: gives the ids; its fingerprint goes into the index.
        folder: made when missing; shards in it are replaced.
        shard_tokens: a new file begins with the first document after so many tokens.
        on_progress: called with the number of text bytes tokenised since the last call.

    Raises:
        DataError: no eos id, no documents, an id outside the vocabulary, or a full disk (naming the file).
    """
    write_token_shards(_encode(documents, tokenizer, on_progress), tokenizer, folder, shard_tokens=shard_tokens)


def write_token_shards(
    sequences: Iterable[tuple[str, list[int], int]],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
) -> None:
    """Write sequences that are token ids already (rendered conversations) as `write_shards` writes documents.

    Args:
        sequences: for each its name, its ids without the eos at the end, and the UTF-8 bytes of its text.

    Raises:
        DataError: no eos id, no sequences, an id outside the vocabulary, or a full disk (naming the file).
    """
    if tokenizer.eos_id is None:
        raise DataError("the tokenizer has no eos id, which separates documents in the shards: add <|endoftext|>")
    if shard_tokens < 1:
        raise DataError(f"shard_tokens ({shard_tokens}) must be at least 1")
    # Without its index a folder is not readable, so a half-written one can never be mistaken for a finished one.
    (folder / INDEX).unlink(missing_ok=True)
    # The second pattern is what a killed process leaves.
    for old in [*folder.glob("tokens-*.bin"), *folder.glob(".tokens-*.part"), folder / DOCUMENTS]:
        old.unlink(missing_ok=True)
    encoded = _as_arrays(sequences, tokenizer)
    shards: list[dict[str, Any]] = []
    spans: list[tuple[int, int]] = []
    pending = next(encoded, None)
    if pending is None:
        raise DataError(f"no documents to write into {folder}: is this split of the corpus empty?")
    offset = 0
    while pending is not None:
        path = folder / f"tokens-{len(shards):05d}.bin"
        count, digest, pending = _write_file(path, pending, encoded, shard_tokens, offset, spans)
        shards.append({"file": path.name, "tokens": count, "sha256": digest})
        offset += count
    table = np.array(spans, dtype="<i8").tobytes()
    write_bytes(folder / DOCUMENTS, table)
    index = {
        "format": "groundup-shards",
        "version": FORMAT_VERSION,
        "dtype": token_dtype(tokenizer.vocab_size).str,
        "num_tokens": offset,
        "num_documents": len(spans),
        "text_bytes": sum(num_bytes for _, num_bytes in spans),
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "tokenizer": tokenizer.fingerprint(),
        "shards": shards,
        "documents": {"file": DOCUMENTS, "sha256": hashlib.sha256(table).hexdigest()},
    }
    write_json(folder / INDEX, index)


def _write_file(
    path: Path,
    pending: Encoded | None,
    encoded: Iterator[Encoded],
    shard_tokens: int,
    offset: int,
    spans: list[tuple[int, int]],
) -> tuple[int, str, Encoded | None]:
    """Write documents into one file until it holds `shard_tokens`; return its tokens, hash and the next document."""
    digest, count = hashlib.sha256(), 0
    with atomic_write(path) as file:
        while pending is not None and (count == 0 or count < shard_tokens):
            ids, num_bytes = pending
            data = ids.tobytes()
            file.write(data)
            digest.update(data)
            count += len(ids)
            spans.append((offset + count, num_bytes))
            pending = next(encoded, None)
    return count, digest.hexdigest(), pending


def _encode(
    documents: Iterable[Document], tokenizer: Tokenizer, on_progress: Callable[[int], None] | None
) -> Iterator[tuple[str, list[int], int]]:
    """Yield name, ids and number of text bytes of each document."""
    for batch in _batches(documents):
        sizes = [document.num_bytes for document in batch]
        encoded = tokenizer.encode_batch([document.text for document in batch])
        for document, num_bytes, ids in zip(batch, sizes, encoded, strict=True):
            yield document.id, ids, num_bytes
        if on_progress is not None:
            on_progress(sum(sizes))


def _as_arrays(sequences: Iterable[tuple[str, list[int], int]], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Check the ids of each sequence and yield them with the eos as an array of the file's type."""
    dtype = token_dtype(tokenizer.vocab_size)
    for name, ids, num_bytes in sequences:
        # Checked in 64 bits: a cast to 16 bits would wrap an id that is too large in silence.
        wide = np.array([*ids, tokenizer.eos_id], dtype=np.int64)
        if wide.min() < 0 or wide.max() >= tokenizer.vocab_size:
            wrong = int(wide.min()) if wide.min() < 0 else int(wide.max())
            raise DataError(
                f"the tokenizer gave id {wrong} for document {name!r}, outside its vocabulary of {tokenizer.vocab_size}"
            )
        yield wide.astype(dtype), num_bytes


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class TokenShards:
    """The token stream of one split, mapped into memory and never written to.

    Opening checks that every file is there with its full length; `verify` also compares the hashes. The object
    can be sent to another process (it is opened again there).

    Attributes:
        num_tokens: length of the stream, eos ids included.
        num_documents: how many documents it holds.
        vocab_size, eos_id: of the tokenizer that wrote it.
        tokenizer_fingerprint: its fingerprint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / INDEX
        if not path.is_file():
            raise DataError(f"{folder} holds no finished shards ({INDEX} is missing): tokenize the corpus again")
        index = read_json(path)
        if not isinstance(index, dict) or index.get("format") != "groundup-shards":
            raise DataError(f"{path} is not the index of token shards: tokenize the corpus again")
        if index.get("version") != FORMAT_VERSION:
            raise DataError(f"{path} has version {index.get('version')!r}, this program reads version {FORMAT_VERSION}")
        self.index: dict[str, Any] = index
        self.dtype = np.dtype(index["dtype"])
        self.num_tokens = int(index["num_tokens"])
        self.num_documents = int(index["num_documents"])
        self.vocab_size = int(index["vocab_size"])
        self.eos_id = int(index["eos_id"])
        self.tokenizer_fingerprint = str(index["tokenizer"])
        self.starts = np.cumsum([0, *(shard["tokens"] for shard in index["shards"])])
        self._maps: list[npt.NDArray[Any]] | None = None
        self._check_sizes()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": None}

    def _expected(self) -> Iterator[tuple[Path, int, str]]:
        for shard in self.index["shards"]:
            yield self.folder / shard["file"], int(shard["tokens"]) * self.dtype.itemsize, shard["sha256"]
        documents = self.index["documents"]
        yield self.folder / documents["file"], self.num_documents * 16, documents["sha256"]

    def _check_sizes(self) -> None:
        for path, size, _ in self._expected():
            if not path.is_file():
                raise DataError(f"{path} is missing: tokenize the corpus again")
            if path.stat().st_size != size:
                raise DataError(
                    f"{path} is damaged: it has {path.stat().st_size:,} bytes, its index says {size:,}. "
                    "Tokenize the corpus again"
                )

    def verify(self) -> None:
        """Read every file and compare it with the hash in the index.

        Raises:
            DataError: naming the file that is missing, truncated or has a flipped bit.
        """
        self._check_sizes()
        for path, _, digest in self._expected():
            found = sha256_file(path)
            if found != digest:
                raise DataError(
                    f"{path} is damaged: its sha256 is {found}, its index says {digest}. Tokenize the corpus again"
                )

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise DataError when the shards were written with another tokenizer."""
        if tokenizer.fingerprint() != self.tokenizer_fingerprint:
            raise DataError(
                f"{self.folder} was written with another tokenizer (fingerprint {self.tokenizer_fingerprint[:12]}, "
                f"this one has {tokenizer.fingerprint()[:12]}): tokenize the corpus again with this one"
            )

    @property
    def maps(self) -> list[npt.NDArray[Any]]:
        """One read-only array per file."""
        if self._maps is None:
            self._maps = [
                np.memmap(self.folder / shard["file"], dtype=self.dtype, mode="r") for shard in self.index["shards"]
            ]
        return self._maps

    @property
    def tokens(self) -> npt.NDArray[Any]:
        """The whole stream as one read-only array: mapped for one file, copied into memory for several."""
        if len(self.maps) == 1:
            return self.maps[0]
        whole = np.concatenate(self.maps)
        whole.flags.writeable = False
        return whole

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the tokens `start` to `stop` (exclusive), across files where needed."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise DataError(f"tokens {start} to {stop} are not in the stream of {self.num_tokens:,} tokens")
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        if first < len(self.maps) and stop <= self.starts[first + 1]:
            base = self.starts[first]
            return self.maps[first][start - base : stop - base]
        parts = []
        while start < stop:
            end = min(stop, int(self.starts[first + 1]))
            parts.append(self.maps[first][start - self.starts[first] : end - self.starts[first]])
            start, first = end, first + 1
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def _table(self) -> npt.NDArray[np.int64]:
        return np.fromfile(self.folder / DOCUMENTS, dtype="<i8").reshape(-1, 2)

    @property
    def document_spans(self) -> list[tuple[int, int]]:
        """Start and end of each document in the stream; its last token is eos."""
        ends = [0, *self._table()[:, 0].tolist()]
        return list(pairwise(ends))

    @property
    def document_bytes(self) -> list[int]:
        """UTF-8 bytes of each document's text (what bits per byte divides by)."""
        return [int(count) for count in self._table()[:, 1]]
