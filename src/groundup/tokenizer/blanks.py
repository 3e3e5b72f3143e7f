"""How SentencePiece writes blanks: as U+2581, which belongs to the word after it.

Kudo and Richardson 2018 (arXiv:1808.06226), section 3.1; in the details as `tokenizers` does it (Metaspace).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import regex

from groundup.tokenizer.hf_files import BLANK

#: Whether a blank is put before a text: `prepend` before each stretch between special tokens (SentencePiece,
#: Llama 2); `always` and `first` (Metaspace) only where there is none yet, and `first` only at the very beginning.
BlankFirst = Literal["prepend", "always", "first", "never"]

_WORDS = regex.compile(f"{BLANK}?[^{BLANK}]++|{BLANK}")
# What a trainer counts: nothing is learned across a line end or a tab, which are no blanks to SentencePiece's files.
_TRAINED = regex.compile(rf"{BLANK}?[^{BLANK}\s]++|{BLANK}|\s++")


def mark_blanks(text: str, first: BlankFirst, after: int | None, special_ids: Collection[int]) -> str:
    """Return a stretch of text with U+2581 for blanks, one of them put before it where it belongs there.

    Args:
        text: what stands between two special tokens.
        first: whether a blank is put before it.
        after: the id before it, if any.
        special_ids: the ids after which a text begins anew.
    """
    text = text.replace(" ", BLANK)
    if first == "never" or (after is not None and after not in special_ids):
        return text
    if first == "prepend":
        return BLANK + text
    return text if text.startswith(BLANK) or (after is not None and first == "first") else BLANK + text


def words_of(marked: str) -> list[str]:
    """Cut a text at its blanks; each begins a word (Metaspace's `split`)."""
    found: list[str] = _WORDS.findall(marked)
    return found


def trained_words(text: str) -> list[str]:
    """Cut a text into what a trainer counts: words with the blank before them, and runs of other whitespace."""
    found: list[str] = _TRAINED.findall(BLANK + text.replace(" ", BLANK))
    return found
