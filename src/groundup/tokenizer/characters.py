"""One token for each character: the smallest vocabulary that reads well, and long sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from groundup.core.errors import DataError, TokenizerError
from groundup.tokenizer import hf_files
from groundup.tokenizer.added_tokens import AddedTokens, check_special_tokens, replace_surrogates
from groundup.tokenizer.base import END_OF_TEXT, PAD, SPECIAL_TOKENS
from groundup.tokenizer.common import TokenizerBase

#: The one token for every character that training never saw.
UNKNOWN = "\ufffd"


class CharTokenizer(TokenizerBase):
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
        special = {name: len(self.vocab) + index for index, name in enumerate(special_tokens)}
        end = END_OF_TEXT if END_OF_TEXT in special else None
        texts = [*self.vocab, *special]
        super().__init__(
            AddedTokens(special, {}, {}),
            {id: text.encode("utf-8") for id, text in enumerate(texts)},
            roles={"bos": end, "eos": end, "pad": PAD if PAD in special else None},
        )
        self.unknown_id = self._unknown = self.vocab[UNKNOWN]

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

    def unknown_characters(self, text: str) -> dict[str, int]:
        """Return the characters of `text` that would become U+FFFD, with their counts."""
        return {char: count for char, count in Counter(replace_surrogates(text)).items() if char not in self.vocab}

    def to_json(self) -> dict[str, Any]:
        """Return the content of `tokenizer.json`: a word-level model whose words are single characters."""
        return hf_files.characters_to_json(self)

    def _encode_ordinary(self, text: str, after: int | None) -> list[int]:
        vocab, unknown = self.vocab, self._unknown
        return [vocab.get(character, unknown) for character in text]
