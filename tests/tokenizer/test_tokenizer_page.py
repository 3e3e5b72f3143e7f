"""What the pages on tokenizers name exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "concepts"


@pytest.mark.parametrize("page", ["tokenizer.md", "tokenizer-schools.md"])
def test_the_symbols_named_on_the_page_are_there(page: str) -> None:
    symbols = re.findall(r"`(groundup\.[\w.]+)`", (FOLDER / page).read_text(encoding="utf-8"))
    assert len(symbols) > 8
    for symbol in symbols:
        module, _, name = symbol.rpartition(".")
        try:
            importlib.import_module(symbol)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), name), symbol
