"""Files of conversations: the three schemas, and what is said about files that have none of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from groundup.core.errors import DataError
from groundup.data.chat_files import read_conversations

HELLO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_schemas_can_be_mixed(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "chat.jsonl",
        {"messages": [{"role": "system", "content": "Be kind."}, *HELLO], "id": 7},
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": HELLO[:1], "completion": HELLO[1:]},
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "Say hi.", "input": "", "output": "Hi.\r\n"},
        {"instruction": "Say ho.", "output": "Ho."},
    )
    assert read_conversations(path) == [
        [{"role": "system", "content": "Be kind."}, *HELLO],
        [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
        HELLO,
        [{"role": "user", "content": "Add.\n\n1 and 2"}, {"role": "assistant", "content": "3"}],
        [{"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hi.\n"}],
        [{"role": "user", "content": "Say ho."}, {"role": "assistant", "content": "Ho."}],
    ]


def test_json_and_gzip_hold_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"messages": HELLO}] * 2))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((json.dumps({"messages": HELLO}) + "\n\n").encode() * 2))
    assert read_conversations(tmp_path / "a.json") == read_conversations(tmp_path / "b.jsonl.gz") == [HELLO] * 2


def test_real_instruction_records(shared_data: Path) -> None:
    path = shared_data / "instructions" / "instruction-data.json"
    found = read_conversations(path)
    assert len(found) == 1100 == len(json.loads(path.read_text()))
    assert found[0][0]["content"].endswith("\n\nfreind --> friend")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"question": "a", "answer": "b"},
            r"line 2 has the keys 'question', 'answer': a conversation is \{\"messages\"",
        ),
        ({}, r"line 2 has the keys of no schema \(none\)"),
        ([1], "line 2 holds a JSON array, an object is needed"),
        ({"messages": []}, r"line 2: messages must be a list with at least one message, it is \[\]"),
        ({"messages": "Hi"}, 'it is "Hi"'),
        ({"messages": [{"from": "human", "value": "x"}]}, "message 1 must have 'role' and 'content', it is {\"from\""),
        (
            {"messages": [{"role": "bot", "content": "x"}]},
            'message 1 has the role "bot": use system, user, assistant',
        ),
        ({"messages": [{"role": "user", "content": None}]}, "message 1: 'content' must be a string, it is null"),
        ({"messages": [*HELLO, {"role": "system", "content": "x"}]}, "message 3 is a system message"),
        ({"messages": HELLO[:1]}, "line 2 has no assistant turn with content"),
        ({"prompt": "a", "completion": " "}, "line 2 has no assistant turn with content"),
        ({"prompt": 3, "completion": "b"}, "'prompt' must be a string, it is 3"),
        ({"instruction": "a", "input": 5, "output": "b"}, "'input' must be a string, it is 5"),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(tmp_path: Path, record: Any, message: str) -> None:
    path = lines(tmp_path / "chat.jsonl", {"messages": HELLO}, record)
    with pytest.raises(DataError, match=rf"chat\.jsonl, .*{message}"):
        read_conversations(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl does not exist"):
        read_conversations(tmp_path / "none.jsonl")
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(DataError, match=r"a\.csv: conversations are read from \.jsonl, \.jsonl\.gz or \.json"):
        read_conversations(tmp_path / "a.csv")
    for name in ("empty.jsonl", "empty.json"):
        (tmp_path / name).write_text("\n")
        with pytest.raises(DataError, match=rf"{name} is empty: there is no conversation"):
            read_conversations(tmp_path / name)
    (tmp_path / "one.json").write_text('{"messages": []}')
    with pytest.raises(DataError, match="holds a JSON object with the keys 'messages': an array of records is needed"):
        read_conversations(tmp_path / "one.json")
    (tmp_path / "bad.json").write_text('[\n{"a": }]')
    with pytest.raises(DataError, match=r"bad\.json is not JSON: Expecting value at line 2, column 7"):
        read_conversations(tmp_path / "bad.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"deep\.json is not JSON that can be read"):
        read_conversations(tmp_path / "deep.json")
    (tmp_path / "bad.jsonl").write_text('{"messages": []\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 1 is not JSON: Expecting ',' delimiter"):
        read_conversations(tmp_path / "bad.jsonl")
