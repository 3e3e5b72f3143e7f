"""Tokens that are found whole in a text: the special ones, and what a file lists beside the ordinary vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from groundup.core.errors import TokenizerError

#: On which sides of a token the whitespace belongs to it.
Side = Literal["left", "right", "both"]

#: Unicode's White_Space: what `\s` means to `regex` and to `tokenizers` (`str.strip` takes U+001C to U+001F too).
WHITESPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

# Looking for a name takes time for each length that names have; a hostile file could list all of them.
_LONGEST_NAME = 1024


class AddedTokens:
    """The tokens of a tokenizer that are matched whole, before anything else happens to a text.

    Args:
        special: text and id of each special token; they are matched only where the caller allows it.
        others: text and id of tokens that are matched in every text though they are not special (Qwen's `<think>`).
        strips: tokens that take the whitespace on one or both of their sides with them (Phi-3's `<|user|>`).

    Raises:
        TokenizerError: for an empty, repeated or malformed text.
    """

    def __init__(self, special: Mapping[str, int], others: Mapping[str, int], strips: Mapping[str, Side]) -> None:
        check_special_tokens([*special, *others])
        self.special = dict(special)
        self.others = dict(others)
        self.ids = {**self.others, **self.special}
        self.known_ids = frozenset(self.ids.values())
        self.strips = {name: side for name, side in strips.items() if name in self.ids}
        self._strips_left = {name for name, side in self.strips.items() if side in ("left", "both")}
        self._strips_right = {self.ids[name] for name, side in self.strips.items() if side in ("right", "both")}
        self._all = _Matcher(self.ids)
        self._others = _Matcher(self.others)

    def split(self, text: str, *, allow_special: bool, after: int | None) -> Iterator[str | int]:
        """Cut a text at the added tokens, the leftmost first, among those the longest.

        Args:
            text: Unicode scalar values only.
            allow_special: match the special tokens too.
            after: the id before the text, if any.

        Yields:
            The ids of the tokens, and what stands between them where that is not empty.
        """
        start = 0
        for place, name in [*(self._all if allow_special else self._others).find(text), (len(text), "")]:
            part = text[start:place]
            start = place + len(name)
            if after in self._strips_right:
                part = part.lstrip(WHITESPACE)
            if name in self._strips_left:
                part = part.rstrip(WHITESPACE)
            if part:
                yield part
            if name:
                after = self.ids[name]
                yield after


class _Matcher:
    """Finds names in a text, the leftmost first and of those the longest.

    An alternation of all names would do the same; but some files list thousands of them, and a hostile one more.

    Args:
        names: what to look for.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        lengths: dict[str, set[int]] = {}
        for name in self._names:
            lengths.setdefault(name[:2], set()).add(len(name))
        self._lengths = {head: sorted(found, reverse=True) for head, found in lengths.items()}
        self._first = frozenset(name[0] for name in self._names)

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield the place and the text of each name found."""
        if not self._names:
            return
        end = 0
        for place in [place for place, character in enumerate(text) if character in self._first]:
            if place < end:
                continue
            for head in (text[place : place + 2], text[place]):
                length = next((n for n in self._lengths.get(head, ()) if text[place : place + n] in self._names), 0)
                if length:
                    end = place + length
                    yield place, text[place:end]
                    break


def check_special_tokens(names: Sequence[str]) -> None:
    """Refuse special tokens that could not be told apart.

    Raises:
        TokenizerError: for an empty, repeated or very long name, or one with a lone surrogate.
    """
    known: set[str] = set()
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise TokenizerError(f"special token {index} is {name!r}: it must be a non-empty string")
        if len(name) > _LONGEST_NAME:
            raise TokenizerError(f"special token {name[:40]!r}... has {len(name)} characters: at most {_LONGEST_NAME}")
        if replace_surrogates(name) != name:
            raise TokenizerError(f"special token {name!r} holds a surrogate: use Unicode scalar values")
        if name in known:
            raise TokenizerError(f"special token {name!r} is given twice")
        known.add(name)


def replace_surrogates(text: str) -> str:
    """Return `text` as Unicode scalar values: a surrogate pair becomes its character, a lone one U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
