"""Stop strings in pieces: nothing of a stop string comes out, and the cut into pieces does not matter."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.inference.stops import StopScanner

letters = st.text("ab", max_size=12)


def scan(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    scanner = StopScanner(stops)
    text = "".join(scanner.push(piece) for piece in pieces)
    return text + scanner.finish(), scanner.found


def by_hand(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition, one character more at a time."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@settings(deadline=None, max_examples=300)
@given(st.lists(letters, max_size=6), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_equals_the_definition_for_every_cut(pieces: list[str], stops: list[str]) -> None:
    expected = by_hand("".join(pieces), stops)
    assert scan(pieces, stops) == expected
    assert scan(list("".join(pieces)), stops) == expected
    assert scan(["".join(pieces)], stops) == expected


@settings(deadline=None, max_examples=200)
@given(st.lists(letters, max_size=6), st.text("ab", min_size=1, max_size=4))
def test_what_came_out_is_never_taken_back(pieces: list[str], stop: str) -> None:
    scanner, out = StopScanner([stop]), ""
    for piece in pieces:
        out += scanner.push(piece)
        assert by_hand("".join(pieces), [stop])[0].startswith(out)


def test_examples() -> None:
    assert scan(["He", "llo\nUs", "er", ": hi"], ["\nUser:"]) == ("Hello", "\nUser:")
    assert scan(["Hello\nUs", "ed"], ["\nUser:"]) == ("Hello\nUsed", None)
    # "bc" is complete before "abcd" is, however the text is cut.
    assert scan(["abcd"], ["abcd", "bc"]) == scan(["a", "b", "c", "d"], ["abcd", "bc"]) == ("a", "bc")
    assert scan(["x"], []) == ("x", None)
