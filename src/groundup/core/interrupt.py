"""Ctrl-C and SIGTERM as a request to stop at the next safe point."""

from __future__ import annotations

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

    def check(self, message: str) -> None:
        """Raise Interrupted with `message` when a stop was requested."""
        if self.requested:
            raise Interrupted(message)


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
        if request.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.requested = True

    old: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
