"""Run a notebook without jupyter: its code cells in order, in one namespace."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def code_cells(path: Path) -> list[str]:
    """The sources of a notebook's code cells.

    Raises:
        ValueError: for what is no notebook of format 4, or holds a magic line, which is no Python.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if notebook.get("nbformat") != 4:
        raise ValueError(f"{path.name} is no notebook of format 4")
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        for line in cell.splitlines():
            if line.lstrip().startswith(("%", "!")):
                raise ValueError(f"{path.name}, code cell {number}: {line!r} is no Python")
    return cells


def run_notebook(path: Path, changes: Mapping[str, str] | None = None) -> tuple[dict[str, Any], str]:
    """Run all code cells.

    Args:
        path: of the notebook.
        changes: lines (or their beginnings) and what stands in their place; what a notebook does not have is no error.

    Returns:
        the namespace that they leave, and what they printed.

    Raises:
        AssertionError: naming the cell, from what it raised.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = io.StringIO()
    for number, cell in enumerate(code_cells(path), start=1):
        try:
            for line, other in (changes or {}).items():
                cell = cell.replace(line, other)
            with redirect_stdout(printed):
                exec(compile(cell, f"{path.name}[{number}]", "exec"), namespace)
        except Exception as error:
            raise AssertionError(f"{path.name}, code cell {number}: {type(error).__name__}: {error}") from error
    return namespace, printed.getvalue()
