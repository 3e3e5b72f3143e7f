"""Lessons of the classic models: a line, a probability, words that tell, neighbours, groups, questions, directions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from groundup.core.errors import DataError
from groundup.foundations.classic.components import principal_components
from groundup.foundations.classic.kmeans import k_means
from groundup.foundations.classic.linear import (
    LinearModel,
    descend_least_squares,
    descend_logistic,
    probability,
    solve_least_squares,
    standardized,
)
from groundup.foundations.classic.naive_bayes import NaiveBayes, words_of
from groundup.foundations.classic.neighbours import Neighbours
from groundup.foundations.classic.tree import DecisionTree
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.messages import messages
from groundup.recipes.first.page import Page
from groundup.recipes.first.points import accuracy, draw_curves, draw_letters, draw_regions, two_moons
from groundup.recipes.report.charts import BASE, CHAT, GRID, INK, OTHER, SOFT, Bar, bar_chart
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import count, decimal, label, percent, shorten

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Width over height of the axes of a chart.
WIDE = 2.0
#: Points in the plane, half of them held out.
NUM_POINTS = 400


# ---------------------------------------------------------------------------------------- least squares


def show_linear(page: Page, material: Material, pace: Pace) -> None:
    """Zipf's law: the logarithm of how often a word occurs, against that of its rank, is nearly a straight line."""
    counts = Counter(word for text in material.texts() for word in words_of(text))
    frequencies = np.array(sorted(counts.values(), reverse=True)[:2_000], np.float64)
    if len(frequencies) < 50:
        raise DataError(f"{material.source} has {len(frequencies)} different words: at least 50 are needed for a line")
    if frequencies[0] == frequencies[-1]:
        raise DataError(
            f"each of the {len(frequencies):,} most frequent words of {material.source} occurs {frequencies[0]:.0f} times: a line from "
            "frequent to rare needs a text, in which some words repeat more than others"
        )
    x, y = np.log10(np.arange(1, len(frequencies) + 1)), np.log10(frequencies)
    across = standardized(x[:, None])
    exact = solve_least_squares(across, y)
    rate, steps = 0.1, pace.steps(60)
    model = descend_least_squares(across, y, rate=rate, steps=steps)
    slope = float(exact.weights[0] / x.std())

    page.section("How often the words of a text occur")
    page.text(
        f"The {len(frequencies):,} most frequent of {len(counts):,} words, by rank, both as logarithms. Zipf saw in 1935 that they lie "
        "near a line: the word of rank r occurs about 1/r times as often as the first. A line is two numbers, and the best two are "
        "those of least mean squared error."
    )
    page.chart(
        "Frequency by rank",
        f"Log frequency by log rank, and the line of least squares: its slope is {decimal(slope, 2)}.",
        lambda axes: _draw_line(axes, x, y, exact, across),
    )
    page.section("Found step by step")
    page.text(
        f"Gradient descent begins with both numbers at 0 and takes {steps} steps against the gradient, each {rate:g} times as long. "
        "The exact answer comes out of one equation; a language model has none, so it is trained by such steps."
    )
    page.chart(
        "The way of the two numbers",
        "Every point is a pair of slope and height of the line; the rings are pairs of equal error. The path begins at 0 and 0.",
        lambda axes: _draw_way(axes, model, exact, across, y),
        left_in=0.55,
    )
    trace = model.trace
    assert trace is not None
    page.chart(
        "Error by step",
        "The mean squared error; the flat end is what no line can explain.",
        draw_curves([("", CHAT, trace.losses)], across="step", up="mean squared error", log=True),
    )
    page.fact("slope of the line", decimal(slope, 2), "Zipf's law says about −1")
    page.fact("mean squared error", decimal(float(np.mean((exact.scores(across) - y) ** 2)), 4), "of the best line")
    apart = max(abs(model.weights[0] - exact.weights[0]), abs(model.bias - exact.bias))
    page.fact("from the exact answer", decimal(float(apart), 6), f"after {steps} steps")


def _draw_line(axes: Axes, x: Floats, y: Floats, model: LinearModel, across: Floats) -> None:
    axes.plot(x, y, linestyle="none", marker="o", markersize=2, color=OTHER)
    axes.plot(x, model.scores(across), color=CHAT, linewidth=1.7)
    axes.set_xlabel("log10 of the rank")
    axes.set_ylabel("log10 of the count")
    axes.yaxis.grid(color=GRID, linewidth=0.7)


