"""The lessons of `groundup first`: what each is called, what it shows, where its code and its page stand.

Imports nothing of them, so that the list costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A piece that can be trained and shown.

    Attributes:
        name: on the command line.
        summary: one line, for the list and the head of the page.
        function: `module:function` of `(page, material, pace)`.
        learns_from: `nothing` (it makes its own data), `words` or `texts`: what SOURCE is read as.
        code: the files of `src/groundup` that it runs.
        concept: the page of `docs/concepts` that explains it.
    """

    name: str
    summary: str
    function: str
    learns_from: str = "nothing"
    code: tuple[str, ...]
    concept: str


LESSONS: tuple[Lesson, ...] = ()


def lesson_names() -> tuple[str, ...]:
    """In the order of the list."""
    return tuple(lesson.name for lesson in LESSONS)
