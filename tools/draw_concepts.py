"""Draws the pictures of the concept pages: charts of the lessons of `groundup first`, and a few of their own.

Each picture is an SVG file beside its page, on white and in the light colours of the reports, so that it can be read wherever a
page is shown. `PICTURES` lists them; a new one is a function that returns an `<svg>` element, and an entry there.

    python tools/draw_concepts.py                 draw all of them
    python tools/draw_concepts.py kmeans          draw those whose name begins so
    python tools/draw_concepts.py --check         compare with the stored files; exit code 1 where one differs

Compared are the elements, their attributes and their texts; the numbers in them may differ by `TOLERANCE`, as the last digits of
a computation do between machines.
"""

from __future__ import annotations

import argparse
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from groundup.core.files import write_text
from groundup.foundations.classic.components import Components, principal_components
from groundup.foundations.classic.kmeans import k_means
from groundup.foundations.classic.linear import solve_least_squares
from groundup.foundations.graph_svg import draw_graph
from groundup.foundations.scalar import Value, dot
from groundup.foundations.words.glove import count_together
from groundup.foundations.words.ppmi import factorise
from groundup.foundations.words.vectors import WordVectors
from groundup.foundations.words.vocabulary import build_vocabulary, read_stream
from groundup.recipes.first.catalog import find_lesson
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.first.run import show_of
from groundup.recipes.report.charts import BASE, CHAT, COLOURS, GRID, INK, OTHER, SOFT, render

Floats = NDArray[np.float64]
ROOT = Path(__file__).resolve().parents[1]
CONCEPTS = ROOT / "docs" / "concepts"
STYLE = ROOT / "src" / "groundup" / "recipes" / "report" / "style.css"
NAMES = ROOT.parent / "shared" / "data" / "names" / "names.txt"
#: In units of the drawing, of which a chart is 338 wide.
TOLERANCE = 0.25
#: A chart is shown so wide, in pixels.
WIDTH_PX = 540
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
_SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Picture:
    """A file beside a concept page.

    Attributes:
        file: its name.
        draw: gives the `<svg>` element, as the charts of a report are.
        needs: a file without which it cannot be drawn, such as the list of names.
    """

    file: str
    draw: Callable[[], str]
    needs: Path | None = None


# ------------------------------------------------------------------------------------------- of the lessons


@cache
def lesson_charts(name: str, source: str | None = None, effort: float = 1.0) -> tuple[str, ...]:
    """All charts of a lesson, in the order of its page."""
    lesson = find_lesson(name)
    page = Page(name, lesson.summary)
    show_of(lesson)(page, Material(source), Pace(effort=effort))
    return tuple(
        chart.svg for section in page.sections for kind, block in section.blocks if kind == "charts" for chart in block
    )


def of_lesson(name: str, index: int, *, source: Path | None = None, effort: float = 1.0) -> Callable[[], str]:
    """The chart of a lesson at a place of its page, counted from 0, after `effort` times the usual training."""
    return lambda: lesson_charts(name, None if source is None else str(source), effort)[index]


# ------------------------------------------------------------------------------------------------ of our own


def draw_residuals() -> str:
    """A line of least squares, and what it leaves of each point."""
    random = np.random.default_rng(2)
    x = np.linspace(0.5, 9.5, 10)
    y = 1.2 + 0.55 * x + 0.9 * random.standard_normal(len(x))
    model = solve_least_squares(x[:, None], y)

    def draw(axes: Axes) -> None:
        fitted = model.scores(x[:, None])
        axes.vlines(x, y, fitted, color=BASE, linewidth=1.6, label="errors, whose squares are added up")
        axes.plot([0, 10], model.scores(np.array([[0.0], [10.0]])), color=CHAT, linewidth=1.8, label="the line x w + b")
        axes.plot(x, y, linestyle="none", marker="o", markersize=4.5, color=INK)
        axes.yaxis.grid(color=GRID, linewidth=0.7)
        axes.set_xlabel("x")
        axes.set_ylabel("y")
        axes.set_ylim(0, 8.5)
        axes.legend(labelcolor=INK, loc="upper left")

    return render("residuals", "Points, a line, and the errors between them", 2.5, 0.68, draw)


