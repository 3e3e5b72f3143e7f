"""What every tokenizer offers, the default special tokens, and decoding token by token."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from groundup.core.errors import TokenizerError

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
    """

    vocab_size: int
    special_tokens: dict[str, int]
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`.

        Args:
            text: any string; lone surrogates are read as U+FFFD.
            allow_special: read special-token strings in the text as those tokens. Leave it off for text that
                others wrote: then they stay ordinary text.
        """
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode(text)` for each text."""
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


class StreamDecoder:
    """Turns ids into text one at a time and never emits part of a character.

    A character may be spread over several tokens: its bytes are held back until the last one came. What `push`
    returned, followed by what `finish` returns, equals `tokenizer.decode` of all ids.

    Args:
        tokenizer: where the bytes of a token come from.
        skip_special: leave special tokens out of the text.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skipped = frozenset(tokenizer.special_tokens.values()) if skip_special else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """Return the characters that the token `id` completes (often none, sometimes several)."""
        if id in self._skipped:
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def finish(self) -> str:
        """Return U+FFFD for a character that stayed incomplete, else nothing; afterwards a new text can begin."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def replace_surrogates(text: str) -> str:
    """Return `text` as Unicode scalar values: a surrogate pair becomes its character, a lone one U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def check_special_tokens(names: Sequence[str]) -> None:
    """Refuse special tokens that could not be told apart.

    Raises:
        TokenizerError: for an empty or repeated name, or one with a lone surrogate.
    """
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise TokenizerError(f"special token {index} is {name!r}: it must be a non-empty string")
        if replace_surrogates(name) != name:
            raise TokenizerError(f"special token {name!r} holds a surrogate: use Unicode scalar values")
        if name in names[:index]:
            raise TokenizerError(f"special token {name!r} is given twice")
