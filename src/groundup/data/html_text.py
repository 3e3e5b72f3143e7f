"""HTML to plain text with the standard library: paragraphs stay, navigation and scripts go."""

from __future__ import annotations

import re
from html.parser import HTMLParser


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Elements whose content is no prose.
DROPPED = _names("script style nav head template noscript svg math iframe object canvas select button")
#: Elements that may stand in a head; any other one ends it, since `</head>` may be left out.
IN_HEAD = _names("title meta link script style base noscript template")
#: Elements that end a paragraph.
PARAGRAPHS = _names(
    "p div section article main header footer aside h1 h2 h3 h4 h5 h6 ul ol dl table blockquote pre figure "
    "figcaption hr address details summary fieldset body"
)
#: Elements that end a line.
LINES = _names("li tr dt dd caption option")
CELLS = _names("td th")
VOID = _names("area base br col embed hr img input link meta param source track wbr")

_SPACE = re.compile(r"[ \t\n\r\f\v]+")
# A marked section other than CDATA (`<![if !IE]>`) makes html.parser raise.
_MARKED_SECTION = re.compile(r"<!\[(?!CDATA\[)[^>]*>?")


def html_to_text(html: str) -> str:
    """Return the prose of an HTML page: one blank line between paragraphs, one line per list item and table row.

    What stands in script, style, nav, head and the like is dropped; character references are resolved; white space
    is folded except in `<pre>`. Broken HTML never raises: an element that is not closed ends with its parent.
    """
    parser = _TextParser()
    parser.feed(_MARKED_SECTION.sub("", html))
    parser.close()
    return parser.text()


class _TextParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.dropping: list[str] = []
        self.pre = 0
        self.breaks = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if self.dropping == ["head"] and tag not in IN_HEAD:
            self.dropping.clear()
        if self.dropping:
            # Only the same element is counted, so that an unclosed one inside cannot swallow the page.
            if tag == self.dropping[0]:
                self.dropping.append(tag)
            return
        if tag in DROPPED:
            self.dropping.append(tag)
        self._border(tag)
        if tag == "pre":
            self.pre += 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.dropping:
            if tag == self.dropping[0]:
                self.dropping.pop()
            elif self.dropping[0] == "head" and tag == "html":
                self.dropping.clear()
            return
        if tag != "br":
            self._border(tag)
        if tag == "pre":
            self.pre = max(0, self.pre - 1)

    def handle_data(self, data: str) -> None:
        if self.dropping:
            return
        if self.pre:
            data = data.replace("\r\n", "\n").replace("\r", "\n")
        else:
            data = _SPACE.sub(" ", data)
            if self.breaks or not self.parts or self.parts[-1].endswith((" ", "\n")):
                data = data.removeprefix(" ")
        if data:
            if self.breaks and self.parts:
                self.parts.append("\n" * self.breaks)
            self.breaks = 0
            self.parts.append(data)

    def _border(self, tag: str) -> None:
        # Borders that meet count once: the end of one paragraph and the beginning of the next are one blank line.
        if tag in PARAGRAPHS:
            self.breaks = 2
        elif tag in LINES:
            self.breaks = max(self.breaks, 1)
        elif tag == "br":
            self.breaks = min(self.breaks + 1, 2)
        elif tag in CELLS and self.parts and not self.breaks:
            self.handle_data(" ")

    def text(self) -> str:
        text = "".join(self.parts).replace("\xa0", " ")
        lines = [line.rstrip() for line in text.split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
