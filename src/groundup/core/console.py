"""The one place that prints: messages, tables and progress with a rate and an estimated end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

# Of several processes that train together only the first reports; warnings and errors come from each.
out = Console(highlight=False, soft_wrap=True, quiet=os.environ.get("RANK", "0") != "0")
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str = "", *, to: Console = out) -> None:
    """Print one line; `text` is plain, square brackets in it are kept."""
    to.print(text, markup=False)


def heading(text: str) -> None:
    out.print(f"\n{text}", style="bold", markup=False)


def warn(text: str) -> None:
    err.print(f"warning: {text}", style="yellow", markup=False)


def fail(text: str) -> None:
    err.print(f"error: {text}", style="red", markup=False)


def stream(text: str) -> None:
    """Print a piece of streamed text at once, without a line end."""
    sys.stdout.write(text)
    sys.stdout.flush()


def table(columns: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """Print a table; the first column is flush left, the others flush right."""
    from rich.table import Table  # here and below: what most commands never show

    grid = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        grid.add_row(*row)
    out.print(grid)


def coloured(pieces: list[tuple[str, str]]) -> None:
    """Print pieces of text in their styles (rich's style names), without reading markup in them."""
    from rich.text import Text

    out.print(Text.assemble(*pieces))


def facts(rows: list[list[str]]) -> None:
    """Print pairs of name and value, aligned, without a frame."""
    width = max(len(row[0]) for row in rows)
    for name, value in rows:
        say(f"  {name:<{width}}  {value}")


class Ticker(Protocol):
    """What a task with progress sees."""

    def advance(self, amount: int = 1, note: str = "") -> None: ...


class Running:
    """Turns running totals, `(done, total)`, into steps of a ticker."""

    def __init__(self, ticker: Ticker, done: int = 0) -> None:
        self.ticker, self.done = ticker, done

    def __call__(self, done: int, total: int) -> None:
        del total
        self.ticker.advance(done - self.done)
        self.done = done


@contextmanager
def progress(label: str, total: int, unit: str, done: int = 0, *, to: Console = out) -> Iterator[Ticker]:
    """Show the progress of a task of `total` units, of which `done` were finished by an earlier run.

    On a terminal a bar with rate and estimated end; otherwise plain lines, at most one in five seconds.

    Args:
        to: `err` for commands whose output is data, which progress must not stand in.
    """
    if to.is_terminal:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=to,
            transient=False,
        ) as bars:
            yield _Bar(bars, label, total, unit, done)
    else:
        lines = _Lines(label, total, unit, done, to)
        yield lines
        lines.finish()


@contextmanager
def progress_if_slow(label: str, unit: str, *, after_s: float = 1.0) -> Iterator[Callable[[int, int], None]]:
    """Progress, on the standard error, of a task that is mostly too short for it.

    Yields a function that takes (units done, all units); something is shown once it is called after `after_s` seconds
    and not all is done.
    """
    start = time.monotonic()
    running: Running | None = None
    with ExitStack() as stack:

        def report(done: int, total: int) -> None:
            nonlocal running
            slow = done < total and time.monotonic() - start >= after_s
            if running is None and slow and not out.quiet:
                running = Running(stack.enter_context(progress(label, total, unit, done, to=err)), done)
            if running is not None:
                running(done, total)

        yield report


class _Bar:
    def __init__(self, bars: Progress, label: str, total: int, unit: str, done: int) -> None:
        self.bars, self.unit, self.start, self.done = bars, unit, time.monotonic(), 0
        self.task = bars.add_task(label, total=total, completed=done, rate="", note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        fields = {"rate": f"{format_count(rate)} {self.unit}/s"} | ({"note": note} if note else {})
        self.bars.update(self.task, advance=amount, **fields)  # type: ignore[arg-type]


class _Lines:
    every_s = 5.0

    def __init__(self, label: str, total: int, unit: str, done: int, to: Console) -> None:
        self.label, self.total, self.unit, self.first, self.done = label, total, unit, done, done
        self.to = to
        self.start = self.last = time.monotonic()
        self.note = ""

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        if time.monotonic() - self.last >= self.every_s and self.done < self.total:
            self.last = time.monotonic()
            rate = (self.done - self.first) / (self.last - self.start)
            left = format_seconds((self.total - self.done) / max(rate, 1e-9))
            say(
                f"{self.label}: {self.done:,}/{self.total:,} {self.unit}, {format_count(rate)}/s, {left} left  {self.note}".rstrip(),
                to=self.to,
            )

    def finish(self) -> None:
        seconds = time.monotonic() - self.start
        if seconds >= 2.0:
            say(
                f"{self.label}: {self.done:,} {self.unit} in {format_seconds(seconds)}  {self.note}".rstrip(),
                to=self.to,
            )


def format_seconds(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_count(value: float) -> str:
    """`950`, `12.3k`, `4.56M`, `1.20G`, with three significant digits."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # What rounds up to the unit is written in it: 999,900 is 1M, not 1e+03k.
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def format_bytes(count: float) -> str:
    """`512 B`, `3.4 KB`, `812 MB`, `1.25 GB` (powers of 1,000)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