def draw_turns() -> str:
    """Three groups, and the way of their centres from a bad beginning."""
    random = np.random.default_rng(3)
    middles = np.array([[0.0, 0.0], [3.2, 0.6], [1.6, 2.4]])
    points = np.vstack([middle + 0.55 * random.standard_normal((30, 2)) for middle in middles])
    start = np.array([[-0.9, 2.6], [-0.6, 1.4], [4.4, 3.2]])
    turns = [k_means(points, 3, start=start, turns=number) for number in range(1, 12)]
    path = np.stack([start, *(found.centres for found in turns)])

    def draw(axes: Axes) -> None:
        for group, colour in enumerate((BASE, CHAT, OTHER)):
            own = points[turns[-1].groups == group]
            axes.plot(own[:, 0], own[:, 1], linestyle="none", marker="o", markersize=3.2, color=colour, alpha=0.8)
            axes.plot(path[:, group, 0], path[:, group, 1], color=INK, linewidth=1.2, marker="o", markersize=2.6)
            axes.plot(*path[-1, group], marker="x", markersize=9, markeredgewidth=2, color=INK)
        _without_scale(axes)

    return render("turns", "Three groups of points and the ways of their centres", 2.7, 0.1, draw, bottom_in=0.1)


def draw_directions() -> str:
    """A cloud of points with its two directions, each as long as two deviations."""
    random = np.random.default_rng(5)
    points = random.standard_normal((120, 2)) * [1.5, 0.45] @ np.array([[0.85, 0.53], [-0.53, 0.85]])
    found = principal_components(points, 2)

    def draw(axes: Axes) -> None:
        axes.plot(points[:, 0], points[:, 1], linestyle="none", marker="o", markersize=3.2, color=OTHER)
        for direction, variance, colour, name in zip(
            found.directions, found.variances, (CHAT, BASE), ("first", "second"), strict=True
        ):
            start, end = found.mean, found.mean + 2 * np.sqrt(variance) * direction
            axes.annotate(
                "",
                (end[0], end[1]),
                (start[0], start[1]),
                arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 2.2},
            )
            share = f"{name}: {variance / found.variances.sum():.0%} of the variance"
            axes.plot([], [], color=colour, linewidth=2.2, label=share)
        _draw_shadow(axes, points[4], found)
        axes.legend(labelcolor=INK, loc="upper left")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_ylim(-2.9, 3.3)
        _without_scale(axes)

    return render("directions", "A cloud of points and its two principal directions", 3.0, 0.1, draw, bottom_in=0.1)


def _draw_shadow(axes: Axes, point: Floats, found: Components) -> None:
    """A point and the nearest one on the first direction, which is all that its first coordinate can say."""
    first = found.mean + ((point - found.mean) @ found.directions[0]) * found.directions[0]
    axes.plot(*zip(point, first, strict=True), color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.plot(*point, marker="o", markersize=4.5, color=INK)
    axes.plot(*first, marker="o", markersize=4.5, color=CHAT)


def _without_scale(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_color(SOFT if axes.get_xlabel() else GRID)


def draw_word_map() -> str:
    """Words of a small world in the plane of their first two components, from nothing but what stands beside them."""
    worlds = (
        ("cat dog horse", "sleeps eats runs plays"),
        ("car bus truck", "stops turns brakes runs"),
        ("apple pear plum", "ripens falls rots"),
    )
    texts = [f"the {who} {does}" for names, verbs in worlds for who in names.split() for does in verbs.split()]
    vocabulary = build_vocabulary(texts, min_count=1)
    counts = count_together(read_stream(texts, vocabulary), len(vocabulary), 2)
    vectors = WordVectors(vocabulary, factorise(counts, 4, np.random.default_rng(0)))
    words = [word for names, _ in worlds for word in names.split()]
    units = vectors.units[vocabulary.numbers(words)]
    places = principal_components(units, 2).project(units)

    def draw(axes: Axes) -> None:
        for number, (word, (x, y)) in enumerate(zip(words, places, strict=True)):
            colour = (CHAT, BASE, INK)[number // 3]
            axes.plot(x, y, marker="o", markersize=3.5, color=colour)
            # Words of one company lie at nearly one point: their names stand one above the other.
            axes.annotate(word, (x, y), (7, 12 - 12 * (number % 3)), textcoords="offset points", color=colour)
        axes.margins(0.25)
        _without_scale(axes)

    return render(
        "word-map", "Nine words in the plane: animals, vehicles and fruits apart", 2.6, 0.1, draw, bottom_in=0.1
    )


def draw_linear_graph() -> str:
    """What single numbers keep for one output of a linear layer of three inputs."""
    xs = [Value(number, label=f"x{index}") for index, number in enumerate((2.0, 0.5, -1.0), start=1)]
    weights = [Value(number, label=f"w{index}") for index, number in enumerate((0.3, -0.2, 0.1), start=1)]
    output = dot(xs, weights) + Value(0.4, label="b")
    output.backward()
    return draw_graph(output)


PICTURES: tuple[Picture, ...] = (
    # The valley is gone through at any effort; the network of the same lesson is not shown.
    Picture("optimizers.svg", of_lesson("optimizers", 0, effort=0.01)),
    Picture("optimizers-loss.svg", of_lesson("optimizers", 1, effort=0.01)),
    Picture("linear-models.svg", draw_residuals),
    Picture("linear-models-border.svg", of_lesson("logistic", 0)),
    Picture("linear-models-trace.svg", of_lesson("logistic", 1)),
    Picture("naive-bayes.svg", of_lesson("spam", 1)),
    Picture("neighbours.svg", of_lesson("neighbours", 0)),
    Picture("neighbours-15.svg", of_lesson("neighbours", 1)),
    Picture("decision-tree.svg", of_lesson("tree", 0)),
    Picture("decision-tree-depth.svg", of_lesson("tree", 3)),
    Picture("kmeans.svg", draw_turns),
    Picture("principal-components.svg", draw_directions),
    Picture("principal-components-letters.svg", of_lesson("components", 0, source=NAMES), needs=NAMES),
    # Untrained cells: the same at any effort.
    Picture("vanishing.svg", of_lesson("vanishing", 0, effort=0.002)),
    Picture("levels.svg", draw_linear_graph),
    # The text matters for the letters alone, which are not in this chart.
    Picture("numbers.svg", of_lesson("numbers", 1, source=ROOT / "README.md")),
    Picture("word-vectors.svg", draw_word_map),
)


# --------------------------------------------------------------------------------------- files of their own


@cache
def light_palette() -> dict[str, str]:
    """Variable -> colour, from the first rule of the reports' style sheet."""
    rule = STYLE.read_text(encoding="utf-8").split("}", 1)[0]
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]+)", rule))


def standalone(svg: str) -> str:
    """An element of a report's page as a file of its own.

    Colours stand as they are, since not every program that shows an SVG knows variables; ids are counted, since matplotlib's come
    from the numbers; coordinates are rounded to hundredths.
    """
    head, body = re.search(r"<svg[^>]*>", svg), svg.rpartition("</svg>")[0]
    if head is None:
        raise ValueError("there is no <svg> element")
    if "xmlns=" in head.group():
        return svg.strip() + "\n"
    body = body[head.end() :]
    palette = light_palette()
    body = re.sub(r"var\((--[\w-]+)\)", lambda found: palette[found[1]], body)
    for placeholder, variable in COLOURS.items():
        body = body.replace(placeholder, palette[variable])
    for number, name in enumerate(dict.fromkeys(re.findall(r' id="([^"]+)"', body))):
        body = re.sub(rf'(id="|url\(#|href="#){re.escape(name)}(?=["\)])', rf"\g<1>i{number}", body)
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(?<=\d)\.\d{3,}", _hundredths, tag.group()), body)
    box = _numbers(re.search(r'viewBox="([^"]+)"', head.group()))
    label = re.search(r'aria-label="([^"]*)"', head.group())
    title = label.group(1) if label else ""
    height = WIDTH_PX * box[3] / box[2]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{" ".join(f"{x:g}" for x in box)}" width="{WIDTH_PX}" '
        f'height="{height:.0f}" role="img" font-family="{FONTS}" stroke-linejoin="round">\n<title>{title}</title>\n'
        f'<rect width="{box[2]:g}" height="{box[3]:g}" fill="{palette["--paper"]}"/>\n{_tidy(body)}\n</svg>\n'
    )


def _hundredths(digits: re.Match[str]) -> str:
    return f"{float(digits.group()):.2f}"[1:] if float(digits.group()) < 0.995 else ".99"


def _tidy(body: str) -> str:
    """Without blank lines and spaces at the ends of lines."""
    return "\n".join(line.strip() for line in body.split("\n") if line.strip())


def _numbers(found: re.Match[str] | None) -> list[float]:
    return [float(number) for number in found.group(1).split()] if found else [0.0, 0.0, 100.0, 100.0]


# -------------------------------------------------------------------------------------------- comparison


def difference(stored: str, drawn: str, tolerance: float = TOLERANCE) -> str:
    """Where two drawings first differ by more than the tolerance; empty where they do not."""
    first, second = ([*ET.fromstring(text).iter()] for text in (stored, drawn))
    for number, (a, b) in enumerate(zip(first, second, strict=False)):
        name = f"element {number} <{a.tag.removeprefix(_SVG)}>"
        if a.tag != b.tag or sorted(a.attrib) != sorted(b.attrib):
            return f"{name} became <{b.tag.removeprefix(_SVG)}> with {', '.join(sorted(b.attrib)) or 'no attributes'}"
        for key in a.attrib:
            if not _alike(a.attrib[key], b.attrib[key], tolerance):
                return f"{name}, {key}: {_shortened(a.attrib[key])} became {_shortened(b.attrib[key])}"
        if (a.text or "").strip() != (b.text or "").strip():
            return f"{name}: {(a.text or '').strip()!r} became {(b.text or '').strip()!r}"
    return "" if len(first) == len(second) else f"{len(first)} elements became {len(second)}"


def _alike(a: str, b: str, tolerance: float) -> bool:
    if a == b:
        return True
    if a.startswith("#") or _NUMBER.sub("0", a) != _NUMBER.sub("0", b):
        return False
    pairs = zip(_NUMBER.findall(a), _NUMBER.findall(b), strict=True)
    return all(abs(float(x) - float(y)) <= tolerance for x, y in pairs)


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def check(picture: Picture) -> str:
    """What is wrong with a stored picture; empty where nothing is."""
    path = CONCEPTS / picture.file
    if not path.exists():
        return f"{picture.file} is not there: python tools/draw_concepts.py {picture.file}"
    found = difference(path.read_text(encoding="utf-8"), standalone(picture.draw()))
    return f"{picture.file}: {found}: look at it and run  python tools/draw_concepts.py" if found else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw or check the pictures of the concept pages.")
    parser.add_argument("names", nargs="*", help="how the names of the files begin; all without one")
    parser.add_argument("--check", action="store_true", help="compare with the stored files and change nothing")
    options = parser.parse_args(arguments)
    chosen = [x for x in PICTURES if not options.names or x.file.startswith(tuple(options.names))]
    if not chosen:
        parser.error(f"no picture begins with {' or '.join(options.names)}: {', '.join(x.file for x in PICTURES)}")
    wrong = 0
    for picture in chosen:
        if picture.needs is not None and not picture.needs.exists():
            print(f"{picture.file}: left out, since {picture.needs} is not there")
        elif options.check:
            found = check(picture)
            wrong += bool(found)
            print(found or f"{picture.file}: as stored")
        else:
            text = standalone(picture.draw())
            write_text(CONCEPTS / picture.file, text)
            print(f"{picture.file}: {len(text.encode()) / 1000:.1f} kB")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
