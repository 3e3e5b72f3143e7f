"""Which split patterns the compiled scanner knows, and by which rules it scans them."""

from __future__ import annotations

from dataclasses import dataclass

from groundup.tokenizer.pre_tokenizers import GPT2, GPT4, LLAMA3, PRE_TOKENIZERS

#: Contractions (`'s`, `'ll`) match without regard to case.
FOLDS_CASE = 1
#: A word takes any one blank or sign before it (`[^\r\n\p{L}\p{N}]?`), else a space only.
WORD_TAKES_ANY = 2
#: A number takes a space before it.
NUMBER_TAKES_SPACE = 4
#: A run of signs takes the line ends after it.
SIGNS_TAKE_LINE_ENDS = 8
#: Whitespace is cut after its last line end.
CUTS_AFTER_LINE_ENDS = 16
#: Whitespace at the end of the text is one piece, before any other rule for whitespace.
END_IS_ONE_PIECE = 32
#: Numbers are cut out first: to whitespace, the text ends before a number.
NUMBERS_FIRST = 64

_ANY_NUMBER = 1 << 62


@dataclass(frozen=True)
class ScanRules:
    """How a pattern is scanned.

    Attributes:
        flags: sum of the constants of this file.
        max_digits: longest piece of numbers, in characters.
    """

    flags: int
    max_digits: int


_LLAMA = FOLDS_CASE | WORD_TAKES_ANY | SIGNS_TAKE_LINE_ENDS | CUTS_AFTER_LINE_ENDS

#: By the expressions of a pattern as they are written to files. Others are split by `regex`.
SCAN_RULES: dict[tuple[str, ...], ScanRules] = {
    (GPT2,): ScanRules(NUMBER_TAKES_SPACE, _ANY_NUMBER),
    (GPT4,): ScanRules(_LLAMA | END_IS_ONE_PIECE, 3),
    (LLAMA3,): ScanRules(_LLAMA, 3),
    PRE_TOKENIZERS["qwen2"].steps: ScanRules(_LLAMA, 1),
    # Two published spellings of the same cuts.
    PRE_TOKENIZERS["bailingmoe"].steps: ScanRules(_LLAMA, 1),
    PRE_TOKENIZERS["smollm"].steps: ScanRules(NUMBERS_FIRST, 1),
}
