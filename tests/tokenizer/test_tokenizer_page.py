"""What docs/concepts/tokenizer.md names exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "tokenizer.md"


def test_the_symbols_named_on_the_page_are_there() -> None:
    symbols = re.findall(r"`(groundup\.[\w.]+)`", PAGE.read_text(encoding="utf-8"))
    assert len(symbols) > 8
    for symbol in symbols:
        module, _, name = symbol.rpartition(".")
        try:
            importlib.import_module(symbol)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), name), symbol
