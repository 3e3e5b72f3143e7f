"""How well a tokenizer fits some texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from groundup.core.errors import DataError
from groundup.tokenizer.base import Tokenizer, replace_surrogates


@dataclass(frozen=True, kw_only=True)
class TokenizerStatistics:
    """What a tokenizer does with some texts.

    Attributes:
        vocab_size: ids of the tokenizer, special tokens included.
        num_texts, num_bytes, num_characters, num_words, num_tokens: how much was looked at (bytes of UTF-8; words
            are what whitespace separates).
        bytes_per_token: the compression; what bits per token is divided by to give bits per byte.
        tokens_per_word: the "fertility" (Ács 2019; Rust et al. 2021, arXiv:2012.15613).
        vocabulary_used: share of the ordinary tokens that occur at least once; a token that never occurs in the
            training text has an untrained embedding.
        longest_tokens: the longest tokens that occur and hold a letter, as text, the longest first (runs of blanks
            and dashes would fill the list).
        lossy_texts: how many texts do not come back from their ids (byte-level BPE has none, WordPiece many).
    """

    vocab_size: int
    num_texts: int
    num_bytes: int
    num_characters: int
    num_words: int
    num_tokens: int
    bytes_per_token: float
    tokens_per_word: float
    vocabulary_used: float
    longest_tokens: tuple[str, ...]
    lossy_texts: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "longest_tokens": list(self.longest_tokens)}


def tokenizer_statistics(tokenizer: Tokenizer, texts: Iterable[str], *, num_longest: int = 20) -> TokenizerStatistics:
    """Encode `texts` and count.

    Args:
        tokenizer: any tokenizer.
        texts: the documents, best those that training did not see.
        num_longest: how many of the longest tokens to return.

    Raises:
        DataError: when the texts are empty.
    """
    used: Counter[int] = Counter()
    num_texts = num_bytes = num_characters = num_words = lossy = 0
    for text in texts:
        text = replace_surrogates(text)
        ids = tokenizer.encode(text)
        used.update(ids)
        num_texts += 1
        num_bytes += len(text.encode("utf-8"))
        num_characters += len(text)
        num_words += len(text.split())
        lossy += tokenizer.decode(ids) != text
    num_tokens = used.total()
    if num_tokens == 0:
        raise DataError(f"there is nothing to count: all of the {num_texts} texts are empty")
    ordinary = tokenizer.vocab_size - len(tokenizer.special_tokens)
    # By length, then by text, so that the same texts always give the same list.
    shown = [tokenizer.token_bytes(id).decode("utf-8", "replace") for id in used]
    longest = sorted((text for text in shown if any(map(str.isalpha, text))), key=lambda text: (-len(text), text))
    return TokenizerStatistics(
        vocab_size=tokenizer.vocab_size,
        num_texts=num_texts,
        num_bytes=num_bytes,
        num_characters=num_characters,
        num_words=num_words,
        num_tokens=num_tokens,
        bytes_per_token=num_bytes / num_tokens,
        tokens_per_word=num_tokens / max(num_words, 1),
        vocabulary_used=len(used) / ordinary,
        longest_tokens=tuple(longest[:num_longest]),
        lossy_texts=lossy,
    )
