"""Two tasks for `seq2seq.py` that make their own examples: a word turned round, and a date as people write it into ISO 8601."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from groundup.core.errors import UsageError

#: What is read, and what should be written.
Example: TypeAlias = tuple[str, str]
ExampleMaker: TypeAlias = Callable[[np.random.Generator], Example]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DATE_CHARACTERS = LETTERS + "0123456789 .,-"
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]  # no locale
_WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_FIRST, _LAST = datetime.date(1900, 1, 1).toordinal(), datetime.date(2099, 12, 31).toordinal()


def reversal(shortest: int, longest: int) -> ExampleMaker:
    """Random letters, and the same from the last to the first.

    Args:
        shortest, longest: of their number, each as likely.
    """
    if not 1 <= shortest <= longest:
        raise UsageError(f"words of {shortest} to {longest} letters: from at least 1, up to as many or more")

    def make(random: np.random.Generator) -> Example:
        places = random.integers(len(LETTERS), size=random.integers(shortest, longest + 1))
        word = "".join(LETTERS[place] for place in places)
        return word, word[::-1]

    return make


def date(random: np.random.Generator) -> Example:
    """A day of the years 1900 to 2099 in one of five ways, and as YYYY-MM-DD."""
    day = datetime.date.fromordinal(int(random.integers(_FIRST, _LAST + 1)))
    month = _MONTHS[day.month - 1]
    ways = (
        f"{day.day} {month} {day.year}",
        f"{month} {day.day}, {day.year}",
        f"{day.day} {month[:3]} {day.year}",
        f"{day.day}.{day.month}.{day.year}",
        f"{_WEEKDAYS[day.weekday()]}, {day.day} {month} {day.year}",
    )
    return ways[int(random.integers(len(ways)))], day.isoformat()