def _draw_way(axes: Axes, model: LinearModel, exact: LinearModel, across: Floats, y: Floats) -> None:
    assert model.trace is not None
    path = np.vstack([model.trace.weights, np.append(exact.weights, exact.bias)])
    # One unit is as long on both axes, as the rings are circles.
    middle, reach = path[-1], float(np.abs(path - path[-1]).max()) * 1.15 + 1e-9
    slopes, heights = (
        np.linspace(middle[i] - reach * stretch, middle[i] + reach * stretch, 60)
        for i, stretch in ((0, WIDE), (1, 1.0))
    )
    # The columns are centred and of deviation 1, so the error rises by the squares of both distances.
    least = float(np.mean((exact.scores(across) - y) ** 2))
    error = least + (slopes[None, :] - middle[0]) ** 2 + (heights[:, None] - middle[1]) ** 2
    axes.contour(slopes, heights, error, levels=8, colors=[GRID], linewidths=0.9)
    way = model.trace.weights
    axes.plot(way[:, 0], way[:, 1], color=CHAT, linewidth=1.2, marker="o", markersize=2.4)
    axes.plot([middle[0]], [middle[1]], marker="+", markersize=10, color=INK)
    axes.set_xlabel("slope (standardised)")
    axes.set_ylabel("height")


# -------------------------------------------------------------------------------------------- logistic


def show_logistic(page: Page, material: Material, pace: Pace) -> None:
    """A straight border between two classes, its parameters traced; and where a straight border ends."""
    del material
    points, labels, held, truth = _points(pace)
    steps = pace.steps(300)
    model = descend_logistic(points, labels, rate=0.5, steps=steps)
    trace = model.trace
    assert trace is not None
    page.section("A probability from a straight line")
    page.text(
        "The model adds up x w + b and squeezes it into a probability. Its border is where that is one half, a straight line. The two "
        "classes are half circles that reach into each other, so a line cannot be right everywhere."
    )
    right = accuracy((model.scores(held) > 0).astype(int), truth)
    page.chart(
        "The border",
        f"Held-out points: {percent(right)} lie on their side of the line.",
        draw_regions(held, truth, lambda rows: probability(model.scores(rows))),
        left_in=0.1,
        bottom_in=0.1,
    )
    page.chart(
        "Parameters by step",
        "Both weights and the bias, from zeros. They settle where the gradient, the mean of (probability - class) x, is zero.",
        draw_curves(
            [("w1", CHAT, trace.weights[:, 0]), ("w2", BASE, trace.weights[:, 1]), ("b", SOFT, trace.weights[:, 2])],
            across="step",
            up="value",
        ),
    )
    page.section("The same model with more columns")
    bent = descend_logistic(_bent(points), labels, rate=0.5, steps=pace.steps(3_000))
    bent_right = accuracy((bent.scores(_bent(held)) > 0).astype(int), truth)
    page.text(
        "Squares, products and cubes of both coordinates as further columns: still a straight border, in nine dimensions instead of two, and a "
        "bent one in the plane. A network does the same with columns that it learns."
    )
    page.chart(
        "A bent border",
        f"With cubes: {percent(bent_right)} of the held-out points.",
        draw_regions(held, truth, lambda rows: probability(bent.scores(_bent(rows)))),
        left_in=0.1,
        bottom_in=0.1,
    )
    assert bent.trace is not None
    page.chart(
        "Loss by step",
        "Cross-entropy of what was learned from, in nats.",
        draw_curves(
            [("straight", OTHER, trace.losses), ("with cubes", CHAT, bent.trace.losses)],
            across="step",
            up="loss (nats)",
        ),
    )
    page.fact("right, straight border", percent(right), f"of {len(held)} held-out points")
    page.fact("right, bent border", percent(bent_right), "with squares and cubes")
    page.fact("loss", decimal(trace.losses[-1], 3), f"{decimal(trace.losses[0], 3)} before the first step")


def _bent(x: Floats) -> Floats:
    a, b = x[:, 0], x[:, 1]
    return np.column_stack([a, b, a * a, a * b, b * b, a**3, a * a * b, a * b * b, b**3])


def _points(pace: Pace) -> tuple[Floats, Ints, Floats, Ints]:
    """Points to learn from and others, with their classes."""
    points, labels = two_moons(NUM_POINTS, np.random.default_rng(pace.seed), noise=0.28)
    half = NUM_POINTS // 2
    return points[:half], labels[:half], points[half:], labels[half:]


# ------------------------------------------------------------------------------------------------ spam


