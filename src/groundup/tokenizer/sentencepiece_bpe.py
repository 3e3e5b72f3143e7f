"""SentencePiece BPE: pairs merge by score over characters, and rare characters fall back to their bytes.

Llama 1 and 2, Mistral 7B, TinyLlama, Phi-3 and Gemma. Blanks are written as U+2581 and belong to the word after them.
Kudo and Richardson 2018 (arXiv:1808.06226); the merging is that of Sennrich et al. 2016 with a score for each token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import regex

from groundup.core.errors import TokenizerError
from groundup.tokenizer import hf_files
from groundup.tokenizer.added_tokens import AddedTokens, Side
from groundup.tokenizer.blanks import BlankFirst, mark_blanks
from groundup.tokenizer.bpe_fast import merge_tokens
from groundup.tokenizer.common import TokenizerBase, remember
from groundup.tokenizer.hf_files import BLANK

# Gemma's longest run of blanks has 31; a hostile file could make every cut of one long token be looked at.
_LONGEST_PIECE = 1024

_BYTE_TOKEN = regex.compile(r"<0x([0-9A-F]{2})>")
#: The tokens of single bytes, as SentencePiece writes them.
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


class SentencePieceBPE(TokenizerBase):
    """A SentencePiece byte-pair tokenizer (a `Tokenizer`).

    Blanks become U+2581, one is put before the text, each character is a token, and pairs of tokens merge by rank. A
    character that is no token becomes the tokens of its UTF-8 bytes, or else the unknown token.

    `decode` takes away the blank that `encode` put first, so a text comes back from its ids: exactly, except that
    U+2581 comes back as a blank, an unknown character as the text of the unknown token, and that with `always` and
    `first` one blank at the beginning is lost. An answer goes on after its prompt, where nothing may be taken away:
    see `StreamDecoder`.

    Args:
        vocab: text of each ordinary token, with U+2581 for blanks, and its id; bytes are written `<0x0A>`.
        merges: pairs of tokens in the order of their rank.
        special_tokens: text and id of each special token.
        added_tokens: text and id of tokens that are always matched whole; they may be ordinary tokens too.
        strips: special or added tokens that take the whitespace on a side with them (Phi-3's `<|user|>`).
        roles: which special token is `bos`, `eos`, `pad` or `unk`.
        prefix, suffix: special tokens that the model expects around a text.
        blank_first: whether a blank is put before a text.
        splits_at_blanks: each blank begins a new piece, so no token holds two (Metaspace's `split`).
        falls_back_to_bytes: write unknown characters as bytes.

    Raises:
        TokenizerError: when two tokens share an id, a merge names a token that is not there, or there is neither a
            token for each byte nor an unknown token.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        special_tokens: Mapping[str, int] | None = None,
        added_tokens: Mapping[str, int] | None = None,
        strips: Mapping[str, Side] | None = None,
        roles: Mapping[str, str | None] | None = None,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        blank_first: BlankFirst = "prepend",
        splits_at_blanks: bool = False,
        falls_back_to_bytes: bool = True,
    ) -> None:
        self.vocab = dict(vocab)
        self.merges = [(left, right) for left, right in merges]
        self.blank_first: BlankFirst = blank_first
        self.strips_first_blank = blank_first != "never"
        self.splits_at_blanks = splits_at_blanks
        self.falls_back_to_bytes = falls_back_to_bytes
        added = AddedTokens(special_tokens or {}, added_tokens or {}, strips or {})
        byte_tokens = {token: match for token in self.vocab if (match := _BYTE_TOKEN.fullmatch(token))}
        self._byte_ids = {int(match[1], 16): self.vocab[token] for token, match in byte_tokens.items()}
        token_bytes = sentencepiece_bytes(self.vocab, added, falls_back_to_bytes)
        super().__init__(added, token_bytes, roles=roles or {}, prefix=prefix, suffix=suffix)
        self._unk_id = self.role_id("unk")
        missing = [byte for byte in range(256) if byte not in self._byte_ids] if falls_back_to_bytes else [0]
        self._has_unknown = bool(missing)
        if missing and self._unk_id is None:
            raise TokenizerError(
                f"there is no unknown token, and no token <0x{missing[0]:02X}> for that byte: some texts have no ids"
            )
        if splits_at_blanks and blank_first == "prepend":
            raise TokenizerError("splits_at_blanks goes with blank_first 'always', 'first' or 'never', not 'prepend'")
        self._characters = {token: id for token, id in self.vocab.items() if len(token) == 1}
        self._merge_table = self._table_of_merges()
        # Where no merge joins the two characters on both sides of a place, no token can ever reach over it.
        self._joins = {(left[-1], right[0]) for left, right in self.merges}
        if splits_at_blanks:
            self._joins = {pair for pair in self._joins if pair[1] != BLANK}
        self._cache: dict[str, list[int]] = {}

    def is_byte(self, token: str) -> bool:
        """Whether a token stands for a byte and not for its own text."""
        return self.falls_back_to_bytes and _BYTE_TOKEN.fullmatch(token) is not None

    def to_json(self) -> dict[str, Any]:
        """Return the content of `tokenizer.json`."""
        return hf_files.sentencepiece_to_json(self)

    def _encode_ordinary(self, text: str, after: int | None) -> list[int]:
        text = mark_blanks(text, self.blank_first, after, self.added.known_ids)
        cache = self._cache
        ids: list[int] = []
        for piece in self._pieces(text):
            known = cache.get(piece)
            if known is None:
                known = self._encode_piece(piece)
                remember(cache, piece, known)
            ids.extend(known)
        return self._fuse_unknown(ids) if self._has_unknown else ids

    def _pieces(self, text: str) -> list[str]:
        joins = self._joins
        pairs = zip(text, islice(text, 1, None), strict=False)
        ends = [index for index, pair in enumerate(pairs, 1) if pair not in joins]
        return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]

    def _encode_piece(self, piece: str) -> list[int]:
        ids: list[int] = []
        run: list[int] = []
        for character in piece:
            id = self._characters.get(character)
            if id is not None:
                run.append(id)
            else:
                ids += [*merge_tokens(run, self._merge_table), *self._fall_back(character)]
                run = []
        return [*ids, *merge_tokens(run, self._merge_table)]

    def _fall_back(self, character: str) -> list[int]:
        content = character.encode("utf-8")
        if self.falls_back_to_bytes and all(byte in self._byte_ids for byte in content):
            return [self._byte_ids[byte] for byte in content]
        return [] if self._unk_id is None else [self._unk_id]

    def _fuse_unknown(self, ids: list[int]) -> list[int]:
        """Leave one unknown token of several in a row, as SentencePiece does."""
        unknown = self._unk_id
        return [id for index, id in enumerate(ids) if id != unknown or index == 0 or ids[index - 1] != unknown]

    def _table_of_merges(self) -> dict[tuple[int, int], tuple[int, int]]:
        table: dict[tuple[int, int], tuple[int, int]] = {}
        vocab = self.vocab
        for rank, (left, right) in enumerate(self.merges):
            for token in (left, right, left + right):
                if token not in vocab:
                    raise TokenizerError(f"merge {rank} ({left!r} + {right!r}) names {token!r}, which is no token")
            pair = (vocab[left], vocab[right])
            if pair in table:
                raise TokenizerError(f"merge {rank} ({left!r} + {right!r}) repeats merge {table[pair][0]}")
            table[pair] = (rank, vocab[left + right])
        return table


