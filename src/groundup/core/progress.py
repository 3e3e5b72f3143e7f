"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (things done, all things).
Progress = Callable[[int, int], None]
