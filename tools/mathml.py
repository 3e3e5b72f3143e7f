"""Markdown extension of the documentation: formulas become MathML, which browsers draw without a script or a network.

`pymdownx.arithmatex` finds the formulas; this replaces what it leaves (TeX for a script) by MathML.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.postprocessors import Postprocessor

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def formulas_to_mathml(page: str) -> str:
    """Replace each formula in a page's HTML; a formula that cannot be converted ends the build with its text."""

    def replace(match: re.Match[str]) -> str:
        tex = html.unescape(match[2])
        try:
            return str(convert(tex, display="block" if match[1] == "div" else "inline"))
        except Exception as error:
            raise ValueError(f"the formula {tex.strip()!r} cannot be converted: {error!r}") from error

    return _FORMULA.sub(replace, page)


class _ToMathML(Postprocessor):
    def run(self, text: str) -> str:
        return formulas_to_mathml(text)


class MathML(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        # After "raw_html" (priority 30), which puts the blocks of arithmatex back into the page.
        md.postprocessors.register(_ToMathML(md), "mathml", 1)


def makeExtension(**settings: Any) -> MathML:
    return MathML(**settings)
