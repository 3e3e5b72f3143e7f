"""The embedded corpus: complete, disjoint by family, and read without importing anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from groundup.data import python_docs
from groundup.data.corpus import find_leaks, write_corpus
from groundup.data.python_docs import read_entries


@pytest.fixture(scope="module")
def entries() -> list[python_docs.Entry]:
    return read_entries()


def test_it_holds_about_two_megabytes_and_thousands_of_functions(entries: list[python_docs.Entry]) -> None:
    documents = python_docs.python_docs()
    assert sum(document.num_bytes for document in documents) > 1_000_000
    assert sum(entry.kind == "function" for entry in entries) > 3_000
    assert len({document.id for document in documents}) == len(documents)
    assert {document.license for document in documents} == {"PSF-2.0"}


def test_a_known_entry_is_as_in_the_source(entries: list[python_docs.Entry]) -> None:
    entry = next(entry for entry in entries if entry.full_name == "textwrap.dedent")
    assert entry.signature == "dedent(text)"
    assert entry.parameters == (("text", None),)
    assert entry.text.startswith("textwrap.dedent(text)\n\nRemove any common leading whitespace")


def test_signatures_keep_defaults_and_drop_the_bound_argument(entries: list[python_docs.Entry]) -> None:
    entry = next(entry for entry in entries if entry.full_name == "queue.Queue.get")
    assert entry.parameters == (("block", "True"), ("timeout", "None"))


def test_no_passage_is_in_two_splits(tmp_path: Path) -> None:
    corpus = write_corpus(python_docs.python_docs(), tmp_path, validation_fraction=0.04, test_fraction=0.08, seed=0)
    assert find_leaks(corpus) == []


def test_modules_that_share_text_are_one_group() -> None:
    groups = {document.id: document.group for document in python_docs.python_docs()}
    assert groups["pdb"] == groups["topic:debugger"]


def test_nothing_of_the_library_is_imported_or_run() -> None:
    code = (
        "import sys; from groundup.data.python_docs import python_docs; before = set(sys.modules); python_docs();"
        "print(sorted(m for m in set(sys.modules) - before if m in ('tkinter', 'turtle', 'antigravity', 'this')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
    assert result.stderr == ""


def test_a_python_without_sources_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(python_docs, "_standard_library", lambda: tmp_path)
    with pytest.raises(python_docs.DataError, match="carries no standard-library sources"):
        python_docs.python_docs()


def test_a_file_that_does_not_parse_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text('"""A module with a docstring of some length."""\n')
    (tmp_path / "bad.py").write_text("def broken(:\n")
    (tmp_path / "null.py").write_bytes(b"x = 1\0")
    monkeypatch.setattr(python_docs, "_standard_library", lambda: tmp_path)
    assert [entry.module for entry in read_entries()] == ["good"]
