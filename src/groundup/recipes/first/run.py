"""Run a lesson and leave its page."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

from groundup.core import console
from groundup.core.errors import UsageError
from groundup.core.files import check_writable, write_text
from groundup.recipes.first.catalog import Lesson, find_lesson
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page

Show: TypeAlias = Callable[[Page, Material, Pace], None]


def run_lesson(name: str, source: str | None, *, pace: Pace, out: Path | None = None) -> Path:
    """Train and show a lesson.

    Args:
        name: of the lesson.
        source: what it learns from; None for its own.
        pace: how long, and the seed.
        out: the page's file; by default `runs/first/NAME.html`.

    Returns:
        the page's file.

    Raises:
        UsageError: for an unknown lesson, or a source that it would not read.
        DataError: when the source cannot be read, or the page not be written.
    """
    lesson = find_lesson(name)
    if source is not None and lesson.learns_from == "nothing":
        raise UsageError(f"{lesson.name} makes its own data and reads no source: leave {source!r} away")
    if source is not None and not source.strip():
        raise UsageError(f"the source {source!r} is empty: name one, or leave it away for the lesson's own")
    path = out or Path("runs") / "first" / f"{lesson.name}.html"
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder: name a file, such as {path / f'{lesson.name}.html'}")
    if source is not None and Path(source).exists() and path.exists() and path.samefile(source):
        raise UsageError(f"--out {path} is the source itself, which the page would replace: name another file")
    check_writable(path)
    start = time.monotonic()
    page = Page(lesson.name, lesson.summary)
    show_of(lesson)(page, Material(source), pace)
    write_text(path, page.render(command_of(lesson, source, pace), links_of(lesson)))
    console.facts([[title, value if not note else f"{value} ({note})"] for title, value, note in page.facts])
    console.say(f"{lesson.name} in {console.format_seconds(time.monotonic() - start)}: {path}")
    return path


def show_of(lesson: Lesson) -> Show:
    """The function of a lesson."""
    module, _, function = lesson.function.partition(":")
    show: Show = getattr(import_module(module), function)
    return show


def command_of(lesson: Lesson, source: str | None, pace: Pace) -> str:
    """The command that writes the same page."""
    words = ["groundup", "first", lesson.name, *([source] if source else [])]
    words += ["--effort", f"{pace.effort:g}"] if pace.effort != 1 else []
    words += ["--seed", str(pace.seed)] if pace.seed else []
    return shlex.join(words)


def links_of(lesson: Lesson) -> list[tuple[str, str]]:
    """Where to read on."""
    return [
        ("The code", ", ".join(f"src/groundup/{file}" for file in lesson.code)),
        ("Explained in", f"docs/concepts/{lesson.concept}"),
    ]
