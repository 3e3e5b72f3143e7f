"""k-means: points in groups around their means. Codebooks of vector quantisation are made so.

Lloyd's algorithm (1957, published 1982) takes turns: each point goes to the nearest centre, each centre to the mean of its
points. The sum of squared distances never grows, so it ends; where it ends depends on where it began. k-means++ (Arthur and
Vassilvitskii 2007) begins with points far apart: each next centre is a point drawn by its squared distance to those there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError
from groundup.foundations.classic.neighbours import squared_distances

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Clusters:
    """Groups of points.

    Attributes:
        centres: (groups, columns).
        groups: (points,), the group of each.
        inertia: sum of squared distances to the centres.
        history: the same after each turn.
    """

    centres: Floats
    groups: NDArray[np.int64]
    inertia: float
    history: tuple[float, ...]


def k_means(
    points: Floats, count: int, *, seed: int = 0, tries: int = 10, turns: int = 300, start: Floats | None = None
) -> Clusters:
    """The best of several runs.

    Args:
        points: (points, columns).
        count: groups.
        seed: of the beginnings.
        tries: runs, of which the one of least inertia counts.
        turns: of one run, at most.
        start: centres to begin with, which then is done once.

    Raises:
        UsageError: for more groups than points, or none; for no tries, or centres of another shape.
    """
    if points.ndim != 2 or not 1 <= count <= len(points):
        raise UsageError(f"{count} groups of points of shape {points.shape}: 1 to as many as there are points")
    if tries < 1 or (start is not None and start.shape != (count, points.shape[1])):
        begun = "" if start is None else f" from centres of shape {start.shape}"
        raise UsageError(
            f"{tries} tries{begun}: at least 1 is needed, and centres of shape {(count, points.shape[1])} where they are given"
        )
    random = np.random.default_rng(seed)
    starts = [start] if start is not None else [_far_apart(points, count, random) for _ in range(tries)]
    return min((_lloyd(points, centres, turns) for centres in starts), key=lambda found: found.inertia)


def _far_apart(points: Floats, count: int, random: np.random.Generator) -> Floats:
    centres = [points[random.integers(len(points))]]
    for _ in range(count - 1):
        distances = squared_distances(points, np.array(centres)).min(axis=1)
        total = distances.sum()
        # Where all points lie on centres, any will do.
        shares = distances / total if total > 0 else np.full(len(points), 1 / len(points))
        centres.append(points[random.choice(len(points), p=shares)])
    return np.array(centres)


def _lloyd(points: Floats, centres: Floats, turns: int) -> Clusters:
    history: list[float] = []
    groups = np.full(len(points), -1)
    for _ in range(turns):
        distances = squared_distances(points, centres)
        found = distances.argmin(axis=1)
        history.append(float(distances[np.arange(len(points)), found].sum()))
        if np.array_equal(found, groups):
            break
        groups = found
        # A centre that lost all of its points stays where it is.
        centres = np.array(
            [
                points[groups == group].mean(axis=0) if (groups == group).any() else centres[group]
                for group in range(len(centres))
            ]
        )
    distances = squared_distances(points, centres)
    groups = distances.argmin(axis=1)
    inertia = float(distances[np.arange(len(points)), groups].sum())
    return Clusters(centres, groups.astype(np.int64), inertia, (*history, inertia))
