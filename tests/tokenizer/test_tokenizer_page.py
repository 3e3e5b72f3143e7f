"""The examples of the pages on tokenizers give what they print."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "concepts"
PAGES = pytest.mark.parametrize(("page", "least"), [("tokenizer.md", 10), ("tokenizer-schools.md", 9)])


@PAGES
def test_the_examples_give_what_is_printed(page: str, least: int) -> None:
    result = doctest.testfile(str(FOLDER / page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > least
    assert result.failed == 0


@PAGES
def test_the_symbols_named_on_the_page_are_there(page: str, least: int) -> None:
    del least
    symbols = re.findall(r"`(groundup\.[\w.]+)`", (FOLDER / page).read_text(encoding="utf-8"))
    assert len(symbols) > 8
    for symbol in symbols:
        module, _, name = symbol.rpartition(".")
        try:
            importlib.import_module(symbol)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), name), symbol
