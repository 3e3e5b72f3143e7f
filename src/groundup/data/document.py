"""A document: the unit that is collected, split, tokenised and evaluated."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text and where it came from.

    Attributes:
        text: the text, with `\\n` line ends and no lone surrogates.
        id: unique in its corpus, such as `poems/ode.txt#3`.
        group: what the split may not tear apart (a file, a module, a region of a long text).
        source: the source it was read from, such as `shakespeare` or a path.
        license: the licence of the text, `unknown` where the source does not say.
        split: the split that the source itself prescribes (`train`, `validation`, `test`), or empty to let the
            corpus choose by group.
    """

    text: str
    id: str
    group: str
    source: str
    license: str = "unknown"
    split: str = ""

    @property
    def num_bytes(self) -> int:
        """Length of the text in UTF-8 bytes."""
        return len(self.text.encode("utf-8"))


def normalize_text(text: str, *, nfc: bool = False) -> str:
    """Return `text` with `\\n` line ends, without a byte order mark, and with lone surrogates as U+FFFD.

    Args:
        text: any Python string.
        nfc: also compose characters (Unicode NFC); off by default, since it changes what the user wrote.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    # A lone surrogate (JSON can carry one) has no UTF-8 form; the tokenizer would replace it in the same way.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", text) if nfc else text
