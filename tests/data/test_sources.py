"""Sources: what is read, how it is cut, and the words for everything that cannot be read."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import DataError
from groundup.data.corpus import find_leaks, write_corpus
from groundup.data.sources import cut_into_documents, cut_text, find_files, read_source, require_enough


def prose(paragraphs: int, seed: str = "x") -> str:
    return "\n\n".join(f"{seed} paragraph {n}: " + f"word{n} " * 30 for n in range(paragraphs)) + "\n"


def test_a_folder_of_mixed_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.MD").write_text("# Two\r\n\r\nwords")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone")
    (tmp_path / "b" / "three.html").write_text("<head><title>no</title></head><p>three</p>")
    (tmp_path / "four.jsonl").write_text(
        '{"text": "four", "license": "MIT"}\n\n{"text": "five\\u2028six"}\n{"text": " "}\n'
    )
    (tmp_path / "seven.jsonl.gz").write_bytes(gzip.compress(b'{"text": "seven"}'))
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hidden.txt").write_text("hidden")
    found = [(d.id, d.text, d.group, d.source, d.license) for d in read_source(str(tmp_path))]
    assert found == [
        ("a.txt", "one", "a.txt", "a.txt", "unknown"),
        ("b/three.html", "three", "b/three.html", "b/three.html", "unknown"),
        ("b/two.MD", "# Two\n\nwords", "b/two.MD", "b/two.MD", "unknown"),
        ("four.jsonl:1", "four", "four.jsonl:1", "four.jsonl", "MIT"),
        ("four.jsonl:3", "five\u2028six", "four.jsonl:3", "four.jsonl", "unknown"),
        ("seven.jsonl.gz:1", "seven", "seven.jsonl.gz:1", "seven.jsonl.gz", "unknown"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("Grüße, 世界 😀\n".encode(encoding))
    assert read_source(str(tmp_path / "a.txt"))[0].text == "Grüße, 世界 😀"
    (tmp_path / "b.jsonl").write_bytes('{"text": "é"}\n{"text": "世"}\n'.encode(encoding))
    assert [d.text for d in read_source(str(tmp_path / "b.jsonl"))] == ["é", "世"]


def test_html_may_declare_its_encoding(tmp_path: Path) -> None:
    page = "<html><head><meta charset='iso-8859-1'></head><p>caf\xe9 \x93quoted\x94</p>"
    (tmp_path / "a.html").write_bytes(page.encode("latin-1"))
    assert read_source(str(tmp_path / "a.html"))[0].text == "café “quoted”"
    (tmp_path / "b.html").write_bytes(page.replace("iso-8859-1", "no-such-code").encode("latin-1"))
    with pytest.raises(DataError, match=r"b\.html is not UTF-8: byte 0xE9 at offset"):
        read_source(str(tmp_path / "b.html"))


def test_many_files_are_a_document_and_a_group_each(tmp_path: Path) -> None:
    for number in range(24):
        (tmp_path / f"{number:02}.txt").write_text(prose(20, str(number)))
    found = read_source(str(tmp_path))
    assert [(d.id, d.group) for d in found] == [(f"{n:02}.txt", f"{n:02}.txt") for n in range(24)]
    # A file that outweighs the rest is cut, or a 5 % split could not be had.
    (tmp_path / "00.txt").write_text(prose(1000, "big"))
    found = read_source(str(tmp_path))
    big = [d for d in found if d.source == "00.txt"]
    assert len({d.group for d in big}) > 15 and len(found) == 23 + len(big)


def test_one_long_file_becomes_contiguous_regions(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(prose(2000))
    found = read_source(str(tmp_path / "book.txt"))
    groups = [d.group for d in found]
    assert len(set(groups)) == 40
    assert groups == sorted(groups, key=lambda group: int(group.removeprefix("book.txt#region")))
    assert "".join("".join(d.text.split()) for d in found) == "".join(prose(2000).split())
    assert all(1000 < len(d.text) <= 6000 and d.text.startswith("x paragraph") for d in found)
    corpus = write_corpus(found, tmp_path / "corpus")
    assert find_leaks(corpus) == []
    ids = [int(d.id.partition("#")[2]) for d in corpus.documents("test")]
    regions = corpus.manifest["splits"]["test"]["groups"]
    assert sum(b - a != 1 for a, b in itertools.pairwise(ids)) < regions, "whole regions, not scattered pieces"


def test_few_files_share_the_regions_by_size(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(prose(1500))
    (tmp_path / "short.txt").write_text(prose(500, "y"))
    (tmp_path / "tiny.txt").write_text("A line.")
    groups: dict[str, set[str]] = {}
    for document in read_source(str(tmp_path)):
        groups.setdefault(document.source, set()).add(document.group)
    assert {name: len(found) for name, found in groups.items()} == {"long.txt": 30, "short.txt": 10, "tiny.txt": 1}


@settings(deadline=None, max_examples=150)
@given(
    text=st.lists(st.sampled_from(["word", " ", "\n", "\n\n", "\n \n", "x" * 50, "é", "\t"]), max_size=200).map(
        "".join
    ),
    target=st.integers(1, 80),
)
def test_cutting_loses_only_blank_lines(text: str, target: int) -> None:
    pieces = cut_text(text, target)
    assert "".join("".join(piece.split()) for piece in pieces) == "".join(text.split())
    assert all(0 < len(piece) <= 2 * target and piece.strip() for piece in pieces)
    joined = "\n".join(pieces).split("\n")
    if all(len(line) <= target // 2 for line in text.split("\n")):
        assert [line for line in joined if line.strip()] == [line for line in text.split("\n") if line.strip()]
    documents = cut_into_documents(text, "t", total=max(1, len(text)))
    assert len({d.id for d in documents}) == len(documents)
    assert len({d.group for d in documents}) <= 40


def test_shakespeare_from_a_mirror_folder(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path))
    monkeypatch.setenv("GROUNDUP_MIRROR", str(shared_data))
    found = read_source("shakespeare")
    text = (shared_data / "shakespeare" / "input.txt").read_text()
    assert "".join("".join(d.text.split()) for d in found) == "".join(text.split())
    shares = {s: sum(len(d.text) for d in found if d.split == s) / len(text) for s in ("train", "validation", "test")}
    assert shares["train"] == pytest.approx(0.9, abs=0.005) and shares["test"] == pytest.approx(0.05, abs=0.005)
    order = [d.split for d in found]
    assert order == sorted(order, key=["train", "validation", "test"].index), "each split is contiguous"
    assert find_leaks(write_corpus(found, tmp_path / "corpus")) == []


def test_the_languages_of_udhr(shared_data: Path) -> None:
    found = read_source(str(shared_data / "udhr"))
    assert len(found) == len(list((shared_data / "udhr").glob("*.txt"))) == len({d.group for d in found})


# What cannot be read


def fails(source: Path | str, message: str, **options: Any) -> None:
    with pytest.raises(DataError, match=message):
        read_source(str(source), **options)


def test_missing_paths_suggest_a_name(tmp_path: Path) -> None:
    fails(
        "shakespear",
        r"the source 'shakespear' is neither a file, a folder nor a named source \(did you mean 'shakespeare'\?\)",
    )
    fails(tmp_path / "no" / "where.txt", r"where\.txt' is neither .* \(known: .*shakespeare\)")
    (tmp_path / "a.txt").write_text("x")
    fails(tmp_path / "a.txt" / "b.txt", "is neither a file")


def test_empty_sources(tmp_path: Path) -> None:
    for name, content in (
        ("a.txt", ""),
        ("b.md", " \n\n"),
        ("c.html", "<head><title>x</title></head>"),
        ("d.jsonl", "\n"),
    ):
        (tmp_path / name).write_text(content)
        fails(tmp_path / name, rf"{name} is empty: there is no text in it")
    fails(tmp_path, r"is empty of text: its 4 supported file\(s\) hold none")
    (tmp_path / "none").mkdir()
    fails(tmp_path / "none", r"none has no \.txt, \.md, \.html, \.jsonl, \.jsonl\.gz file: it holds nothing")
    for name in ("a.pdf", "b.PDF", "c.csv", "README"):
        (tmp_path / "none" / name).write_text("x")
    fails(tmp_path / "none", r"it holds 2 \.pdf, 1 \.csv, 1 without ending")
    fails(tmp_path / "none" / "a.pdf", r"a\.pdf has an ending that is not supported: use \.txt, \.md, ")


def test_empty_files_of_a_folder_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_text("")
    with caplog.at_level(logging.WARNING, "groundup"):
        assert len(read_source(str(tmp_path))) == 1
    assert "left out 1 files without text" in caplog.text


def test_binary_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"some text" + bytes([0, 255]) * 3)
    fails(path, r"a\.txt is binary, not text: it has byte 0x00 at offset 9")
    path.write_bytes(bytes(range(1, 32)) * 10)
    fails(path, r"is binary, not text: 250 of its first 310 bytes are control characters")
    path.write_bytes(os.urandom(5000))
    fails(path, r"is binary, not text|is not UTF-8")
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(b"{}"))
    fails(tmp_path / "b.jsonl", r"b\.jsonl is binary, not text|b\.jsonl is not UTF-8: byte 0x8B at offset 1")


def test_wrong_encoding_names_the_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Zürich".encode("latin-1"))
    fails(
        path,
        r"a\.txt is not UTF-8: byte 0xFC at offset 1 cannot be decoded\. Convert it to UTF-8, .*iconv -f WINDOWS-1252",
    )
    path.write_bytes("plain words".encode("utf-16-le"))
    fails(path, r"looks like UTF-16LE without a byte order mark .*iconv -f UTF-16LE -t UTF-8 a\.txt")
    path.write_bytes("plain words".encode("utf-16-be"))
    fails(path, r"looks like UTF-16BE")
    path.write_bytes("words".encode("utf-16") + b"x")
    fails(path, r"begins with the mark of UTF-16, but byte 12 does not fit: the file is damaged")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n')
    fails(tmp_path / "b.jsonl", r"b\.jsonl is not UTF-8: byte 0xE9 at offset 30")


def test_json_lines_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ok"}\n{"body": "x", "title": "y"}\n')
    fails(path, r"a\.jsonl, line 2 has no key 'text'; its keys are 'body', 'title': .*--corpus.text-key")
    fails(path, r"line 1 has no key 'body'; its keys are 'text'", text_key="body")
    path.write_text('{"text": "ok"}\n\n{"text": "cut')
    fails(
        path,
        r"a\.jsonl, line 3 is not JSON: Unterminated string starting at at column 10.*it begins '\{\"text\": \"cut'",
    )
    path.write_text("{}\n")
    fails(path, r"line 1 has no key 'text'; its keys are none")
    path.write_text('["a"]\n')
    fails(path, "line 1 holds a JSON array, an object is needed")
    path.write_text('{"text": ["a"]}\n')
    fails(path, "line 1: 'text' holds a JSON array, a string is needed: name another key with --corpus.text-key")
    path.write_text("[" * 100_000 + "\n")
    fails(path, "line 1: JSON nested too deeply")
    path.write_text(json.dumps({"x": "a"}) + "\n" + json.dumps({"x": "b"}))
    assert [d.text for d in read_source(str(path), text_key="x")] == ["a", "b"]


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "some words"}\n' * 500)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    fails(path, r"a\.jsonl\.gz is not a complete gzip file .*it is truncated or damaged")
    wrong = bytearray(whole)
    wrong[len(wrong) // 2] ^= 0xFF
    path.write_bytes(wrong)
    fails(path, r"a\.jsonl\.gz (is not a complete gzip file|is binary|is not UTF-8|, line)|a\.jsonl\.gz, line")
    path.write_text('{"text": "not compressed"}\n')
    fails(path, r"is not a complete gzip file \(Not a gzipped file")
    path.write_bytes(b"")
    fails(path, "is empty: there is no text in it")


def test_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")

    def refuse(self: Path, *_args: Any, **_options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        fails(path, r"a\.txt cannot be read: permission denied\. Change its permissions")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        fails(path, r"a\.txt cannot be read: permission denied")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda name: refuse(Path(name)))
        fails(tmp_path, r"cannot be read: permission denied")
    (tmp_path / "b.jsonl").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *_a, **_o: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        fails(tmp_path / "b.jsonl", r"b\.jsonl cannot be read: Input/output error")


def test_links_that_lead_round_in_circles_end(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a.txt").write_text("text")
    (inside / "up").symlink_to(tmp_path, target_is_directory=True)
    (inside / "self").symlink_to(inside / "self")
    (inside / "gone.txt").symlink_to(tmp_path / "missing.txt")
    (tmp_path / "again.txt").symlink_to(inside / "a.txt")
    (tmp_path / "round.txt").symlink_to(tmp_path / "round.txt")
    assert [path.name for path in find_files(tmp_path)] == ["again.txt"], "one real file, found once"
    fails(tmp_path / "round.txt", "round.txt")
    outside = tmp_path / "link"
    outside.symlink_to(inside, target_is_directory=True)
    assert [path.name for path in find_files(outside)] == ["a.txt"] or len(find_files(outside)) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    fails(tmp_path / "pipe.txt", r"pipe\.txt is neither a regular file nor a folder")
    (tmp_path / "a.txt").write_text("text")
    assert [d.id for d in read_source(str(tmp_path))] == ["a.txt"]


def test_too_little_text_says_how_much_is_needed() -> None:
    require_enough(500, 500)
    with pytest.raises(
        DataError,
        match=r"there is 12\.3 KB of text, and depth 4 \(3\.1M parameters\) needs at least 500 KB: add 488 KB or choose a smaller",
    ):
        require_enough(12_300, 500_000, purpose="depth 4 (3.1M parameters)")
