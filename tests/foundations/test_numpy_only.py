"""The foundations stand on numpy alone."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import groundup.foundations

FILES = sorted(Path(groundup.foundations.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_imports_numpy_and_the_core_only(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    own = {name for name in imported if name.startswith(("groundup.core", "groundup.foundations"))}
    others = {name.split(".")[0] for name in imported - own}
    assert others <= {"numpy"} | sys.stdlib_module_names


def test_there_are_files() -> None:
    assert len(FILES) > 10
