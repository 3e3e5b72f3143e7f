"""Every notebook of the docs runs offline from its first cell to its last."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.project.notebooks import code_cells, run_notebook

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))
PAGES = Path(__file__).resolve().parents[2] / "docs" / "concepts"
MAX_BYTES = 200_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("source", ["pages", pytest.param("its own", marks=pytest.mark.slow)])
def test_a_notebook_runs_without_a_network(
    path: Path, source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("a notebook asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("NOTEBOOK_EFFORT", "0.01")
    monkeypatch.chdir(tmp_path)
    # The documentation of Python, its own source, takes seconds to read.
    set_ = {"SOURCE = None": f"SOURCE = {str(PAGES)!r}"} if source == "pages" else {}
    _, printed = run_notebook(path, set_)
    assert printed.strip()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_tells_what_it_does(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    assert len(code_cells(path)) >= 2


def test_there_are_notebooks() -> None:
    assert "makemore" in {path.stem for path in NOTEBOOKS}


def test_a_broken_notebook_is_named(tmp_path: Path) -> None:
    def write(*cells: str) -> Path:
        made = [{"cell_type": "code", "source": [cell]} for cell in cells]
        (tmp_path / "x.ipynb").write_text(json.dumps({"nbformat": 4, "cells": made}))
        return tmp_path / "x.ipynb"

    namespace, printed = run_notebook(write("a = 1", "print(a + 1)"))
    assert namespace["a"] == 1 and printed == "2\n"
    with pytest.raises(AssertionError, match=r"x\.ipynb, code cell 2: NameError: name 'b'"):
        run_notebook(write("a = 1", "b"))
    with pytest.raises(ValueError, match="code cell 1: '%matplotlib inline' is no Python"):
        code_cells(write("%matplotlib inline"))
    (tmp_path / "y.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="no notebook of format 4"):
        code_cells(tmp_path / "y.ipynb")
