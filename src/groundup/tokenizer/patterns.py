"""Split patterns: how a text is cut into pre-tokens before byte-pair merging, so that no token spans two words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import regex

from groundup.core.errors import TokenizerError, suggest

# Possessive quantifiers (`++`, `?+`) never give a character back. They make the same pieces as the portable form,
# because what follows each of them cannot match what it took, and keep long runs linear. The engines behind
# `tokenizers` and llama.cpp read `{1,3}+` differently or not at all, so files carry the portable form.
# `(?![\s\S])` is "end of the text": `$` also matches before a final newline, or at each line end, in some engines.
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s+"
_GPT2_PORTABLE = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s"
)
_GPT4_PORTABLE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s"
)
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_PORTABLE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class SplitPattern:
    """A split pattern in the two forms it is needed in.

    Attributes:
        name: `gpt2`, `gpt4`, `llama3` or `custom`.
        source: the form used here, by the `regex` library.
        portable: the form written to `tokenizer.json`; it splits every text alike.
    """

    name: str
    source: str
    portable: str


PATTERNS: dict[str, SplitPattern] = {
    # Radford et al. 2019, github.com/openai/gpt-2 (encoder.py).
    "gpt2": SplitPattern("gpt2", _GPT2, _GPT2_PORTABLE),
    # tiktoken's cl100k_base. It differs from llama3 in one thing: whitespace at the end of the text is one piece.
    "gpt4": SplitPattern("gpt4", _GPT4, _GPT4_PORTABLE),
    # Grattafiori et al. 2024 (Llama 3), tokenizer.json of the release; what GGUF calls `llama-bpe`.
    "llama3": SplitPattern("llama3", _LLAMA3, _LLAMA3_PORTABLE),
}


def split_pattern(name_or_source: str) -> SplitPattern:
    """Return the pattern of that name, the named pattern whose portable form is given, or a custom one.

    Args:
        name_or_source: `gpt2`, `gpt4`, `llama3`, or a regular expression in the syntax of the `regex` library.

    Raises:
        TokenizerError: when it is a bare word that names no pattern, or does not compile.
    """
    if name_or_source in PATTERNS:
        return PATTERNS[name_or_source]
    for pattern in PATTERNS.values():
        if name_or_source in (pattern.portable, pattern.source):
            return pattern
    if name_or_source.replace("-", "").replace("_", "").isalnum():
        raise TokenizerError(f"no split pattern named {name_or_source!r}{suggest(name_or_source, tuple(PATTERNS))}")
    compile_pattern(name_or_source)
    return SplitPattern("custom", name_or_source, name_or_source)


@lru_cache(maxsize=32)
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

    What a custom pattern leaves unmatched becomes pieces of its own, as `tokenizers` does with "Isolated".

    Args:
        text: Unicode scalar values only (see `replace_surrogates`).
        pattern: where to cut.
    """
    compiled = compile_pattern(pattern.source)
    if pattern.name != "custom":  # the named ones cover every character and have no groups
        pieces: list[str] = compiled.findall(text)
        return pieces
    pieces, end = [], 0
    for match in compiled.finditer(text):
        start, stop = match.span()
        if start > end:
            pieces.append(text[end:start])
        if stop > start:
            pieces.append(text[start:stop])
            end = stop
        else:
            end = max(end, start)
    if end < len(text):
        pieces.append(text[end:])
    return pieces
