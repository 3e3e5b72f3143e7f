"""Stand-ins for the data tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from groundup.data.document import Document
from groundup.data.shards import TokenShards, write_shards


class ByteTokenizer:
    """One id per byte, and four special tokens after them: the protocol of `groundup.tokenizer.base`, with no training."""

    def __init__(self, vocab_size: int = 260) -> None:
        self.vocab_size = vocab_size
        names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
        self.special_tokens = {name: vocab_size - 4 + place for place, name in enumerate(names)}
        self.bos_id: int | None = vocab_size - 4
        self.eos_id: int | None = vocab_size - 4
        self.pad_id: int | None = vocab_size - 1

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        del allow_special
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        del skip_special
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        return bytes([id])

    def save(self, folder: Path, *, chat_template: str | None = None, max_length: int | None = None) -> None:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return hashlib.sha256(f"bytes {self.vocab_size}".encode()).hexdigest()


def documents(texts: Sequence[str], *, group: str = "") -> list[Document]:
    """One document for each text, each its own group unless one is named."""
    return [
        Document(text=text, id=f"d{place}", group=group or f"g{place}", source="test")
        for place, text in enumerate(texts)
    ]


@pytest.fixture(scope="session")
def byte_tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture(scope="session")
def new_tokenizer() -> type[ByteTokenizer]:
    """The class, for tests that need another vocabulary size."""
    return ByteTokenizer


@pytest.fixture(scope="session")
def make_documents() -> Callable[..., list[Document]]:
    return documents


@pytest.fixture(scope="session")
def make_shards() -> Callable[..., TokenShards]:
    """`make_shards(folder, texts, shard_tokens=...)`: shards of bytes."""

    def make(folder: Path, texts: Sequence[str], **options: int) -> TokenShards:
        write_shards(documents(texts), ByteTokenizer(), folder, **options)
        return TokenShards(folder)

    return make
