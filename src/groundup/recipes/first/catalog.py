"""The lessons of `groundup first`: what each is called, what it shows, where its code and its page stand.

Imports none of them, so that the list is there at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from groundup.core import console
from groundup.core.errors import UsageError, suggest


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A piece that can be trained and shown.

    Attributes:
        name: on the command line.
        summary: one line, for the list and the head of the page.
        function: `module:function` of `(page, material, pace)`.
        learns_from: `nothing` (it makes its own data), `words`, `texts` or `labels` (lines of a label, a tab and a text): what SOURCE is
            read as.
        code: the files of `src/groundup` that it runs.
        concept: the page of `docs/concepts` that explains it.
    """

    name: str
    summary: str
    function: str
    learns_from: str = "nothing"
    code: tuple[str, ...]
    concept: str


LESSONS: tuple[Lesson, ...] = (
    Lesson(
        name="autograd",
        summary="Every derivative in one pass backwards: a graph drawn, a network of single numbers trained.",
        function="groundup.recipes.first.autograd:show_autograd",
        code=("foundations/scalar.py", "foundations/graph_svg.py"),
        concept="autograd.md",
    ),
    Lesson(
        name="optimizers",
        summary="SGD, momentum, RMSProp, Adam and AdamW: through a valley, and on one network.",
        function="groundup.recipes.first.autograd:show_optimizers",
        code=("foundations/optimizers.py",),
        concept="optimizers.md",
    ),
    Lesson(
        name="linear",
        summary="Least squares by gradient descent, step by step: Zipf's law as a straight line.",
        function="groundup.recipes.first.classic:show_linear",
        learns_from="texts",
        code=("foundations/classic/linear.py",),
        concept="linear-models.md",
    ),
    Lesson(
        name="logistic",
        summary="Logistic regression: a probability from a line, its parameters traced.",
        function="groundup.recipes.first.classic:show_logistic",
        learns_from="nothing",
        code=("foundations/classic/linear.py",),
        concept="linear-models.md",
    ),
    Lesson(
        name="spam",
        summary="Naive Bayes: a filter that counts words.",
        function="groundup.recipes.first.classic:show_spam",
        learns_from="labels",
        code=("foundations/classic/naive_bayes.py",),
        concept="naive-bayes.md",
    ),
    Lesson(
        name="neighbours",
        summary="k nearest neighbours: the answer of the most similar examples.",
        function="groundup.recipes.first.classic:show_neighbours",
        learns_from="nothing",
        code=("foundations/classic/neighbours.py",),
        concept="neighbours.md",
    ),
    Lesson(
        name="tree",
        summary="A decision tree: one question at a time, and how deep is too deep.",
        function="groundup.recipes.first.classic:show_tree",
        learns_from="nothing",
        code=("foundations/classic/tree.py",),
        concept="decision-tree.md",
    ),
    Lesson(
        name="kmeans",
        summary="k-means: letters in groups, by what stands beside them.",
        function="groundup.recipes.first.classic:show_kmeans",
        learns_from="words",
        code=("foundations/classic/kmeans.py",),
        concept="kmeans.md",
    ),
    Lesson(
        name="components",
        summary="Principal components: the directions in which letters differ most.",
        function="groundup.recipes.first.classic:show_components",
        learns_from="words",
        code=("foundations/classic/components.py",),
        concept="principal-components.md",
    ),
    Lesson(
        name="words",
        summary="Words as vectors, learned three ways: neighbours, analogies, the odd one out, and where they fail.",
        function="groundup.recipes.first.words:show_words",
        learns_from="texts",
        code=("foundations/words",),
        concept="word-vectors.md",
    ),
    Lesson(
        name="numbers",
        summary="What computers make of numbers: softmax, dot products, sums; entropy, perplexity and bits.",
        function="groundup.recipes.first.numbers:show_numbers",
        learns_from="texts",
        code=("foundations/numbers.py", "foundations/information.py"),
        concept="numbers.md",
    ),
    Lesson(
        name="levels",
        summary="One GPT at four levels, equal in loss and gradients: what each costs a token.",
        function="groundup.recipes.first.levels:show_levels",
        code=("foundations/gpt.py", "model/plain_gpt.py", "recipes/levels.py"),
        concept="levels.md",
    ),
)


def list_lessons() -> None:
    """Print every lesson with what it shows."""
    console.table(["lesson", "what it shows", "learns from"], [[x.name, x.summary, x.learns_from] for x in LESSONS])
    console.say("Run one with  groundup first LESSON [SOURCE]")


def find_lesson(name: str) -> Lesson:
    """The lesson of a name.

    Raises:
        UsageError: naming the nearest.
    """
    for lesson in LESSONS:
        if lesson.name == name:
            return lesson
    raise UsageError(
        f"there is no lesson {name!r}{suggest(name, tuple(lesson.name for lesson in LESSONS))}: groundup first  lists them"
    )