def merges_from_scores(vocab: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return the merges that a SentencePiece model stands for: every way to make a token of two others.

    SentencePiece has no list of merges: of all adjacent pairs whose concatenation is a token, it joins the one whose
    token has the highest score. The ranks of the pairs of one token follow their ids, as in the files that
    `transformers` writes.

    Args:
        vocab: tokens that may take part and their ids.
        scores: the score of each; a higher one is merged first.

    Raises:
        TokenizerError: for a token of more than 1024 characters.
    """
    found: list[tuple[float, int, int, int, str, str]] = []
    for token, id in vocab.items():
        if len(token) > _LONGEST_PIECE:
            raise TokenizerError(f"the token {token[:40]!r}... (id {id}) has {len(token)} characters: this is no word")
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                found.append((-scores[token], id, vocab[left], vocab[right], left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def sentencepiece_bytes(vocab: Mapping[str, int], added: AddedTokens, has_bytes: bool) -> dict[int, bytes]:
    """Return the bytes of every token, U+2581 as a blank and, where bytes have tokens, `<0x0A>` as that byte.

    Raises:
        TokenizerError: when two tokens share an id, an id is negative, or a token is no text.
    """
    by_id: dict[int, str] = {}
    for name, id in [*vocab.items(), *added.ids.items()]:
        if by_id.get(id, name) != name:
            raise TokenizerError(f"the tokens {by_id[id]!r} and {name!r} share the id {id}")
        if id < 0:
            raise TokenizerError(f"the token {name!r} has the negative id {id}")
        if added.ids.get(name, id) != id or (name in added.special and name in vocab):
            raise TokenizerError(f"the special token {name!r} is an ordinary token too: choose another name")
        by_id[id] = name
    result: dict[int, bytes] = {}
    for id, name in by_id.items():
        match = _BYTE_TOKEN.fullmatch(name) if has_bytes else None
        try:
            result[id] = bytes([int(match[1], 16)]) if match else name.replace(BLANK, " ").encode("utf-8")
        except UnicodeEncodeError:
            raise TokenizerError(f"the token {name!r} (id {id}) holds a surrogate: this is no text") from None
    return result
