"""What the split patterns ask of a character, as a table with one byte for each code point."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import regex

#: One bit for each class: the classes of a table never overlap, a set of classes is a sum of bits.
SIGN, LETTER, NUMBER, BLANK, LINE_END = 1, 2, 4, 8, 16
CODE_POINTS = 0x110000


@lru_cache(maxsize=1)
def character_classes() -> npt.NDArray[np.uint8]:
    """Return the class of every code point, shape `(0x110000,)`, read-only.

    The classes are asked of the `regex` library itself, so both ways to split always follow the same version of
    Unicode: `\\p{L}`, `\\p{N}`, `\\r` and `\\n`, other `\\s`, and everything else. Takes about 30 ms.
    """
    every = np.arange(CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    table = np.full(CODE_POINTS, SIGN, dtype=np.uint8)
    for pattern, value in ((r"\p{L}+", LETTER), (r"\p{N}+", NUMBER), (r"\s+", BLANK), (r"[\r\n]", LINE_END)):
        for match in regex.finditer(pattern, every):
            table[match.start() : match.end()] = value
    table.flags.writeable = False
    return table
