"""What a lesson learns from: a list of words, or texts, from a SOURCE of the user's or the documentation of this Python."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from groundup.core.errors import DataError, UsageError
from groundup.data.sources import read_source

DEFAULT_SOURCE = "python-docs"
MIN_WORDS = 100
#: A list of words has one a line; a stray line of two does not make it a text.
SHARE_OF_WORD_LINES = 0.95
_WORD = re.compile(r"[^\W\d_]+")
_LENGTHS = range(2, 25)


@dataclass(frozen=True)
class Pace:
    """How long a lesson may train.

    Attributes:
        effort: times the usual number of updates.
        seed: of everything random.
    """

    effort: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.effort <= 1_000:
            raise UsageError(f"--effort {self.effort:g} is not above 0 and at most 1000: 1 is the usual training")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} is negative: use 0 or more")

    def steps(self, usual: int) -> int:
        """The number of updates in the place of the usual number."""
        return max(1, round(usual * self.effort))


class Material:
    """Reads a source when a lesson asks for it.

    Args:
        source: a named source, a file or a folder, as other commands take it; by default the documentation of this Python.

    Attributes:
        is_given: whether the user named it.
    """

    def __init__(self, source: str | None = None) -> None:
        self.source, self.is_given = source or DEFAULT_SOURCE, source is not None

    @cached_property
    def _texts(self) -> list[str]:
        return [document.text for document in read_source(self.source)]

    def texts(self) -> list[str]:
        """The documents of the source."""
        return self._texts

    def words(self) -> list[str]:
        """Words in lower case, such as first names.

        A source of one word a line is taken line by line, with what repeats: a list says by that what is frequent. From any other
        text come the different words of letters alone, of 2 to 24, that
        occur at least twice (what occurs once is often a slip or a name made up of others), in the order of their first use.

        Raises:
            DataError: where there are fewer than 100 of them.
        """
        lines = [line.strip().lower() for text in self._texts for line in text.split("\n") if line.strip()]
        single = [line for line in lines if not re.search(r"\s", line) and len(line) <= max(_LENGTHS)]
        if len(single) >= SHARE_OF_WORD_LINES * len(lines):
            words = single
        else:
            counts = Counter(word for line in lines for word in _WORD.findall(line) if len(word) in _LENGTHS)
            often = [word for word, count in counts.items() if count > 1]
            words = often if len(often) >= MIN_WORDS else list(counts)
        if len(set(words)) < MIN_WORDS:
            raise DataError(
                f"{self.source} holds {len(set(words))} different words, too few to learn from: at least {MIN_WORDS} are needed"
            )
        return words

    def labelled(self) -> tuple[list[str], list[str]]:
        """Texts and their labels, from lines of a label, a tab and a text (the form of the SMS Spam Collection).

        Raises:
            DataError: naming the first line that is none, or for labels that cannot be learned.
        """
        lines = [line for text in self._texts for line in text.split("\n") if line.strip()]
        pairs = [line.split("\t", 1) for line in lines]
        for number, pair in enumerate(pairs, start=1):
            if len(pair) != 2 or not pair[0].strip() or len(pair[0]) > 40:
                raise DataError(
                    f"{self.source}, line {number} of those that hold text, is no label, tab and text: {lines[number - 1][:60]!r}"
                )
        labels = [first.strip() for first, _ in pairs]
        numbers = Counter(labels)
        if not 2 <= len(numbers) <= 50 or len(pairs) < MIN_WORDS:
            raise DataError(
                f"{self.source} holds {len(pairs)} messages of {len(numbers)} labels: at least {MIN_WORDS} of 2 to 50 labels are needed"
            )
        return [text for _, text in pairs], labels
