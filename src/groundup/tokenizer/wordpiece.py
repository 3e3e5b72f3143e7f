"""WordPiece: the longest token from the left, again and again, within each word (BERT and its descendants).

Schuster and Nakajima 2012 for the vocabulary; Devlin et al. 2018 (arXiv:1810.04805) for the form in which it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from groundup.core.errors import TokenizerError
from groundup.tokenizer import hf_files
from groundup.tokenizer.added_tokens import AddedTokens, Side
from groundup.tokenizer.bert_text import BertNormalization, normalize, words
from groundup.tokenizer.common import TokenizerBase, remember, word_bytes

#: What tokens inside a word begin with.
INSIDE = "##"
_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
# In `decode` these stand next to the word before them, as in `tokenizers`.
_WITHOUT_BLANK = (".", "?", "!", ",")


class WordPiece(TokenizerBase):
    """A WordPiece tokenizer (a `Tokenizer`).

    Text is normalized (by default: small letters without accents) and cut into words, and a word into the longest
    tokens from the left; those inside a word begin with `##`. A word that cannot be cut so is one unknown token. What
    normalization takes away does not come back from the ids.

    Args:
        vocab: text of each ordinary token and its id.
        special_tokens: text and id of each special token.
        added_tokens: text and id of tokens that are always matched whole.
        strips: special or added tokens that take the whitespace on a side with them.
        roles: which special token is `unk` (needed), `cls`, `sep`, `pad`, `mask`.
        prefix, suffix: special tokens that the model expects around a text (`[CLS]` and `[SEP]`).
        normalization: what is done to a text first.
        longest_word: a word of more characters is unknown.

    Raises:
        TokenizerError: when two tokens share an id, or there is no unknown token.
    """

    strips_first_blank = True
    config: ClassVar[dict[str, Any]] = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}

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
        normalization: BertNormalization | None = None,
        longest_word: int = 100,
    ) -> None:
        self.vocab = dict(vocab)
        self.normalization = normalization or BertNormalization()
        self.longest_word = longest_word
        added = AddedTokens(special_tokens, added_tokens or {}, strips or {})
        super().__init__(added, word_bytes(self.vocab, added, _shown), roles=roles, prefix=prefix, suffix=suffix)
        if self.unknown_id is None:
            raise TokenizerError("there is no unknown token (unk): a word without tokens has no ids")
        self._unknown = [self.unknown_id]
        self._longest_token = max(map(len, self.vocab), default=0)
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def from_vocab_txt(
        cls, path: Path, *, roles: Mapping[str, str] | None = None, normalization: BertNormalization | None = None
    ) -> WordPiece:
        """Read Google's `vocab.txt`: one token a line, the line number is its id.

        Args:
            path: the file.
            roles: the texts of the special tokens where they are not `[CLS]`, `[SEP]`, `[UNK]`, `[PAD]`, `[MASK]`.
            normalization: what is done to a text first.

        Raises:
            TokenizerError: when the file cannot be read, holds a token twice, or lacks one that is needed.
        """
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path} cannot be read: {error}") from None
        vocab: dict[str, int] = {}
        for id, line in enumerate(lines[:-1] if not lines[-1] else lines):
            token = line.rstrip("\r")
            if token in vocab:
                raise TokenizerError(f"{path}: line {id + 1} repeats the token {token!r} of line {vocab[token] + 1}")
            vocab[token] = id
        names = {**_SPECIAL, **{role: name for role, name in (roles or {}).items() if role in _SPECIAL}}
        missing = [name for role, name in names.items() if role in ("unk", "cls", "sep") and name not in vocab]
        if missing:
            raise TokenizerError(f"{path} has no {missing[0]}: this is no vocabulary of BERT")
        special = {name: vocab.pop(name) for name in dict.fromkeys(names.values()) if name in vocab}
        return cls(
            vocab,
            special_tokens=special,
            roles={role: name for role, name in names.items() if name in special},
            prefix=[names["cls"]],
            suffix=[names["sep"]],
            normalization=normalization,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of `tokenizer.json`."""
        return hf_files.wordpiece_to_json(self)

    def _encode_ordinary(self, text: str, after: int | None) -> list[int]:
        cache = self._cache
        ids: list[int] = []
        for word in words(normalize(text, self.normalization)):
            known = cache.get(word)
            if known is None:
                known = self._encode_word(word)
                remember(cache, word, known)
            ids.extend(known)
        return ids

    def _encode_word(self, word: str) -> list[int]:
        if len(word) > self.longest_word:
            return self._unknown
        vocab = self.vocab
        ids: list[int] = []
        start = 0
        while start < len(word):
            inside = INSIDE if start else ""
            for end in range(min(len(word), start + self._longest_token), start, -1):
                id = vocab.get(inside + word[start:end])
                if id is not None:
                    ids.append(id)
                    start = end
                    break
            else:
                return self._unknown
        return ids


def _shown(name: str, is_added: bool) -> str:
    """What stands in a text for a token: what begins a word has a blank before it."""
    if not is_added and name.startswith(INSIDE):
        return name.removeprefix(INSIDE)
    return name if name in _WITHOUT_BLANK else f" {name}"
