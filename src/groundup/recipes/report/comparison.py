"""The page of a comparison: the verdict, curves with the spread of the seeds, a table, what differs, what is the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from groundup.core.files import write_text
from groundup.recipes.report.charts import BASE, CHAT, GRID, HEIGHT_IN, INK, SOFT, render, tick
from groundup.recipes.report.tables import Chart, Table, facts_table
from groundup.recipes.report.words import (
    NOTHING,
    compact,
    count,
    decimal,
    duration,
    label,
    percent,
    scientific,
    shorten,
    size,
)
from groundup.recipes.report.write import page_template

#: The base is drawn in the one colour, the other idea in the other, everywhere on the page.
SIDES = {"a": BASE, "b": CHAT}
_MATCHES = {
    "tokens": "the same number of trained tokens",
    "flops": "the same number of operations in training",
    "time": "the same time for updates",
    "parameters": "as many parameters and as many trained tokens",
}


@dataclass(frozen=True)
class Band:
    """A curve of several seeds: the mean, and the range from the lowest to the highest."""

    places: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def write_comparison(path: Path, found: dict[str, Any]) -> Path:
    """Write the page of what `comparison.json` holds; the same numbers give the same bytes.

    Returns:
        `path`.
    """
    names = {key: label(name) for key, name in found["names"].items()}
    page = {
        "title": f"{names['a']} against {names['b']}",
        "verdict": found["verdict"],
        "told": found["difference"]["told"],
        "explained": _explained(found),
        "tiles": _tiles(found),
        "charts": _charts(found, names),
        "seeds": _seeds_table(found, names),
        "costs": _costs_table(found, names),
        "differs": _differs_table(found, names),
        "same": found["same"],
        "unequal": _unequal(found, names),
        "command": found["command"],
        "settings": [
            facts_table(f"What {shorten(found['files'][key], 120)} says.", found["settings"][key]) for key in ("a", "b")
        ],
        "names": names,
        "machine": found["machine"],
        "versions": ", ".join(f"{name} {value}" for name, value in found["versions"].items()),
    }
    write_text(path, page_template("comparison.html.j2").render(page))
    return path


def _explained(found: dict[str, Any]) -> str:
    difference, seeds = found["difference"], len(found["seeds"])
    text = (
        f"Both were given {_MATCHES[found['match']]}. Each was trained {seeds} times; runs of the same seed read the same "
        f"data and are compared with each other, on {compact(found['test']['bytes'])} bytes of held-out text "
        f"in {count(found['test']['groups'])} groups."
        if seeds > 1
        else f"Both were given {_MATCHES[found['match']]} and trained once, with the same seed, and are compared on "
        f"{compact(found['test']['bytes'])} bytes of held-out text in {count(found['test']['groups'])} groups."
    )
    over = {
        "seeds and texts": " The interval is over both: another seed and other texts of this kind would most likely "
        "give a difference within it.",
        "seeds": " The interval is over seeds only: there is one group of texts.",
        "texts": " The interval is over texts only, and says nothing about other seeds.",
        "nothing": "",
    }
    return text + over[difference["over"]]


def _tiles(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    difference = found["difference"]
    borders = "no interval"
    if difference["low"] is not None:
        borders = f"{decimal(difference['low'], 4, sign=True)} to {decimal(difference['high'], 4, sign=True)}"
    means = {key: float(np.mean([seed[key] for seed in found["seeds"]])) for key in ("a", "b")}
    return [
        ("difference, bits per byte", decimal(difference["value"], 4, sign=True), f"95 % interval {borders}"),
        *(
            (
                f"{label(found['names'][key])}, bits per byte",
                decimal(means[key], 4),
                f"{compact(found['costs'][key]['parameters'])} parameters",
            )
            for key in ("a", "b")
        ),
    ]


# ----------------------------------------------------------------------------------------------- curves


def _charts(found: dict[str, Any], names: dict[str, str]) -> list[Chart]:
    many = "; the band holds all seeds" if len(found["seeds"]) > 1 else ""
    charts = []
    for place, words in (("tokens", "trained tokens"), ("seconds", "seconds of updates")):
        bands = {key: _band(found["curves"][key], place) for key in SIDES}
        if all(len(band.places) for band in bands.values()):
            title = f"Validation bits per byte over {words}"
            svg = _band_chart(f"by-{place}", title, bands, names, words)
            charts.append(Chart(svg, f"Bits per byte of the validation split by {words}{many}."))
    charts.append(
        Chart(
            _difference_chart(found),
            f"{names['b']} minus {names['a']} on the test split: each seed (dots), and the mean with its 95 % interval. "
            f"Left of zero {names['b']} is better.",
        )
    )
    return charts


def _band(curves: Sequence[dict[str, Any]], place: str) -> Band:
    """The seeds' curves as one; seeds are measured after the same updates, at slightly other times."""
    length = min((len(curve["points"]) for curve in curves), default=0)
    if length == 0:
        return Band([], [], [], [])
    values = np.array([[point["bits_per_byte"] for point in curve["points"][:length]] for curve in curves])
    places = np.array([[point[place] for point in curve["points"][:length]] for curve in curves]).mean(axis=0)
    low, high = values.min(axis=0), values.max(axis=0)
    return Band(places.tolist(), values.mean(axis=0).tolist(), low.tolist(), high.tolist())


