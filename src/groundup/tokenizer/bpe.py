"""Byte-level BPE: every string has ids, and its ids give the string back."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import regex

from groundup.core.errors import TokenizerError
from groundup.core.files import sha256_json
from groundup.tokenizer import hf_files
from groundup.tokenizer.base import (
    END_OF_TEXT,
    PAD,
    SPECIAL_TOKENS,
    check_special_tokens,
    replace_surrogates,
)
from groundup.tokenizer.bpe_fast import merge_tokens
from groundup.tokenizer.patterns import SplitPattern, split, split_pattern

# Words follow Zipf's law: on 2 MB of English 99 % of the pre-tokens are found here after the first few hundred KB.
_CACHE_ENTRIES = 1 << 16
_CACHED_LENGTH = 64


class ByteBPE:
    """A byte-level byte-pair tokenizer (a `Tokenizer`).

    Text is cut by the split pattern, each piece starts as its UTF-8 bytes, and pairs of tokens merge by rank.

    Args:
        vocab: bytes of each ordinary token and its id; all 256 single bytes must be there.
        merges: pairs of tokens in the order of their rank.
        pattern: `gpt2`, `gpt4`, `llama3`, or a regular expression.
        special_tokens: text and id of each special token.
        added_tokens: text and id of tokens that are always matched whole in a text though they are not special
            (Qwen's `<think>`); ours have none.
        bos, eos, pad: which special tokens play these parts.
        ignores_merges: a piece that is a token as a whole takes its id without looking at the merges (Llama 3).
        normalizes: bring texts to Unicode's composed form NFC first (Qwen); then decoding gives that form back.
        post_processor: kept for `tokenizer.json`; it says what `transformers` adds around a text and plays no part
            in `encode`.

    Raises:
        TokenizerError: when a single byte has no id, two tokens share one, a merge names a token that is not
            there, or a special token equals an ordinary one.
    """

    def __init__(
        self,
        vocab: Mapping[bytes, int],
        merges: Sequence[tuple[bytes, bytes]],
        *,
        pattern: str = "llama3",
        special_tokens: Mapping[str, int] | None = None,
        added_tokens: Mapping[str, int] | None = None,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        ignores_merges: bool = False,
        normalizes: bool = False,
        post_processor: dict[str, Any] | None = None,
    ) -> None:
        self.pattern: SplitPattern = split_pattern(pattern)
        self.vocab = dict(vocab)
        self.merges = [(left, right) for left, right in merges]
        self.special_tokens = dict(special_tokens or {})
        self.added_tokens = dict(added_tokens or {})
        self.ignores_merges = ignores_merges
        self.normalizes = normalizes
        self.post_processor = post_processor
        check_special_tokens([*self.special_tokens, *self.added_tokens])
        self._token_bytes = self._bytes_by_id()
        self.vocab_size = max(self._token_bytes) + 1
        self.bos_id, self.eos_id, self.pad_id = (self._role(role, name) for role, name in _roles(bos, eos, pad))
        self.bos, self.eos, self.pad = bos, eos, pad
        missing = [byte for byte in range(256) if bytes([byte]) not in self.vocab]
        if missing:
            raise TokenizerError(
                f"{len(missing)} of the 256 bytes have no token (the first is 0x{missing[0]:02x}): "
                "a byte-level tokenizer needs all of them, or some texts have no ids"
            )
        self._byte_ids = [self.vocab[bytes([byte])] for byte in range(256)]
        self._merge_table = self._table_of_merges()
        self._special_ids = frozenset(self.special_tokens.values())
        self._special_splitter = _splitter([*self.special_tokens, *self.added_tokens])
        self._added_splitter = _splitter(self.added_tokens)
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def from_merges(
        cls,
        merges: Sequence[tuple[bytes, bytes]],
        *,
        pattern: str = "llama3",
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
    ) -> ByteBPE:
        """Number the tokens: the 256 bytes, then the merges in order, then the special tokens.

        `<|endoftext|>` becomes bos and eos and `<|pad|>` pad, where they are among the special tokens.
        """
        check_special_tokens(special_tokens)
        tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
        if len(set(tokens)) < len(tokens):
            twice = next(token for index, token in enumerate(tokens) if token in tokens[:index])
            raise TokenizerError(f"two merges make the same token {twice!r}")
        special = {name: len(tokens) + index for index, name in enumerate(special_tokens)}
        end = END_OF_TEXT if END_OF_TEXT in special else None
        return cls(
            {token: id for id, token in enumerate(tokens)},
            merges,
            pattern=pattern,
            special_tokens=special,
            bos=end,
            eos=end,
            pad=PAD if PAD in special else None,
        )

    @classmethod
    def from_gpt2_files(cls, vocab_file: Path, merges_file: Path) -> ByteBPE:
        """Read OpenAI's original pair of files (`vocab.json`, `merges.txt`), with the GPT-2 split pattern.

        Raises:
            TokenizerError: when a file is missing or malformed, or the two do not fit together.
        """
        return cls(**hf_files.read_gpt2_files(vocab_file, merges_file))

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`; see `Tokenizer.encode`."""
        text = replace_surrogates(text)
        splitter = self._special_splitter if allow_special else self._added_splitter
        if splitter is None:
            return self._encode_ordinary(text)
        ids: list[int] = []
        for index, piece in enumerate(splitter.split(text)):
            if index % 2:  # the splitter has one group, so what it matched stands at the odd places
                ids.append(self.special_tokens[piece] if piece in self.special_tokens else self.added_tokens[piece])
            elif piece:
                ids.extend(self._encode_ordinary(piece))
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode(text)` for each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Return the text of `ids`; see `Tokenizer.decode`."""
        skipped = self._special_ids if skip_special else frozenset()
        return b"".join(self.token_bytes(id) for id in ids if id not in skipped).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that one token stands for; see `Tokenizer.token_bytes`."""
        try:
            return self._token_bytes[id]
        except KeyError:
            raise TokenizerError(f"id {id} names no token: the vocabulary has {self.vocab_size} ids") from None

    def save(self, folder: Path, *, chat_template: str | None = None, max_length: int | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`; see `Tokenizer.save`."""
        hf_files.save(folder, self.to_json(), hf_files.config_json(self, chat_template, max_length))

    def to_json(self) -> dict[str, Any]:
        """Return the content of `tokenizer.json`."""
        return hf_files.bpe_to_json(self)

    def fingerprint(self) -> str:
        """Return a SHA-256 over everything that decides the ids."""
        content = {**self.to_json(), "post_processor": None}  # plays no part in `encode`
        return sha256_json([content, self.bos, self.eos, self.pad])

    def _encode_ordinary(self, text: str) -> list[int]:
        if self.normalizes:
            text = unicodedata.normalize("NFC", text)
        cache = self._cache
        ids: list[int] = []
        for piece in split(text, self.pattern):
            known = cache.get(piece)
            if known is None:
                known = self._encode_piece(piece.encode("utf-8"))
                if len(piece) <= _CACHED_LENGTH:
                    if len(cache) >= _CACHE_ENTRIES:
                        cache.clear()
                    cache[piece] = known
            ids.extend(known)
        return ids

    def _encode_piece(self, piece: bytes) -> list[int]:
        if self.ignores_merges and piece in self.vocab:
            return [self.vocab[piece]]
        byte_ids = self._byte_ids
        return merge_tokens([byte_ids[byte] for byte in piece], self._merge_table)

    def _bytes_by_id(self) -> dict[int, bytes]:
        by_id: dict[int, bytes] = {}
        for token, id in self.vocab.items():
            if id in by_id:
                raise TokenizerError(f"the tokens {by_id[id]!r} and {token!r} share the id {id}")
            by_id[id] = token
        for name, id in [*self.special_tokens.items(), *self.added_tokens.items()]:
            if id in by_id:
                raise TokenizerError(f"the special token {name!r} and the token {by_id[id]!r} share the id {id}")
            if name.encode("utf-8") in self.vocab:
                raise TokenizerError(f"the special token {name!r} is an ordinary token too: choose another name")
            by_id[id] = name.encode("utf-8")
        if min(by_id, default=0) < 0:
            raise TokenizerError(f"the token {by_id[min(by_id)]!r} has the negative id {min(by_id)}")
        return by_id or {-1: b""}

    def _table_of_merges(self) -> dict[tuple[int, int], tuple[int, int]]:
        table: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(self.merges):
            for token in (left, right, left + right):
                if token not in self.vocab:
                    raise TokenizerError(f"merge {rank} ({left!r} + {right!r}) names {token!r}, which is no token")
            pair = (self.vocab[left], self.vocab[right])
            if pair in table:
                raise TokenizerError(f"merge {rank} ({left!r} + {right!r}) repeats merge {table[pair][0]}")
            table[pair] = (rank, self.vocab[left + right])
        return table

    def _role(self, role: str, name: str | None) -> int | None:
        if name is None:
            return None
        if name not in self.special_tokens and name not in self.added_tokens:
            raise TokenizerError(f"{role} is {name!r}, which is no special token ({', '.join(self.special_tokens)})")
        return {**self.added_tokens, **self.special_tokens}[name]


def _roles(bos: str | None, eos: str | None, pad: str | None) -> tuple[tuple[str, str | None], ...]:
    return (("bos", bos), ("eos", eos), ("pad", pad))


def _splitter(names: Iterable[str]) -> Any:
    """Return a pattern with one group that matches any of the names, the longest first, or None for no names."""
    ordered = sorted(names, key=len, reverse=True)
    return regex.compile("(" + "|".join(map(regex.escape, ordered)) + ")") if ordered else None
