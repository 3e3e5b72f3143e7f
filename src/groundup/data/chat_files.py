"""Files of conversations in the three schemas that are in use, as lists of messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundup.core.errors import DataError
from groundup.data.document import normalize_text
from groundup.data.readers import json_type, read_records, read_text

#: A message: its `role` and its `content`.
Message = dict[str, str]

ROLES = ("system", "user", "assistant")
SCHEMAS = (
    '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}, '
    '{"prompt": ..., "completion": ...} or {"instruction": ..., "input": ..., "output": ...}'
)


def read_conversations(path: Path) -> list[list[Message]]:
    """Read the conversations of a `.jsonl`, `.jsonl.gz` or `.json` file (an array of records).

    A record is one of: `messages` (TRL's conversational form); `prompt` and `completion` (two strings, or two lists of
    messages); `instruction`, optional `input`, and `output` (Alpaca's form, in which the input follows the instruction
    after a blank line). The kinds may be mixed.

    Returns:
        for each record its messages in order; each has at least one assistant turn with content.

    Raises:
        DataError: with file, line (or record) number, and the keys or values that do not fit.
    """
    conversations = [_messages(record, where) for where, record in _records(path)]
    if not conversations:
        raise DataError(f"{path} is empty: there is no conversation in it")
    return conversations


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        for number, record in read_records(path):
            yield f"{path}, line {number}", record
        return
    if not name.endswith(".json"):
        raise DataError(f"{path}: conversations are read from .jsonl, .jsonl.gz or .json files")
    text = read_text(path)
    if not text.strip():
        return
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON that can be read: {error}") from None
    if not isinstance(records, list):
        keys = f" with the keys {', '.join(map(repr, records))}" if isinstance(records, dict) else ""
        raise DataError(f"{path} holds a JSON {json_type(records)}{keys}: an array of records is needed")
    for number, record in enumerate(records, 1):
        yield f"{path}, record {number}", record


def _messages(record: Any, where: str) -> list[Message]:
    if not isinstance(record, dict):
        raise DataError(f"{where} holds a JSON {json_type(record)}, an object is needed: {SCHEMAS}")
    if "messages" in record:
        messages = _checked(record["messages"], where)
    elif "prompt" in record and "completion" in record:
        messages = _turns(record, "prompt", "user", where) + _turns(record, "completion", "assistant", where)
    elif "instruction" in record and "output" in record:
        asked = _string(record, "instruction", where)
        given = _string(record, "input", where) if record.get("input") is not None else ""
        messages = [
            {"role": "user", "content": f"{asked}\n\n{given}" if given else asked},
            {"role": "assistant", "content": _string(record, "output", where)},
        ]
    else:
        raise DataError(
            f"{where} has the keys {', '.join(map(repr, record)) or 'of no schema (none)'}: a conversation is {SCHEMAS}"
        )
    if not any(message["role"] == "assistant" and message["content"].strip() for message in messages):
        raise DataError(f"{where} has no assistant turn with content: there is nothing to learn from it")
    return messages


def _turns(record: dict[str, Any], key: str, role: str, where: str) -> list[Message]:
    if isinstance(record[key], list):
        return _checked(record[key], where)
    return [{"role": role, "content": _string(record, key, where)}]


def _checked(value: Any, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: messages must be a list with at least one message, it is {_short(value)}")
    messages = []
    for number, item in enumerate(value, 1):
        if not isinstance(item, dict) or "role" not in item or "content" not in item:
            raise DataError(f"{where}, message {number} must have 'role' and 'content', it is {_short(item)}")
        if item["role"] not in ROLES:
            raise DataError(f"{where}, message {number} has the role {_short(item['role'])}: use {', '.join(ROLES)}")
        if item["role"] == "system" and number > 1:
            raise DataError(f"{where}, message {number} is a system message: only the first message can be one")
        messages.append({"role": str(item["role"]), "content": _string(item, "content", f"{where}, message {number}")})
    return messages


def _string(record: dict[str, Any], key: str, where: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise DataError(f"{where}: {key!r} must be a string, it is {_short(value)}")
    return normalize_text(value)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
