"""A page taken apart, and what every page of ours must be."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from groundup.recipes.report import write_report

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """A page taken apart: balanced or not, its elements, ids, references and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.problems: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        if self.open:
            self.problems.append(f"never closed: {self.open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self.open[-3:]} at {self.getpos()}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def assert_sound(page: Page) -> None:
    """Balanced tags, unique ids, every reference leads somewhere on the page, no script, nothing from elsewhere."""
    assert page.problems == []
    assert len(page.ids) == len(set(page.ids))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "img", "form", "base", "foreignobject", "animate"}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "action", "xlink:href"):
                assert value == "data:," or (value or "").removeprefix("#") in page.ids, (tag, name, value)
            for target in re.findall(r"url\(([^)]*)\)", value or ""):
                assert target.removeprefix("#") in page.ids, (tag, name, value)
