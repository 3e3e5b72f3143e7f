"""What every tokenizer offers, the default special tokens, and decoding token by token."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from groundup.tokenizer.added_tokens import check_special_tokens, replace_surrogates

__all__ = [
    "END_OF_TEXT",
    "IM_END",
    "IM_START",
    "PAD",
    "SPECIAL_TOKENS",
    "StreamDecoder",
    "Tokenizer",
    "check_special_tokens",
    "replace_surrogates",
]

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
PAD = "<|pad|>"
#: In this order, with the ids after all ordinary tokens: document separator, the two of ChatML, padding.
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, PAD)


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back.

    Attributes:
        vocab_size: one more than the largest id, special tokens included.
        special_tokens: text of each special token and its id.
        bos_id, eos_id, pad_id: ids of the tokens that `tokenizer_config.json` names so, or None.
        unknown_id: id of the token for what has no tokens of its own, or None.
        prefix_ids, suffix_ids: what the model expects before and after a text (a bos token; BERT's `[CLS]` and
            `[SEP]`). `encode` adds none of it, `encode_with_special` all of it.
        strips_first_blank: `decode` takes away a blank at the very beginning, because `encode` puts one there
            (SentencePiece) or because a word has one before it (WordPiece).
    """

    vocab_size: int
    special_tokens: dict[str, int]
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    unknown_id: int | None
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    strips_first_blank: bool

    @property
    def adds_bos(self) -> bool:
        """Whether the model expects its bos token before a text."""
        ...

    @property
    def adds_eos(self) -> bool:
        """Whether the model expects its eos token after a text."""
        ...

    def encode(self, text: str, *, allow_special: bool = False, after: int | None = None) -> list[int]:
        """Return the ids of `text`.

        Args:
            text: any string; lone surrogates are read as U+FFFD.
            allow_special: read special-token strings in the text as those tokens. Leave it off for text that
                others wrote: then they stay ordinary text.
            after: the id that stands before, when the text goes on: SentencePiece puts a blank before a text only
                where it begins, and some special tokens take the whitespace after them.
        """
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode(text)` for each text."""
        ...

    def encode_with_special(
        self, text: str, *, allow_special: bool = False, max_length: int | None = None
    ) -> list[int]:
        """Return the ids of `text` between `prefix_ids` and `suffix_ids`.

        Args:
            text: any string.
            allow_special: as for `encode`.
            max_length: cut the end of the text so that there are at most so many ids in all.

        Raises:
            TokenizerError: when `max_length` is too small for the special tokens alone.
        """
        ...

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: token ids.
            skip_special: leave special tokens out of the text.

        Raises:
            TokenizerError: for an id that names no token.
        """
        ...

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that one token stands for.

        Raises:
            TokenizerError: for an id that names no token.
        """
        ...

    def save(self, folder: Path, *, chat_template: str | None = None, max_length: int | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as `tokenizers` and `transformers` read them.

        Args:
            folder: a model directory; made when absent.
            chat_template: Jinja source for `apply_chat_template`.
            max_length: longest sequence of the model, in tokens (`model_max_length`).
        """
        ...

    def fingerprint(self) -> str:
        """Return a SHA-256 over everything that decides the ids: equal fingerprints give equal ids."""
        ...


def document_start_id(tokenizer: Tokenizer) -> int | None:
    """The token that stands before a text that begins a document, or None where the tokenizer has none.

    What the model expects before every text comes first (Llama's and Gemma's bos). Other models saw what separated the
    documents in training: `<|endoftext|>` where it exists, since chat models call other tokens bos and eos (SmolLM2:
    `<|im_start|>` and `<|im_end|>`); else eos, as in our own shards; else bos.
    """
    if tokenizer.prefix_ids:
        return tokenizer.prefix_ids[-1]
    named = tokenizer.special_tokens.get(END_OF_TEXT)
    return next((id for id in (named, tokenizer.eos_id, tokenizer.bos_id) if id is not None), None)


class StreamDecoder:
    """Turns ids into text one at a time and never emits part of a character.

    A character may be spread over several tokens: its bytes are held back until the last one came. What `push`
    returned, followed by what `finish` returns, equals `tokenizer.decode` of all ids. For the ids of an answer that
    is not the whole story: there a blank before the first word belongs to the text (`continues`).

    Args:
        tokenizer: where the bytes of a token come from.
        skip_special: leave special tokens out of the text.
        continues: the ids go on after others, as an answer does after its prompt.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False, continues: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skipped = frozenset(tokenizer.special_tokens.values()) if skip_special else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strips = tokenizer.strips_first_blank and not continues
        self._begun = False

    def push(self, id: int) -> str:
        """Return the characters that the token `id` completes (often none, sometimes several)."""
        if id in self._skipped:
            return ""
        return self._from_the_start(self._decoder.decode(self._tokenizer.token_bytes(id)))

    def finish(self) -> str:
        """Return U+FFFD for a character that stayed incomplete, else nothing; afterwards a new text can begin."""
        rest = self._from_the_start(self._decoder.decode(b"", final=True))
        self._decoder.reset()
        self._begun = False
        return rest

    def _from_the_start(self, text: str) -> str:
        if self._begun or not text:
            return text
        self._begun = True
        return text.removeprefix(" ") if self._strips else text
