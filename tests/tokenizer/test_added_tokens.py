"""Tokens that are matched whole: the longest, with the whitespace that belongs to them, as in `tokenizers`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import regex

from groundup.core.errors import TokenizerError
from groundup.tokenizer import ByteBPE, load_tokenizer
from groundup.tokenizer.added_tokens import WHITESPACE, AddedTokens

BYTES = {bytes([byte]): byte for byte in range(256)}


def split(tokens: AddedTokens, text: str, allow_special: bool = True, after: int | None = None) -> list[str | int]:
    return list(tokens.split(text, allow_special=allow_special, after=after))


def test_special_tokens_need_permission_and_others_do_not() -> None:
    tokens = AddedTokens({"<s>": 1}, {"<t>": 2}, {})
    assert split(tokens, "a<s><t>b") == ["a", 1, 2, "b"]
    assert split(tokens, "a<s><t>b", allow_special=False) == ["a<s>", 2, "b"]
    assert split(tokens, "") == []
    assert split(AddedTokens({}, {}, {}), "a<s>") == ["a<s>"]


def test_the_longest_of_those_that_begin_first() -> None:
    tokens = AddedTokens({"<a": 1, "<a>": 2, "a>b": 3}, {}, {})
    assert split(tokens, "<a>b<ac") == [2, "b", 1, "c"]


def test_odd_first_characters() -> None:
    names = ["]", "^x", "-", "\\", "[a]", " ", "é", "😀", "a-z", "&&", "||", "~~"]
    tokens = AddedTokens({name: id for id, name in enumerate(names)}, {}, {})
    for id, name in enumerate(names):
        assert split(tokens, f"0{name}1") == ["0", id, "1"]


def test_whitespace_goes_with_the_tokens_that_strip() -> None:
    tokens = AddedTokens({"<l>": 1, "<r>": 2, "<b>": 3, "<n>": 4}, {}, {"<l>": "left", "<r>": "right", "<b>": "both"})
    assert split(tokens, " x \n<l> y") == [" x", 1, " y"]
    assert split(tokens, "x <r>\u2028 \n y ") == ["x ", 2, "y "]
    assert split(tokens, "x <b> y <n> z") == ["x", 3, "y ", 4, " z"]
    assert split(tokens, "<r> <l>") == [2, 1]
    assert split(tokens, "<r>\x1cx") == [2, "\x1cx"]  # no whitespace to Unicode
    assert split(tokens, "  x", after=2) == ["x"]
    assert split(tokens, "  x", after=4) == ["  x"]
    assert split(tokens, "  <n> x", after=2) == [4, " x"]


def test_whitespace_is_that_of_the_other_libraries() -> None:
    every = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert "".join(regex.findall(r"\s", "".join(every))) == "".join(sorted(WHITESPACE))


@pytest.mark.parametrize(
    ("special", "others", "message"),
    [
        ({"": 1}, {}, r"special token 0 is ''"),
        ({"a\ud800": 1}, {}, r"'a\\ud800' holds a surrogate"),
        ({"a": 1}, {"a": 2}, r"'a' is given twice"),
        ({"b" * 1025: 1}, {}, r"'b{40}'\.\.\. has 1025 characters: at most 1024"),
    ],
)
def test_names_that_cannot_be(special: dict[str, int], others: dict[str, int], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        AddedTokens(special, others, {})


def make(flags: dict[str, dict[str, bool]]) -> tuple[ByteBPE, Any]:
    """The same byte-level tokenizer here and in `tokenizers`."""
    tokenizers = pytest.importorskip("tokenizers")
    sides: dict[tuple[bool, bool], Any] = {(True, True): "both", (True, False): "left", (False, True): "right"}
    strips = {
        name: sides[key]
        for name, flag in flags.items()
        if (key := (flag.get("lstrip", False), flag.get("rstrip", False))) in sides
    }
    special = {name: 300 + index for index, (name, flag) in enumerate(flags.items()) if flag["special"]}
    others = {name: 300 + index for index, (name, flag) in enumerate(flags.items()) if not flag["special"]}
    ours = ByteBPE(BYTES, [], special_tokens=special, added_tokens=others, strips=strips)
    return ours, tokenizers.Tokenizer.from_str(json.dumps(ours.to_json()))


def test_the_flags_do_what_they_do_in_tokenizers(tmp_path: Path) -> None:
    flags = {
        "<s>": {"special": True},
        "<s><s>": {"special": True},
        "<|user|>": {"special": True, "rstrip": True},
        "<mask>": {"special": True, "lstrip": True},
        "<both>": {"special": True, "lstrip": True, "rstrip": True},
        "<think>": {"special": False, "rstrip": True},
    }
    ours, theirs = make(flags)
    draw = random.Random(12)
    parts = [*flags, " ", "\n", "\t", "x", "é", "<", "s>", "\u3000"]
    for _ in range(1500):
        text = "".join(draw.choices(parts, k=draw.randint(1, 9)))
        ids = ours.encode(text, allow_special=True)
        assert ids == theirs.encode(text).ids, text
        assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)
    ours.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == ours.fingerprint()
    assert again.encode("<|user|>\n x", allow_special=True) == [302, ord("x")]
