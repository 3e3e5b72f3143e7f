"""What a lesson shows, in order: sections of text, charts, tables and numbers, which become one self-contained page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape
from matplotlib.axes import Axes

from groundup.recipes.report.charts import HEIGHT_IN, render
from groundup.recipes.report.tables import Chart, Table
from groundup.recipes.report.words import clean
from groundup.recipes.report.write import page_template


@dataclass
class Section:
    """A heading and what stands under it.

    Attributes:
        blocks: pairs of a kind (`text`, `charts`, `table`, `code`) and what it holds, in order.
    """

    title: str
    blocks: list[tuple[str, Any]] = field(default_factory=list)


class Page:
    """Gathers what a lesson shows.

    Args:
        name: of the lesson, as the command line has it.
        summary: one sentence under the title.

    Attributes:
        facts: (name, value, note): tiles at the head of the page, and lines on the terminal.
        sections: in order.
    """

    def __init__(self, name: str, summary: str) -> None:
        self.name, self.summary = name, summary
        self.facts: list[tuple[str, str, str]] = []
        self.sections: list[Section] = []
        self._num_charts = 0

    def fact(self, name: str, value: str, note: str = "") -> None:
        """A number worth a tile, with its unit in the name or the value."""
        self.facts.append((name, value, note))

    def section(self, title: str) -> None:
        """Begin a section; all that follows stands in it."""
        self.sections.append(Section(title))

    def text(self, paragraph: str) -> None:
        """A paragraph; what stands between backticks is set as code."""
        self._add("text", _with_code(paragraph))

    def chart(
        self,
        title: str,
        caption: str,
        draw: Callable[[Axes], None],
        *,
        height_in: float = HEIGHT_IN,
        left_in: float = 0.68,
        bottom_in: float = 0.42,
    ) -> None:
        """A chart; neighbours stand side by side where there is room.

        Args:
            title: what a screen reader says.
            caption: the sentence under it.
            draw: fills the axes, in the colours of `report/charts.py`.
            height_in, left_in, bottom_in: height, and what is left of the axes and below them for their labels, in inches.
        """
        self._num_charts += 1
        svg = render(f"{self.name}-{self._num_charts}", title, height_in, left_in, draw, bottom_in=bottom_in)
        self.drawing(svg, caption)

    def drawing(self, svg: Markup, caption: str) -> None:
        """An `<svg>` element that is already there, such as `draw_graph`'s."""
        blocks = self._blocks()
        if not blocks or blocks[-1][0] != "charts":
            blocks.append(("charts", []))
        blocks[-1][1].append(Chart(svg, caption))

    def table(self, table: Table) -> None:
        """A table."""
        self._add("table", table)

    def code(self, text: str) -> None:
        """Text as it stands, in a fixed width: samples, numbers, formulas."""
        self._add("code", text)

    def html(self, markup: Markup) -> None:
        """Markup that is already safe, such as spans of tokens."""
        self._add("html", markup)

    def render(self, command: str, links: list[tuple[str, str]]) -> str:
        """The page as HTML.

        Args:
            command: what wrote it.
            links: (label, place) of the code and the concept page, named at the end.
        """
        return page_template("first.html.j2").render(
            name=self.name,
            summary=self.summary,
            facts=self.facts,
            sections=self.sections,
            command=command,
            links=links,
        )

    def _add(self, kind: str, content: object) -> None:
        self._blocks().append((kind, content))

    def _blocks(self) -> list[tuple[str, Any]]:
        if not self.sections:
            raise ValueError("a section must be begun before anything is put into it")
        return self.sections[-1].blocks


def _with_code(paragraph: str) -> Markup:
    parts = re.split(r"`([^`]+)`", clean(paragraph))
    return Markup().join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )
