"""Charts as SVG that stands inline in a page and takes its colours and fonts from the page's style sheet.

Figures are made through matplotlib's objects (no pyplot). Colours are written as placeholders and become CSS
variables, so that one drawing serves light, dark and paper. The same data give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from groundup.recipes.report.words import compact, label, power_of_ten, scientific, significant

FloatArray = NDArray[np.float64]

# placeholder -> variable of style.css
COLOURS = {
    "#a10001": "--ink",
    "#a10002": "--soft",
    "#a10003": "--grid",
    "#a10004": "--chat",
    "#a10005": "--base",
    "#a10006": "--other",
    "#a10007": "--paper",
}
INK, SOFT, GRID, CHAT, BASE, OTHER, PAPER = COLOURS
WIDTH_IN = 4.7
HEIGHT_IN = 2.5
FONT_PT = 9.0
# More points than this cannot be seen at the width of a chart, and only make the page heavy.
MAX_POINTS = 1_000
# Whatever a user's matplotlibrc says, a report looks the same.
_STYLE = {
    **{key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith(("backend", "_"))},
    "svg.fonttype": "none",
    "font.size": FONT_PT,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": GRID,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": FONT_PT,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Series:
    """Values over updates, in order."""

    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """A bar with its interval (None where there is none) and the colour of its series."""

    value: float
    low: float | None
    high: float | None
    colour: str
    text: str


def render(
    name: str, title: str, height_in: float, left_in: float, draw: Callable[[Axes], None], *, bottom_in: float = 0.42
) -> Markup:
    """Draw one chart.

    Args:
        name: unique on the page; goes into the ids of the SVG.
        title: what a screen reader says.
        height_in: height in inches; the width is always `WIDTH_IN`.
        left_in: inches left of the axes, for their labels.
        draw: fills the axes.
        bottom_in: inches below the axes.

    Returns:
        an `<svg>` element without ids that nothing refers to, without metadata, links or fonts of its own.
    """
    with _drawing(name):
        figure = Figure(figsize=(WIDTH_IN, height_in))
        FigureCanvasSVG(figure)
        # Fixed margins: matplotlib's own layout measures text in a font that the page does not use, at twice the time.
        bottom, top = bottom_in / height_in, 0.06 / height_in
        axes = figure.add_axes((left_in / WIDTH_IN, bottom, 1 - (left_in + 0.1) / WIDTH_IN, 1 - bottom - top))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.set_axisbelow(True)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue(), name, title)


@contextmanager
def _drawing(name: str) -> Iterator[None]:
    with warnings.catch_warnings(), matplotlib.rc_context({**_STYLE, "svg.hashsalt": f"groundup-{name}"}):
        # The text is drawn by the browser's fonts: what DejaVu lacks is no loss here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def _inline(svg: str, name: str, title: str) -> Markup:
    """Turn a file of matplotlib's into an element of a page."""
    body = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]*)"', body)
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style .*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    used = {first or second for first, second in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', body)}
    # Only tags are rewritten: a text that looks like an attribute stays as it is.
    body = re.sub(r"<[^>]+>", lambda tag: _rewrite_tag(tag.group(), name, used), body)
    head = f'<svg viewBox="{box.group(1) if box else "0 0 100 100"}" role="img" aria-label="{escape(title)}">'
    return Markup(head + body.strip())


def _rewrite_tag(tag: str, name: str, used: set[str]) -> str:
    """Keep only ids that are referred to and make them unique on the page; take colours and fonts from its style."""
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", tag)
    tag = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', tag)
    tag = re.sub(r"font(?:-family)?: (?:[^;\"]*px )?'[^;\"]*(?=[;\"])", f"font-size: {FONT_PT:g}px", tag)
    for placeholder, variable in COLOURS.items():
        tag = re.sub(rf"(fill|stroke): {placeholder}\b", rf"\1: var({variable})", tag)
    return tag


# ------------------------------------------------------------------------------------------------ lines


def loss_chart(name: str, title: str, train: Series, validation: Series) -> Markup:
    """Loss of each update (faint), its running mean, and the validation loss as points."""

    def draw(axes: Axes) -> None:
        _curve(axes, train, CHAT, "training", _running_mean)
        if validation.steps:
            axes.plot(
                validation.steps, validation.values, color=BASE, linewidth=1.2, marker="o", markersize=3.4,
                label="held-out (validation)", zorder=4,
            )  # fmt: skip
            best = int(np.argmin(validation.values))
            side = "right" if validation.steps[best] > 0.8 * validation.steps[-1] else "center"
            axes.annotate(
                f"lowest {significant(validation.values[best])}",
                (validation.steps[best], validation.values[best]),
                xytext=(0, 9), textcoords="offset points", ha=side, va="bottom", color=INK, fontsize=FONT_PT,
            )  # fmt: skip
        axes.set_ylabel("loss (nats per token)")
        _over_updates(axes)
        axes.legend(loc="upper right", labelcolor=INK)

    return render(name, title, HEIGHT_IN, 0.68, draw)


def line_chart(name: str, title: str, series: Series, unit: str, *, noisy: bool) -> Markup:
    """One quantity over the updates; on a logarithmic axis when single spikes would hide all the rest.

    A noisy one is drawn faint with its running median, which a single spike does not move. Small quantities (learning rates) are drawn in units of a power of ten, which goes into the axis' name.
    """
    top = max(map(abs, series.values))
    if 1e-60 < top < 0.01:
        power = math.floor(math.log10(top))
        series = Series(series.steps, [value / 10.0**power for value in series.values])
        unit = f"{unit} (in {power_of_ten(power)})"

    def draw(axes: Axes) -> None:
        if noisy:
            _curve(axes, series, OTHER, unit, _running_median)
        else:
            axes.plot(*_means(series), color=OTHER, linewidth=1.6)
        axes.set_ylabel(unit)
        values = np.asarray(series.values)
        _over_updates(axes)
        if values.min() > 0 and values.max() > 30 * float(np.median(values)):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        elif values.min() >= 0:
            axes.set_ylim(bottom=0)

    return render(name, title, HEIGHT_IN, 0.68, draw)


def _curve(axes: Axes, series: Series, colour: str, name: str, smooth: Callable[[FloatArray, int], FloatArray]) -> None:
    axes.plot(*_extremes(series), color=colour, alpha=0.3, linewidth=0.8)
    steps, values = _means(series)
    axes.plot(steps, smooth(values, max(1, len(values) // 40)), color=colour, linewidth=1.7, label=name)


def _means(series: Series) -> tuple[FloatArray, FloatArray]:
    """The points; of more than `MAX_POINTS`, the means of neighbours."""
    steps, values, starts = _binned(series)
    sizes = np.diff([*starts, len(values)])
    return np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes


def _extremes(series: Series) -> tuple[FloatArray, FloatArray]:
    """The points; of more than `MAX_POINTS`, the lowest and the highest of neighbours, so that no spike is lost."""
    steps, values, starts = _binned(series)
    if len(starts) == len(values):
        return steps, values
    both = np.stack([np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)], axis=1)
    return np.repeat(steps[starts], 2), both.reshape(-1)


def _binned(series: Series) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """Steps, values, and where each bin of neighbours begins."""
    steps, values = np.asarray(series.steps, dtype=float), np.asarray(series.values, dtype=float)
    num_bins = min(len(values), MAX_POINTS)
    return steps, values, np.arange(num_bins, dtype=np.int64) * len(values) // max(1, num_bins)


def _running_mean(values: FloatArray, window: int) -> FloatArray:
    """Mean of the neighbours on both sides: it does not lag as a trailing mean does."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low, high = _neighbours(len(values), window)
    return np.asarray((sums[high] - sums[low]) / (high - low))


def _running_median(values: FloatArray, window: int) -> FloatArray:
    """The same with the median."""
    return np.array([np.median(values[a:b]) for a, b in zip(*_neighbours(len(values), window), strict=True)])


def _neighbours(count: int, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last (exclusive) neighbour of each point.

    At the beginning, where curves are steep, as few on the right as there are on the left, so that the start is not
    lowered; at the end, where they are flat, all on the left, so that the last point alone does not bend the line.
    """
    index = np.arange(count, dtype=np.int64)
    right = np.minimum(window, np.minimum(index, count - 1 - index))
    return np.maximum(0, index - window), index + right + 1


def _over_updates(axes: Axes) -> None:
    axes.set_xlabel("update")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.yaxis.grid(color=GRID, linewidth=0.7)
    axes.margins(x=0.01)


def tick(value: float) -> str:
    """A number beside an axis."""
    if value == 0:
        return "0"
    if 1e6 <= abs(value) < 1e15:
        return compact(value)
    if abs(value) < 1e-3 or abs(value) >= 1e15:
        return scientific(value)
    return f"{value:,.6g}"


# ------------------------------------------------------------------------------------------------- bars


def bar_chart(
    name: str,
    title: str,
    groups: Sequence[tuple[str, Sequence[Bar]]],
    axis: str,
    legend: Sequence[tuple[str, str]] = (),
    *,
    limit: float | None = None,
) -> Markup:
    """Horizontal bars from zero, each group under its name, with intervals as thin lines.

    Args:
        groups: name above the bars, and its bars.
        axis: what the length says, with the unit.
        legend: colour and name of each series.
        limit: the right end of the axis; by default the longest bar.
    """
    places = _places(groups)
    total = places[-1][1][-1] + 0.6 if places and places[-1][1] else 1.0

    def draw(axes: Axes) -> None:
        longest = limit or max((bar.high or bar.value for _, bars in groups for bar in bars), default=1.0) or 1.0
        for (text, bars), (head, rows) in zip(groups, places, strict=True):
            axes.text(0, head, label(text), va="center", ha="left", color=INK, fontsize=FONT_PT)
            for bar, row in zip(bars, rows, strict=True):
                _bar(axes, bar, row, longest)
        axes.set_xlim(0, longest * 1.14)
        axes.set_ylim(total, -0.5)
        axes.set_yticks([])
        axes.set_xlabel(axis)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value <= longest else ""))
        axes.xaxis.grid(color=GRID, linewidth=0.7)
        axes.spines["bottom"].set_visible(False)

    chart = render(name, title, 0.55 + 0.19 * total, 0.06, draw)
    return _legend(legend) + chart


def _places(groups: Sequence[tuple[str, Sequence[Bar]]]) -> list[tuple[float, list[float]]]:
    """Where each group's name and bars stand, from the top, in rows of one bar."""
    places, at = [], 0.0
    for _, bars in groups:
        rows = [at + 0.95 + 0.88 * index for index in range(len(bars))]
        places.append((at, rows))
        at = (rows[-1] if rows else at) + 1.35
    return places


def _bar(axes: Axes, bar: Bar, row: float, longest: float) -> None:
    axes.barh(row, bar.value, height=0.68, color=bar.colour)
    end = bar.value
    if bar.low is not None and bar.high is not None:
        end = max(end, bar.high)
        axes.plot([bar.low, bar.high], [row, row], color=PAPER, linewidth=3.2, solid_capstyle="butt")
        axes.plot([bar.low, bar.high], [row, row], color=INK, linewidth=1.2, solid_capstyle="butt")
        for edge in (bar.low, bar.high):
            axes.plot([edge, edge], [row - 0.2, row + 0.2], color=INK, linewidth=1.2)
    axes.text(end + 0.012 * longest, row, bar.text, va="center", ha="left", color=INK, fontsize=FONT_PT)


def _legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """The legend as HTML: it wraps on a phone."""
    if not entries:
        return Markup()
    items = Markup().join(
        Markup('<span><i style="background: var({})"></i>{}</span>').format(COLOURS[colour], name)
        for colour, name in entries
    )
    return Markup('<div class="legend">{}</div>').format(items)
