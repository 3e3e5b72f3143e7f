"""Byte-level BPE: every string has ids, and its ids give the string back."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from groundup.core.errors import TokenizerError
from groundup.tokenizer import compiled, hf_files
from groundup.tokenizer.added_tokens import AddedTokens, Side, check_special_tokens, replace_surrogates
from groundup.tokenizer.base import END_OF_TEXT, PAD, SPECIAL_TOKENS
from groundup.tokenizer.bpe_fast import merge_tokens
from groundup.tokenizer.common import TokenizerBase, bytes_by_id, remember
from groundup.tokenizer.hf_parse import read_gpt2_files
from groundup.tokenizer.patterns import SplitPattern, split, split_pattern
from groundup.tokenizer.scan_rules import SCAN_RULES

# What ordinary text is made of. Real vocabularies leave out the bytes that UTF-8 never has (The Unicode Standard,
# table 3-7), some also control characters (Falcon) or the first byte of the empty planes 4 to 7 (StarCoder).
_NEEDED_BYTES = (*b"\t\n\r", *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF1))


class ByteBPE(TokenizerBase):
    """A byte-level byte-pair tokenizer (a `Tokenizer`).

    Text is cut by the split pattern, each piece starts as its UTF-8 bytes, and pairs of tokens merge by rank.

    Args:
        vocab: bytes of each ordinary token and its id; the single bytes that texts are made of must be there. A control
            character or a byte of the planes from 4 on that is missing is left out of the ids, as in `tokenizers`.
        merges: pairs of tokens in the order of their rank.
        pattern: `gpt2`, `gpt4`, `llama3`, another known name, a regular expression, or several of these to be
            applied one after the other.
        special_tokens: text and id of each special token.
        added_tokens: text and id of tokens that are always matched whole in a text though they are not special
            (Qwen's `<think>`); ours have none.
        unreachable: text and id of tokens that no text becomes (emoji in Command R's vocabulary), for `decode`.
        strips: special or added tokens that take the whitespace on a side with them.
        bos, eos, pad: which special tokens play these parts.
        prefix, suffix: special tokens that the model expects around a text (Llama 3: bos before it).
        ignores_merges: a piece that is a token as a whole takes its id without looking at the merges (Llama 3).
        normalizes: bring texts to Unicode's composed form NFC first (Qwen); then decoding gives that form back.

    Raises:
        TokenizerError: when a single byte has no id, two tokens share one, a merge names a token that is not
            there, or a special token equals an ordinary one.
    """

    def __init__(
        self,
        vocab: Mapping[bytes, int],
        merges: Sequence[tuple[bytes, bytes]],
        *,
        pattern: str | Sequence[str] = "llama3",
        special_tokens: Mapping[str, int] | None = None,
        added_tokens: Mapping[str, int] | None = None,
        unreachable: Mapping[str, int] | None = None,
        strips: Mapping[str, Side] | None = None,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        ignores_merges: bool = False,
        normalizes: bool = False,
    ) -> None:
        self.pattern: SplitPattern = split_pattern(pattern)
        self.vocab = dict(vocab)
        self.merges: list[tuple[bytes, bytes]] = list(map(tuple, merges))  # type: ignore[arg-type]
        self.unreachable = dict(unreachable or {})
        self.ignores_merges = ignores_merges
        self.normalizes = normalizes
        added = AddedTokens(special_tokens or {}, added_tokens or {}, strips or {})
        roles = {"bos": bos, "eos": eos, "pad": pad}
        token_bytes = bytes_by_id(self.vocab, self.unreachable, added)
        super().__init__(added, token_bytes, roles=roles, prefix=prefix, suffix=suffix)
        missing = [byte for byte in _NEEDED_BYTES if bytes([byte]) not in self.vocab]
        if missing:
            raise TokenizerError(
                f"{len(missing)} of the 256 bytes have no token (the first is 0x{missing[0]:02x}): "
                "a byte-level tokenizer needs them, or some texts have no ids"
            )
        self._byte_ids = {byte: self.vocab[bytes([byte])] for byte in range(256) if bytes([byte]) in self.vocab}
        self._merge_table = self._table_of_merges()
        self._cache: dict[str, list[int]] = {}
        self._rules = SCAN_RULES.get(self.pattern.portable)
        self._compiled: compiled.CompiledEncoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        # What the compiled encoder holds is made anew from the rest where it is needed.
        return self.__dict__ | {"_compiled": None, "_cache": {}}

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
        return cls(**read_gpt2_files(vocab_file, merges_file))

    def to_json(self) -> dict[str, Any]:
        """Return the content of `tokenizer.json`."""
        return hf_files.byte_bpe_to_json(self)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode(text)` for each text; the compiled path takes many short texts in one call."""
        encoder = None if self.added.others else self._encoder(sum(map(len, texts)))
        if encoder is None:
            return super().encode_batch(texts)
        return encoder.encode_batch([self._normalized(replace_surrogates(text)) for text in texts])

    @property
    def is_scanned(self) -> bool:
        """Whether the compiled path knows how this tokenizer splits texts."""
        return self._rules is not None

    def _encode_ordinary(self, text: str, after: int | None) -> list[int]:
        text = self._normalized(text)
        encoder = self._encoder(len(text))
        return self._encode_pure(text) if encoder is None else encoder.encode(text)

    def _normalized(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self.normalizes else text

    def _encoder(self, num_characters: int) -> compiled.CompiledEncoder | None:
        """The compiled encoder where it is worth it."""
        if self._rules is None or not compiled.worth_it(num_characters):
            return None
        if self._compiled is None:
            whole = self.vocab if self.ignores_merges else {}
            self._compiled = compiled.CompiledEncoder(self._byte_ids, self._merge_table, whole, self._rules)
        return self._compiled

    def _encode_pure(self, text: str) -> list[int]:
        cache = self._cache
        ids: list[int] = []
        for piece in split(text, self.pattern):
            known = cache.get(piece)
            if known is None:
                known = self._encode_piece(piece.encode("utf-8"))
                remember(cache, piece, known)
            ids.extend(known)
        return ids

    def merge(self, piece: bytes) -> list[int]:
        """Return the ids of one pre-token by merging alone, from its bytes up."""
        byte_ids = self._byte_ids
        return merge_tokens([byte_ids[byte] for byte in piece if byte in byte_ids], self._merge_table)

    def _encode_piece(self, piece: bytes) -> list[int]:
        if self.ignores_merges and piece in self.vocab:
            return [self.vocab[piece]]
        return self.merge(piece)

    def _table_of_merges(self) -> dict[tuple[int, int], tuple[int, int]]:
        vocab = self.vocab
        table: dict[tuple[int, int], tuple[int, int]] = {}
        with suppress(KeyError):
            table = {
                (vocab[left], vocab[right]): (rank, vocab[left + right])
                for rank, (left, right) in enumerate(self.merges)
            }
        if len(table) == len(self.merges):
            return table
        table = {}
        for rank, (left, right) in enumerate(self.merges):  # one by one, to name the one that is wrong
            for token in (left, right, left + right):
                if token not in self.vocab:
                    raise TokenizerError(f"merge {rank} ({left!r} + {right!r}) names {token!r}, which is no token")
            pair = (self.vocab[left], self.vocab[right])
            if pair in table:
                raise TokenizerError(f"merge {rank} ({left!r} + {right!r}) repeats merge {table[pair][0]}")
            table[pair] = (rank, self.vocab[left + right])
        return table
