"""Ctrl-C and SIGTERM as a request to stop at the next safe point."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from groundup.core.errors import Interrupted


class StopRequest:
    """Set by the first signal; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self._at_once: str | None = None

    def check(self, message: str) -> None:
        """Raise Interrupted with `message` when a stop was requested."""
        if self.requested:
            raise Interrupted(message)

    @contextmanager
    def at_once(self, message: str) -> Iterator[None]:
        """While inside, the first signal raises Interrupted with `message`: for work that has no safe point."""
        self._at_once = message
        try:
            yield
        finally:
            self._at_once = None

    def signalled(self, number: int) -> None:
        """What a signal does."""
        if self._at_once is not None:
            raise Interrupted(self._at_once)
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        # Not through the console: its bar may be half way through a line in this very thread.
        os.write(2, b"\nstopping at the next safe point (Ctrl-C once more: at once)\n")


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """While inside, SIGINT and SIGTERM set the request instead of killing; outside, the old handlers are back.

    In a thread other than the main one no handler can be set; the request then stays unset.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        request.signalled(number)

    old: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
