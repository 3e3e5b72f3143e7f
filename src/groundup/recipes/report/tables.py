"""What a section of the page is made of: tables and captioned charts."""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup

from groundup.recipes.report.folder import Record, flatten
from groundup.recipes.report.words import label, number, shorten, significant


@dataclass
class Table:
    """A table: columns of text on the left, of numbers on the right.

    Attributes:
        caption: what is seen.
        head: the columns' names; a name that begins with "#" is one of numbers (the sign is not shown).
        rows: (class of the row, cells).
    """

    caption: str
    head: tuple[str, ...]
    rows: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def add(self, *cells: str, style: str = "") -> None:
        if len(cells) != len(self.head):
            raise ValueError(f"{len(cells)} cells for {len(self.head)} columns {self.head}")
        self.rows.append((style, cells))


@dataclass(frozen=True)
class Chart:
    """A drawing and the sentence under it."""

    svg: Markup
    caption: str


def facts_table(caption: str, value: Record, *, skip: tuple[str, ...] = ()) -> Table:
    """Names and values of a JSON object, nested ones with dotted names."""
    table = Table(caption, ("name", "value"))
    for name, item in flatten({key: item for key, item in value.items() if key not in skip}):
        table.add(name, plain(item))
    return table


def plain(value: object) -> str:
    """A JSON value as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        # Not every whole number is a count: seeds and years are written as they are.
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        known = number(value)
        return "not a number" if known is None else f"{known:.6g}" if 0 < abs(known) < 1 else significant(known, 4)
    if isinstance(value, list):
        return shorten(", ".join(label(item, 80) for item in value), 400) or "none"
    return shorten(str(value), 400) if value != {} else "none"