def _band_chart(name: str, title: str, bands: dict[str, Band], names: dict[str, str], words: str) -> Markup:
    def draw(axes: Axes) -> None:
        for key, band in bands.items():
            colour = SIDES[key]
            axes.fill_between(band.places, band.low, band.high, color=colour, alpha=0.22, linewidth=0)
            axes.plot(band.places, band.mean, color=colour, linewidth=1.6, marker="o", markersize=3, label=names[key])
        axes.set_xlabel(words)
        axes.set_ylabel("bits per byte")
        axes.set_xlim(0, 1.05 * max(band.places[-1] for band in bands.values()))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.yaxis.grid(color=GRID, linewidth=0.7)
        axes.legend(loc="upper right", labelcolor=INK)

    return render(name, title, HEIGHT_IN, 0.68, draw)


def _difference_chart(found: dict[str, Any]) -> Markup:
    difference, seeds = found["difference"], found["seeds"]
    rows = [f"seed {seed['seed']}" for seed in seeds]

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=SOFT, linewidth=1)
        for row, seed in enumerate(seeds):
            axes.plot(seed["difference"], row, marker="o", markersize=5, color=CHAT, linestyle="none")
        mean = len(seeds)
        if difference["low"] is not None:
            axes.plot([difference["low"], difference["high"]], [mean, mean], color=INK, linewidth=1.4)
            for edge in (difference["low"], difference["high"]):
                axes.plot([edge, edge], [mean - 0.18, mean + 0.18], color=INK, linewidth=1.4)
        axes.plot(difference["value"], mean, marker="D", markersize=5, color=INK, linestyle="none")
        axes.set_yticks(range(mean + 1), [*rows, "mean"])
        axes.set_ylim(mean + 0.6, -0.6)
        known = [difference["value"], difference["low"], difference["high"], *(seed["difference"] for seed in seeds)]
        widest = max(abs(value) for value in known if value is not None) or 1e-3
        axes.set_xlim(-1.15 * widest, 1.15 * widest)
        axes.set_xlabel("difference in bits per byte")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], symmetric=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.3g}" if value else "0"))
        axes.xaxis.grid(color=GRID, linewidth=0.7)

    return render("differences", "Difference of each seed, and the mean", 0.75 + 0.24 * (len(seeds) + 1), 0.68, draw)


# ----------------------------------------------------------------------------------------------- tables


def _seeds_table(found: dict[str, Any], names: dict[str, str]) -> Table:
    table = Table(
        "Bits per byte on the test split, which nothing was chosen by: each run keeps its weights of the lowest "
        "validation bits per byte.",
        ("seed", f"#{names['a']}", f"#{names['b']}", "#difference"),
    )
    for seed in found["seeds"]:
        table.add(
            str(seed["seed"]), decimal(seed["a"], 4), decimal(seed["b"], 4), decimal(seed["difference"], 4, sign=True)
        )
    difference = found["difference"]
    means = [decimal(float(np.mean([seed[key] for seed in found["seeds"]])), 4) for key in ("a", "b")]
    table.add("mean", *means, decimal(difference["value"], 4, sign=True), style="total")
    return table


def _costs_table(found: dict[str, Any], names: dict[str, str]) -> Table:
    table = Table(
        "What one run took; times are medians over the seeds, of updates alone. Memory is computed from the shapes, "
        "without that of the interpreter; a part read from a file has no such number.",
        ("quantity", f"#{names['a']}", f"#{names['b']}", "#second over first"),
    )
    rows: list[tuple[str, str, Any]] = [
        ("parameters", "parameters", count),
        ("parameters without embeddings", "non_embedding_parameters", count),
        ("updates", "steps", count),
        ("trained tokens", "tokens", count),
        ("operations of training", "flops", scientific),
        ("seconds of updates", "seconds", duration),
        ("trained tokens in a second", "tokens_per_s", count),
        ("memory", "memory_bytes", size),
        ("updates skipped (gradient not finite)", "skipped_updates", count),
    ]
    for words, key, write in rows:
        a, b = (found["costs"][side][key] for side in ("a", "b"))
        if key == "skipped_updates" and not a and not b:
            continue
        table.add(words, write(a), write(b), decimal(b / a, 3) if a and b else NOTHING)
    return table


def _differs_table(found: dict[str, Any], names: dict[str, str]) -> Table:
    table = Table(
        "Every setting in which the two differ. “the files”: a file says so; “equal …”: it makes the budgets equal; "
        "“follows”: it follows from the others.",
        ("setting", names["a"], names["b"], "why"),
    )
    for one in found["differs"]:
        table.add(label(one["name"], 80), shorten(one["a"], 200), shorten(one["b"], 200), one["why"])
    return table


def _unequal(found: dict[str, Any], names: dict[str, str]) -> str:
    """A sentence where the budgets came out unequal."""
    if found["budget"]["is_equal"]:
        return ""
    match = found["match"]
    apart = found["budget"][match]
    return (
        f"The budgets are not equal: {names['b']} used {percent(abs(apart))} {'more' if apart > 0 else 'less'} "
        f"{match} than {names['a']}. The verdict stands with that reservation."
    )
