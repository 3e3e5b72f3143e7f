"""One token for each character: the smallest vocabulary that reads well, and long sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import regex

from groundup.core.errors import DataError, TokenizerError
from groundup.core.files import sha256_json
from groundup.tokenizer import hf_files
from groundup.tokenizer.base import (
    END_OF_TEXT,
    PAD,
    SPECIAL_TOKENS,
    check_special_tokens,
    replace_surrogates,
)

#: The one token for every character that training never saw.
UNKNOWN = "\ufffd"


class CharTokenizer:
    """A tokenizer over the characters of a text (a `Tokenizer`).

    A text comes back exactly when all of its characters are known. Any other character becomes U+FFFD, both here
    and in `tokenizers`; `unknown_characters` says which those are before they are lost.

    Args:
        characters: the ordinary tokens, ids from 0 in this order; U+FFFD is appended when it is not among them.
        special_tokens: their texts; they get the last ids, in this order.

    Raises:
        TokenizerError: when an entry is not one Unicode scalar value, or stands twice.
    """

    def __init__(self, characters: Sequence[str], *, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> None:
        check_special_tokens(special_tokens)
        ordinary = list(characters) if UNKNOWN in characters else [*characters, UNKNOWN]
        self.vocab: dict[str, int] = {}
        for character in ordinary:
            if len(character) != 1 or replace_surrogates(character) != character:
                raise TokenizerError(f"{character!r} is not one character (a Unicode scalar value)")
            if character in self.vocab:
                raise TokenizerError(f"the character {character!r} is given twice")
            self.vocab[character] = len(self.vocab)
        for name in special_tokens:
            if name in self.vocab:
                raise TokenizerError(f"the special token {name!r} is an ordinary character too: choose another name")
        self.special_tokens = {name: len(self.vocab) + index for index, name in enumerate(special_tokens)}
        self.vocab_size = len(self.vocab) + len(self.special_tokens)
        self.unknown_id = self.vocab[UNKNOWN]
        self.bos = self.eos = END_OF_TEXT if END_OF_TEXT in self.special_tokens else None
        self.pad = PAD if PAD in self.special_tokens else None
        self.bos_id = self.eos_id = self.special_tokens.get(END_OF_TEXT)
        self.pad_id = self.special_tokens.get(PAD)
        self._texts = [*self.vocab, *self.special_tokens]
        self._special_ids = frozenset(self.special_tokens.values())
        names = sorted(self.special_tokens, key=len, reverse=True)
        self._splitter: Any = regex.compile("(" + "|".join(map(regex.escape, names)) + ")") if names else None

    @classmethod
    def train(cls, texts: Iterable[str], *, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> CharTokenizer:
        """Take every character of the texts, in the order of their code points.

        Raises:
            DataError: when the texts are empty.
        """
        characters: set[str] = set()
        for text in texts:
            characters.update(replace_surrogates(text))
        if not characters:
            raise DataError("there is no text to train a tokenizer on: every text is empty")
        return cls(sorted(characters), special_tokens=special_tokens)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`; see `Tokenizer.encode`."""
        text = replace_surrogates(text)
        if not allow_special or self._splitter is None:
            return self._encode_ordinary(text)
        ids: list[int] = []
        for index, piece in enumerate(self._splitter.split(text)):
            if index % 2:  # the splitter has one group, so what it matched stands at the odd places
                ids.append(self.special_tokens[piece])
            else:
                ids.extend(self._encode_ordinary(piece))
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode(text)` for each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Return the text of `ids`; see `Tokenizer.decode`."""
        skipped = self._special_ids if skip_special else frozenset()
        return "".join(self._text(id) for id in ids if id not in skipped)

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that one token stands for; see `Tokenizer.token_bytes`."""
        return self._text(id).encode("utf-8")

    def unknown_characters(self, text: str) -> dict[str, int]:
        """Return the characters of `text` that would become U+FFFD, with their counts."""
        return {char: count for char, count in Counter(replace_surrogates(text)).items() if char not in self.vocab}

    def save(self, folder: Path, *, chat_template: str | None = None, max_length: int | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`; see `Tokenizer.save`."""
        hf_files.save(folder, self.to_json(), hf_files.config_json(self, chat_template, max_length))

    def to_json(self) -> dict[str, Any]:
        """Return the content of `tokenizer.json`: a word-level model whose words are single characters."""
        return hf_files.characters_to_json(self)

    def fingerprint(self) -> str:
        """Return a SHA-256 over everything that decides the ids."""
        return sha256_json([self.to_json(), self.bos, self.eos, self.pad])

    def _encode_ordinary(self, text: str) -> list[int]:
        vocab, unknown = self.vocab, self.unknown_id
        return [vocab.get(character, unknown) for character in text]

    def _text(self, id: int) -> str:
        if not 0 <= id < self.vocab_size:
            raise TokenizerError(f"id {id} names no token: the vocabulary has {self.vocab_size} ids")
        return self._texts[id]
