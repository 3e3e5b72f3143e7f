"""The report of a run: the JSON files of its folder become one self-contained page.

`write.py` is the entry; `folder.py` reads, `words.py` puts numbers into words, `charts.py` draws, `training.py`,
`results.py` and `commands.py` prepare the sections, and `page.html.j2` with `style.css` is the page.
"""

from __future__ import annotations

from groundup.recipes.report.write import write_report

__all__ = ["write_report"]
