"""How BERT prepares a text: clean it, set Chinese characters apart, fold case and accents, cut it into words.

Devlin et al. 2018 (arXiv:1810.04805), github.com/google-research/bert (tokenization.py); in the details as the
`tokenizers` library does it (BertNormalizer, BertPreTokenizer). Characters that Unicode assigned after its version 8
can have another class there than in the newer tables used here.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

import regex

# Unicode's "CJK Unified Ideographs" and compatibility blocks. The last-but-one begins at U+2B920 in `tokenizers`
# (U+2B820 in Google's code); llama.cpp follows it.
_HAN = regex.compile(
    "([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f"
    "\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f])"
)
_REMOVED = regex.compile(r"[[\p{Cc}\p{Cf}\p{Co}\p{Cs}]--[\t\n\r]]|\ufffd", regex.V1)
_WHITESPACE = regex.compile(r"\s")
_ACCENTS = regex.compile(r"\p{Mn}+")
_WORDS: Any = regex.compile(r"[!-/:-@\[-`{-~\p{P}]|[^\s!-/:-@\[-`{-~\p{P}]+")


@dataclass(frozen=True, kw_only=True)
class BertNormalization:
    """What is done to a text before it is cut.

    Attributes:
        cleans: drop control characters and U+FFFD, and make every whitespace character a blank.
        spaces_han: put blanks around Chinese characters, so that each is a word.
        strips_accents: drop combining marks; None does so where case is folded, as BERT did.
        lowercases: fold case.
    """

    cleans: bool = True
    spaces_han: bool = True
    strips_accents: bool | None = None
    lowercases: bool = True


def normalize(text: str, how: BertNormalization) -> str:
    """Return the text as BERT reads it."""
    if how.cleans:
        text = _WHITESPACE.sub(" ", _REMOVED.sub("", text))
    if how.spaces_han:
        text = _HAN.sub(r" \1 ", text)
    if how.lowercases if how.strips_accents is None else how.strips_accents:
        text = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
    if how.lowercases:
        # Python alone writes a sigma at the end of a word differently; character by character it is always this one.
        text = text.replace("\u03a3", "\u03c3").lower()
    return text


def words(text: str) -> list[str]:
    """Cut a text at whitespace; each punctuation sign is a word of its own."""
    found: list[str] = _WORDS.findall(text)
    return found
