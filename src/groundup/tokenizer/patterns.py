"""Split patterns: how a text is cut into pre-tokens before byte-pair merging, so that no token spans two words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import regex

from groundup.core.errors import TokenizerError, suggest
from groundup.tokenizer.pre_tokenizers import COVERING, DIGITS_FROM_THE_RIGHT, GPT2, GPT4, LLAMA3, PRE_TOKENIZERS

# Possessive quantifiers (`++`, `?+`) never give a character back. They make the same pieces as the portable form,
# because what follows each of them cannot match what it took, and keep long runs linear. The engines behind
# `tokenizers` and llama.cpp read `{1,3}+` differently or not at all, so files carry the portable form.
_GPT2_FAST = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s+"
_GPT4_FAST = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s"
)
_LLAMA3_FAST = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_HERE = {
    GPT2: _GPT2_FAST,
    GPT4: _GPT4_FAST,
    LLAMA3: _LLAMA3_FAST,
    # `\b` after a digit: to the engine of `tokenizers` the fractions and superscripts of Latin-1 are letters.
    DIGITS_FROM_THE_RIGHT: (
        r"\d{1,3}(?=(?:\d{3})*+(?![\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u00b2\u00b3\u00b9\u00bc-\u00be]))"
    ),
}
_COVERING = COVERING | {_GPT2_FAST, _GPT4_FAST, _LLAMA3_FAST}

# A pattern that someone else wrote can take exponential time. These are for any real one by far enough.
_CUSTOM_SECONDS = 10.0
_CUSTOM_SECONDS_PER_CHARACTER = 1e-4
_WORD_LENGTH = 32


@dataclass(frozen=True)
class SplitPattern:
    """How texts are cut: by one regular expression, or by several, each within the pieces that the last one left.

    Attributes:
        name: `gpt2`, `gpt4`, `llama3`, one of the names of llama.cpp, or `custom`.
        portable: the expressions as they are written to files.
    """

    name: str
    portable: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """The expressions as the `regex` library runs them here; they split every text alike."""
        return tuple(_HERE.get(source, source) for source in self.portable)


#: What a tokenizer of ours is trained with.
PATTERNS: dict[str, SplitPattern] = {
    # Radford et al. 2019, github.com/openai/gpt-2 (encoder.py).
    "gpt2": SplitPattern("gpt2", (GPT2,)),
    # tiktoken's cl100k_base. It differs from llama3 in one thing: whitespace at the end of the text is one piece.
    "gpt4": SplitPattern("gpt4", (GPT4,)),
    # Grattafiori et al. 2024 (Llama 3), tokenizer.json of the release; what GGUF calls `llama-bpe`.
    "llama3": SplitPattern("llama3", (LLAMA3,)),
}
_NAMED = {pattern.name: pattern for pattern in PATTERNS.values()}
_NAMED |= {name: SplitPattern(name, pre.steps) for name, pre in PRE_TOKENIZERS.items() if name not in _NAMED}


def split_pattern(pattern: str | Sequence[str]) -> SplitPattern:
    """Return the pattern of that name, the first named one with these expressions, or a custom one.

    Args:
        pattern: `gpt2`, `gpt4`, `llama3`, a name of llama.cpp (`qwen2`, `smollm`, ...), a regular expression in the
            syntax of the `regex` library, or several to be applied one after the other (none: nothing is cut).

    Raises:
        TokenizerError: when it is a bare word that names no pattern, or does not compile.
    """
    if isinstance(pattern, str) and pattern in _NAMED:
        return _NAMED[pattern]
    sources = (pattern,) if isinstance(pattern, str) else tuple(pattern)
    for known in _NAMED.values():
        if sources in (known.portable, known.sources):
            return known
    if isinstance(pattern, str) and pattern.replace("-", "").replace("_", "").isalnum():
        raise TokenizerError(f"no split pattern named {pattern!r}{suggest(pattern, tuple(_NAMED))}")
    for source in sources:
        compile_pattern(source)
    return SplitPattern("custom", sources)


@lru_cache(maxsize=64)
def compile_pattern(source: str) -> Any:
    """Compile a split pattern.

    Raises:
        TokenizerError: when it is not a valid regular expression, with the position of the fault.
    """
    try:
        return regex.compile(source)
    except (regex.error, RecursionError, OverflowError) as error:
        raise TokenizerError(f"the split pattern {source[:80]!r} is not a valid regular expression: {error}") from None


def split(text: str, pattern: SplitPattern) -> list[str]:
    """Cut `text` into pre-tokens; joined again they are the text, for any pattern.

    What a pattern leaves unmatched becomes pieces of its own, as `tokenizers` does with "Isolated".

    Args:
        text: Unicode scalar values only (see `replace_surrogates`).
        pattern: where to cut.

    Raises:
        TokenizerError: when a custom pattern takes far longer than any sensible one.
    """
    pieces = [text] if text else []
    for source in pattern.sources:
        if source in _COVERING:
            find = compile_pattern(source).findall
            pieces = find(pieces[0]) if len(pieces) == 1 else [part for piece in pieces for part in find(piece)]
        else:
            pieces = [part for piece in pieces for part in _isolate(piece, source)]
    return pieces


def _isolate(text: str, source: str) -> Sequence[str]:
    # After the first of several expressions the pieces are mostly words, which come again and again.
    return _isolate_word(text, source) if len(text) <= _WORD_LENGTH else _cut(text, source)


@lru_cache(maxsize=1 << 16)
def _isolate_word(text: str, source: str) -> tuple[str, ...]:
    return tuple(_cut(text, source))


def _cut(text: str, source: str) -> list[str]:
    pieces: list[str] = []
    end = 0
    limit = _CUSTOM_SECONDS + _CUSTOM_SECONDS_PER_CHARACTER * len(text)
    try:
        for match in compile_pattern(source).finditer(text, timeout=limit):
            start, stop = match.span()
            if start > end:
                pieces.append(text[end:start])
            if stop > start:
                pieces.append(text[start:stop])
            end = max(end, stop)
    except TimeoutError:
        raise TokenizerError(
            f"the split pattern {source[:80]!r} took more than {limit:.0f} s for a text of {len(text)} characters: "
            "it goes back over the text too often"
        ) from None
    if end < len(text):
        pieces.append(text[end:])
    return pieces