def show_spam(page: Page, material: Material, pace: Pace) -> None:
    """A filter that counts words; what it learned, what it gets wrong, and what smoothing is for."""
    random = np.random.default_rng(pace.seed)
    if material.is_given:
        texts, labels, held, truth = _held_out(*material.labelled(), random)
        origin = f"{len(texts):,} messages of {Path(material.source).name}"
    else:
        texts, labels, held, truth = messages(600, random)
        origin = f"{len(texts):,} messages made up for this lesson, easier than real mail"
    model = NaiveBayes(texts, labels)
    answers = [model.predict(text) for text in held]
    right = sum(a == b for a, b in zip(answers, truth, strict=True))
    most = Counter(labels).most_common(1)[0][0]
    guess = sum(label_ == most for label_ in truth)

    page.section("What was counted")
    page.text(
        f"Learned from {origin}: how often each word occurs in each class. A new message belongs where its words are likeliest, as if "
        "each were drawn by itself. They are not, so the probabilities are too sure; the order of the classes is often right all the same."
    )
    for name in model.classes[:2]:
        telling = model.telling_words(name, 12)
        chart = bar_chart(
            f"spam-{model.classes.index(name)}",
            f"Words that speak for {label(name)}",
            [(f"for {label(name)}", [Bar(odds, None, None, CHAT, label(word, 20)) for word, odds in telling])],
            "log of how much likelier than elsewhere (nats)",
        )
        page.drawing(chart, f"The twelve words that speak most for {label(name)}.")
    page.section("What it answers")
    table = Table(
        "Held-out messages: first those that it gets wrong, then some that it gets right.",
        ("message", "is", "answer", "#sure"),
    )
    for place in _telling(held, truth, answers):
        share = np.exp(model.log_probabilities(held[place])[answers[place]])
        table.add(shorten(held[place], 90), truth[place], answers[place], percent(float(share)))
    page.table(table)
    page.section("Smoothing")
    page.text(
        "A word that never occurred in a class has probability 0 there, and one such word would rule the class out whatever the others "
        "say. So something is added to every count. How much is found by trying."
    )
    amounts = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
    tried = Table("Right answers by what is added to every count.", ("#added", "#right"))
    for amount in amounts:
        other = NaiveBayes(texts, labels, smoothing=amount)
        hits = sum(other.predict(text) == is_ for text, is_ in zip(held, truth, strict=True))
        tried.add(f"{amount:g}", percent(hits / len(held)))
    page.table(tried)
    page.fact("right", percent(right / len(held)), f"of {len(held):,} held-out messages")
    page.fact("always the frequent class", percent(guess / len(held)), f"answers {label(most)} to all")
    page.fact("words", count(len(model.words)), f"in {len(texts):,} messages")


def _telling(texts: Sequence[str], truth: Sequence[str], answers: Sequence[str]) -> list[int]:
    """Places of up to six wrong answers and then right ones, twelve in all, that do not begin alike, of all classes in turn."""
    chosen: dict[tuple[bool, str, str], int] = {}
    for place, (text, is_, answer) in enumerate(zip(texts, truth, answers, strict=True)):
        chosen.setdefault((is_ == answer, is_, " ".join(text.split()[:2])), place)
    places: list[int] = []
    for is_right, number in ((False, 6), (True, 12)):
        by_class = [
            [p for (right, c, _), p in chosen.items() if (right, c) == (is_right, name)] for name in sorted(set(truth))
        ]
        turns = [place for turn in zip_longest(*by_class) for place in turn if place is not None]
        places += turns[: number - len(places)] if is_right else turns[:number]
    return places


def _held_out(
    texts: Sequence[str], labels: Sequence[str], random: np.random.Generator
) -> tuple[list[str], list[str], list[str], list[str]]:
    order = random.permutation(len(texts))
    cut = len(texts) * 3 // 4
    parts = [[source[place] for place in places] for places in (order[:cut], order[cut:]) for source in (texts, labels)]
    return parts[0], parts[1], parts[2], parts[3]


# ------------------------------------------------------------------------------------------- neighbours


