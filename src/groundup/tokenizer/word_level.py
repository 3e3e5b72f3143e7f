"""Word-level: each word is a token, and every word that training did not keep is one and the same unknown token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import regex

from groundup.core.errors import TokenizerError
from groundup.tokenizer import hf_files
from groundup.tokenizer.added_tokens import AddedTokens, Side
from groundup.tokenizer.bert_text import words as bert_words
from groundup.tokenizer.common import TokenizerBase, word_bytes

#: What a word is, by the names of `tokenizers`: letters and digits in a row or signs in a row (`Whitespace`), what
#: whitespace separates (`WhitespaceSplit`), or what whitespace separates with each sign apart (`BertPreTokenizer`).
WordRule = Literal["Whitespace", "WhitespaceSplit", "BertPreTokenizer"]

# `\w` of the engine behind `tokenizers`.
_LETTERS = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}"
_RULES: dict[str, Any] = {
    "Whitespace": regex.compile(rf"[{_LETTERS}]++|[^\s{_LETTERS}]++").findall,
    "WhitespaceSplit": regex.compile(r"\S++").findall,
    "BertPreTokenizer": bert_words,
}
WORD_RULES = tuple(_RULES)


def cut_words(text: str, rule: WordRule) -> list[str]:
    """Return the words of a text; whitespace is lost."""
    found: list[str] = _RULES[rule](text)
    return found


class WordLevel(TokenizerBase):
    """A word-level tokenizer (a `Tokenizer`).

    Nothing is promised of the way back: `decode` puts one blank between two words, whatever stood there, and an unknown
    word is gone.

    Args:
        vocab: text of each word and its id.
        special_tokens: text and id of each special token.
        added_tokens: text and id of tokens that are always matched whole.
        strips: special or added tokens that take the whitespace on a side with them.
        roles: which special token is `unk` (needed), `pad`, `bos`, `eos`.
        prefix, suffix: special tokens that the model expects around a text.
        rule: what a word is.

    Raises:
        TokenizerError: when two tokens share an id, or there is no unknown token.
    """

    strips_first_blank = True

    def __init__(
        self,
        vocab: Mapping[str, int],
        *,
        special_tokens: Mapping[str, int],
        added_tokens: Mapping[str, int] | None = None,
        strips: Mapping[str, Side] | None = None,
        roles: Mapping[str, str | None],
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        rule: WordRule = "Whitespace",
    ) -> None:
        self.vocab = dict(vocab)
        self.rule: WordRule = rule
        added = AddedTokens(special_tokens, added_tokens or {}, strips or {})
        token_bytes = word_bytes(self.vocab, added, lambda name, _: f" {name}")
        super().__init__(added, token_bytes, roles=roles, prefix=prefix, suffix=suffix)
        if self.unknown_id is None:
            raise TokenizerError("there is no unknown token (unk): a word that is no token has no id")
        self._unknown = self.unknown_id

    def to_json(self) -> dict[str, Any]:
        """Return the content of `tokenizer.json`."""
        return hf_files.word_level_to_json(self)

    def _encode_ordinary(self, text: str, after: int | None) -> list[int]:
        vocab, unknown = self.vocab, self._unknown
        return [vocab.get(word, unknown) for word in cut_words(text, self.rule)]
