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
        name="ngrams",
        summary="Counting what follows: add-k, back-off and Kneser-Ney, by order, and what each leaves to the unseen.",
        function="groundup.recipes.first.ngrams:show_ngrams",
        learns_from="texts",
        code=("foundations/ngram.py",),
        concept="ngrams.md",
    ),
    Lesson(
        name="bigram",
        summary="Made-up words from pairs of characters: a table of counts, and a network of one layer that arrives at it.",
        function="groundup.recipes.first.names:show_bigram",
        learns_from="words",
        code=("foundations/names/bigram.py", "foundations/ngram.py"),
        concept="makemore.md",
    ),
    Lesson(
        name="mlp",
        summary="Made-up words from three characters of context: a vector for each, and a hidden layer.",
        function="groundup.recipes.first.names:show_mlp",
        learns_from="words",
        code=("foundations/names/mlp.py", "foundations/names/training.py"),
        concept="makemore.md",
    ),
    Lesson(
        name="initialisation",
        summary="One deep network begun well and badly, with and without batch norm: activations, gradients, updates.",
        function="groundup.recipes.first.initialisation:show_initialisation",
        learns_from="words",
        code=("foundations/names/statistics.py", "foundations/names/observation.py"),
        concept="initialisation.md",
    ),
    Lesson(
        name="wavenet",
        summary="Made-up words from eight characters of context, joined two by two; all models of words side by side.",
        function="groundup.recipes.first.names:show_wavenet",
        learns_from="words",
        code=("foundations/names/hierarchy.py", "foundations/names/training.py"),
        concept="makemore.md",
    ),
    Lesson(
        name="recurrent",
        summary="RNN, GRU and LSTM: a state in the place of a window, trained on names or words.",
        function="groundup.recipes.first.recurrent:show_recurrent",
        learns_from="words",
        code=("foundations/recurrent.py", "foundations/names/recurrent.py"),
        concept="recurrent.md",
    ),
    Lesson(
        name="vanishing",
        summary="How far back a gradient reaches: vanishing, exploding, gates, clipping.",
        function="groundup.recipes.first.recurrent:show_vanishing",
        code=("foundations/vanishing.py", "foundations/recurrent.py"),
        concept="recurrent.md",
    ),
    Lesson(
        name="seq2seq",
        summary="One sequence into another: words turned round and dates, with attention and without.",
        function="groundup.recipes.first.seq2seq:show_seq2seq",
        code=("foundations/seq2seq.py", "foundations/seq2seq_tasks.py"),
        concept="seq2seq.md",
    ),
    Lesson(
        name="backward",
        summary="Backward passes by hand: cross-entropy, batch and layer norm, attention, checked by small steps.",
        function="groundup.recipes.first.backward:show_backward",
        code=("foundations/backward.py",),
        concept="backward-by-hand.md",
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


#: What SOURCE may be, by `Lesson.learns_from`.
_SOURCES = {
    "nothing": "",
    "words": " [a list of words, or any text]",
    "texts": " [any text]",
    "labels": " [lines of a label, a tab and a text]",
}


def list_lessons() -> None:
    """Print every lesson with what it shows, and what it can learn from."""
    console.facts([[lesson.name, f"{lesson.summary}{_SOURCES[lesson.learns_from]}"] for lesson in LESSONS])
    console.say(
        "\nRun one with  groundup first LESSON [SOURCE]  where SOURCE is what stands in brackets: a file, a folder, a named source."
    )


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