def show_neighbours(page: Page, material: Material, pace: Pace) -> None:
    """The answer of the nearest examples, by how many are asked."""
    del material
    points, labels, held, truth = _points(pace)
    shares = {}
    page.section("Who is asked")
    page.text(
        "Nothing is trained: all examples are kept, and a question is answered by the nearest of them. One neighbour follows every stray "
        "point; many answer smoothly; all of them answer always the same."
    )
    for asked in (1, 15, 120):
        model = Neighbours(points, labels, count=asked)
        shares[asked] = accuracy(model.predict(held), truth)
        page.chart(
            f"Regions with {asked}",
            f"{asked} neighbour{'s' if asked > 1 else ''}: {percent(shares[asked])} of the held-out points.",
            draw_regions(points, labels, lambda rows, model=model: model.predict(rows).astype(float)),  # type: ignore[misc]
            left_in=0.1,
            bottom_in=0.1,
        )
    tried = [1, 3, 5, 9, 15, 25, 45, 75, 120, 199]
    table = Table("Share of right answers.", ("#neighbours", "#among the examples", "#held out"))
    best = (0.0, 0)
    for asked in tried:
        model = Neighbours(points, labels, count=asked)
        own, others = accuracy(model.predict(points), labels), accuracy(model.predict(held), truth)
        best = max(best, (others, -asked))
        table.add(str(asked), percent(own), percent(others))
    page.section("How many to ask")
    page.text(
        "Among the examples one neighbour is always right, since each is its own nearest: that number says nothing."
    )
    page.table(table)
    page.fact("best", f"{-best[1]} neighbours", f"{percent(best[0])} of {len(held)} held-out points")
    page.fact("one neighbour", percent(shares[1]), "held out")


# ------------------------------------------------------------------------------------------------ tree


def show_tree(page: Page, material: Material, pace: Pace) -> None:
    """Questions about one number at a time; deeper trees learn the examples by heart."""
    del material
    points, labels, held, truth = _points(pace)
    page.section("Questions")
    page.text(
        "Each question cuts the plane along one axis, where it leaves the purest groups. Two questions make a corner, ten a staircase."
    )
    for depth in (2, 4, 12):
        model = DecisionTree(points, labels, depth=depth)
        page.chart(
            f"Regions at depth {depth}",
            f"Depth {depth}: {percent(accuracy(model.predict(points), labels))} of the examples, "
            f"{percent(accuracy(model.predict(held), truth))} of the held-out points.",
            draw_regions(points, labels, lambda rows, model=model: model.predict(rows).astype(float)),  # type: ignore[misc]
            left_in=0.1,
            bottom_in=0.1,
        )
    small = DecisionTree(points, labels, depth=3)
    page.code(small.describe(["x", "y"], ["orange", "blue"]))
    depths = range(13)
    own, others = [], []
    for depth in depths:
        model = DecisionTree(points, labels, depth=depth)
        own.append(accuracy(model.predict(points), labels))
        others.append(accuracy(model.predict(held), truth))
    page.section("Depth")
    page.text("More questions always fit the examples better. The held-out points say when to stop.")
    page.chart(
        "Right answers by depth",
        "Share of right answers by the depth of the tree.",
        draw_curves(
            [("examples", OTHER, own), ("held out", CHAT, others)], across="depth", up="share of right answers"
        ),
    )
    best = int(np.argmax(others))
    page.fact("best depth", str(best), f"{percent(others[best])} of {len(held)} held-out points")
    page.fact("depth 12", percent(others[12]), f"held out, and {percent(own[12])} of the examples")


# ------------------------------------------------------------------------- letters: groups and directions

VOWELS = "aeiou"


def letter_neighbours(material: Material) -> tuple[list[str], Floats]:
    """What stands beside each letter: shares of the letters before it and of those after it.

    Returns:
        the letters that are at least one in 250 (of rarer ones little is known), and a row of numbers for each.

    Raises:
        DataError: for fewer than three such letters.
    """
    words = material.words()
    counts = Counter(letter for word in words for letter in word if letter.isalpha())
    letters = sorted(letter for letter, number in counts.items() if number * 250 >= counts.total())
    if len(letters) < 3:
        raise DataError(
            f"{len(letters)} of the {len(counts):,} letters of {material.source} make up one in 250 or more of its words: at least 3 are "
            "needed to be compared, so give words of an alphabet"
        )
    place = {letter: index for index, letter in enumerate(letters)}
    table = np.zeros((len(letters), 2 * (len(letters) + 1)))
    edge = len(letters)
    for word in words:
        padded = [None, *word, None]
        for before, letter, after in zip(padded, padded[1:], padded[2:], strict=False):
            if letter in place:
                table[place[letter], place.get(before or "", edge)] += 1
                table[place[letter], edge + 1 + place.get(after or "", edge)] += 1
    shares: Floats = 2 * table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    return letters, np.sqrt(shares)


