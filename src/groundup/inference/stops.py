"""Stop strings in a stream of text whose pieces may cut them anywhere."""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Passes text through until a stop string is complete, and never passes on a part of one.

    The result does not depend on how the text is cut into pieces: the stop string that is complete first ends the
    text, and of several that are complete at the same character the longest.

    Args:
        stops: texts to stop at, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        self._held = ""

    def push(self, piece: str) -> str:
        """Take the next piece; return the text that can no longer become part of a stop string.

        After `found` is set, nothing more comes out.
        """
        if self.found is not None:
            return ""
        text = self._held + piece
        ends = [(start + len(stop), start, stop) for stop in self.stops if (start := text.find(stop)) >= 0]
        if ends:
            _, start, self.found = min(ends)
            self._held = ""
            return text[:start]
        held = max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """Return the text that was held back, when no stop string came of it."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