def show_kmeans(page: Page, material: Material, pace: Pace) -> None:
    """Groups of letters by what stands beside them; nobody says what a vowel is."""
    letters, table = letter_neighbours(material)
    page.section("Letters in groups")
    page.text(
        f"Each of {len(letters)} letters is described by the letters before and after it in the words, as shares (their roots, so that a "
        "frequent neighbour does not outweigh all others). k-means puts letters with like neighbours together."
    )
    listing = Table(
        "Groups for several numbers of them; the best of ten beginnings.", ("#groups", "letters", "#inertia")
    )
    numbers = [number for number in (1, 2, 3, 4, 6, 8) if number <= len(letters)]
    found = {number: k_means(table, number, seed=pace.seed) for number in numbers}
    for number, clusters in found.items():
        groups = [
            "".join(x for x, own in zip(letters, clusters.groups, strict=True) if own == g) for g in range(number)
        ]
        listing.add(str(number), " | ".join(sorted(groups, key=len, reverse=True)), decimal(clusters.inertia, 2))
    page.table(listing)
    flat = principal_components(table, 2).project(table)
    if 3 in found:
        page.chart(
            "Three groups",
            "The letters in the plane in which they differ most (see the lesson components), in the colours of three groups.",
            lambda axes: draw_letters(axes, letters, flat, [(OTHER, CHAT, BASE)[g] for g in found[3].groups]),
            left_in=0.1,
            bottom_in=0.1,
        )
    every = range(1, min(12, len(letters)) + 1)
    page.chart(
        "Inertia by number of groups",
        "The sum of squared distances to the centres. It always falls with more groups; a bend says that the next ones gain less.",
        draw_curves(
            [("", CHAT, [k_means(table, number, seed=pace.seed).inertia for number in every])],
            across="groups",
            up="inertia",
            start=1,
        ),
    )
    # Of another alphabet there is nothing to say: none of its letters is one of these five.
    if 2 in found and any(letter in VOWELS for letter in letters):
        own = max(
            range(2), key=lambda g: sum(x in VOWELS for x, k in zip(letters, found[2].groups, strict=True) if k == g)
        )
        hits = sum((x in VOWELS) == (k == own) for x, k in zip(letters, found[2].groups, strict=True))
        page.fact(
            "two groups are vowels and others",
            percent(hits / len(letters)),
            f"of {len(letters)} letters as a, e, i, o, u say",
        )
    page.fact(
        "inertia",
        decimal(found[numbers[-1]].inertia, 2),
        f"with {numbers[-1]} groups, {decimal(found[1].inertia, 2)} with one",
    )


def show_components(page: Page, material: Material, pace: Pace) -> None:
    """The directions in which letters differ most, and how few of them are enough."""
    del pace
    letters, table = letter_neighbours(material)
    most = min(table.shape[0], table.shape[1], 12)
    parts = principal_components(table, most)
    flat = parts.project(table)[:, :2]
    page.section("Two directions of many")
    page.text(
        f"Each letter is {table.shape[1]} numbers: what stands before it and after it. The first two directions hold "
        f"{percent(float(parts.shares[:2].sum()))} of how the letters differ: that much of it the plane can show."
    )
    page.chart(
        "Letters in the plane",
        "Letters with like neighbours lie together; vowels in blue.",
        lambda axes: draw_letters(axes, letters, flat, [CHAT if x in VOWELS else INK for x in letters]),
        left_in=0.1,
        bottom_in=0.1,
        height_in=3.2,
    )
    page.chart(
        "Variance by direction",
        "Share of the whole variance that the first directions hold together.",
        draw_curves([("", CHAT, np.cumsum(parts.shares))], across="directions", up="share of the variance", start=1),
    )
    page.section("Rebuilt from a few numbers")
    page.text(
        "A letter rebuilt from its coordinates along the first directions; the error falls as fast as any method of so few can."
    )
    listing = Table(
        "Root mean squared error of the rebuilt letters.", ("#directions", "#numbers for each letter", "#error")
    )
    for number in (1, 2, 4, 8, most):
        if number <= most:
            few = principal_components(table, number)
            error = float(np.sqrt(np.mean((few.rebuild(few.project(table)) - table) ** 2)))
            listing.add(str(number), f"{number} instead of {table.shape[1]}", decimal(error, 4))
    page.table(listing)
    page.fact("two directions hold", percent(float(parts.shares[:2].sum())), "of the variance")
    page.fact("letters", count(len(letters)), f"of {table.shape[1]} numbers each")
