"""All ways to cut many words at once, as arrays: sums over the ways, expected counts, and the best way.

The ways to cut a word are the paths through a lattice whose nodes are the places between its characters and whose edges
are the tokens that fit. The dynamic programs go from left to right; here one step takes the edges that end at place t in
all words together.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True)
class Lattice:
    """The lattices of some words, E edges and N nodes in all.

    Attributes:
        tokens: the token of each edge, shape (E,); edges are in the order of the places where they end within a word,
            then of the words, then of the places where they begin.
        starts, ends: the nodes of each edge, shape (E,).
        levels: the place within its word where each edge ends, shape (E,).
        first, last: the first and last node of each word.
        num_nodes: N.
    """

    tokens: Ints
    starts: Ints
    ends: Ints
    levels: Ints
    first: Ints
    last: Ints
    num_nodes: int

    def without(self, removed: npt.NDArray[np.bool_]) -> Lattice:
        """Return the lattice without the edges of some tokens (True), whose ids stay as they are."""
        kept = ~removed[self.tokens]
        return replace(
            self,
            tokens=self.tokens[kept],
            starts=self.starts[kept],
            ends=self.ends[kept],
            levels=self.levels[kept],
        )

    def log_sums(self, scores: Floats) -> Floats:
        """Return alpha, shape (N,): the log of the sum over all ways from a word's beginning to each node.

        alpha[n] = log sum over edges e into n of exp(alpha[start of e] + score of e)
        """
        alpha = self._beginning()
        for edges, groups, nodes in self._forward():
            values = alpha[self.starts[edges]] + scores[self.tokens[edges]]
            alpha[nodes] = _log_sum(values, groups)
        return alpha

    def expected_counts(self, scores: Floats, weights: Floats) -> tuple[Floats, float]:
        """Return how often each token is expected over all ways of all words, and the log-likelihood of the words.

        The probability that a word is cut through edge e is exp(alpha[start] + score + beta[end] - alpha[last]), where
        beta is what alpha is, from the end backwards (the forward-backward algorithm).

        Args:
            scores: log-probability of each token, shape (V,).
            weights: how often each word occurs.
        """
        alpha = self.log_sums(scores)
        beta = np.full(self.num_nodes, -np.inf)
        beta[self.last] = 0.0
        for edges, groups, nodes in self._backward():
            values = beta[self.ends[edges]] + scores[self.tokens[edges]]
            beta[nodes] = _log_sum(values, groups)
        word = self.words_of(self.starts)
        whole = alpha[self.last]
        log_shares = alpha[self.starts] + scores[self.tokens] + beta[self.ends] - whole[word]
        shares = np.exp(log_shares) * weights[word]
        counts = np.bincount(self.tokens, shares, minlength=len(scores)).astype(np.float64)
        return counts, float(weights @ whole)

    def words_of(self, nodes: Ints) -> Ints:
        """Return the word that each node belongs to."""
        found: Ints = np.searchsorted(self.first, nodes, side="right") - 1
        return found

    def best(self, scores: Floats) -> tuple[Floats, list[Ints]]:
        """Return the score of each word's best way, and its edges step by step from the ends of the words.

        Of equally good ways the one whose last token is longest wins.

        Returns:
            scores (one for each word), and for each step back the edges of the words that go on so far.
        """
        value = self._beginning()
        back = np.full(self.num_nodes, -1, dtype=np.int64)
        for edges, groups, nodes in self._forward():
            values = value[self.starts[edges]] + scores[self.tokens[edges]]
            highest = np.maximum.reduceat(values, groups)
            value[nodes] = highest
            # The first edge that reaches the highest value: sorted backwards, the last write wins.
            sizes = np.diff(np.append(groups, len(values)))
            hits = np.flatnonzero(values == np.repeat(highest, sizes))[::-1]
            back[self.ends[edges][hits]] = np.arange(edges.start, edges.stop)[hits]
        steps: list[Ints] = []
        nodes = self.last[np.isfinite(value[self.last])]
        while True:
            through = back[nodes]
            through = through[through >= 0]
            if not len(through):
                return value[self.last], steps
            steps.append(through)
            nodes = self.starts[through]

    def _beginning(self) -> Floats:
        value = np.full(self.num_nodes, -np.inf)
        value[self.first] = 0.0
        return value

    def _forward(self) -> list[tuple[slice, Ints, Ints]]:
        """For each place: its edges, where the group of each node they end in begins, and these nodes."""
        return _groups(self.levels, self.ends)

    def _backward(self) -> list[tuple[Ints, Ints, Ints]]:
        """The same for the places where edges begin, from the right."""
        begins = self.levels - (self.ends - self.starts)
        order = np.lexsort((self.starts, -begins))
        return [(order[edges], groups, nodes) for edges, groups, nodes in _groups(-begins[order], self.starts[order])]


def build_lattice(words: Sequence[str], ids: Mapping[str, int], *, left_out: Collection[str] = ()) -> Lattice:
    """Return the lattices of some words.

    Args:
        words: each made of characters that are tokens.
        ids: every token and its place in the array of scores.
        left_out: words whose own token is no way to cut them.
    """
    longest = max(map(len, ids), default=0)
    tokens, starts, ends, levels, first = (array("i") for _ in range(5))  # millions of edges: four bytes for each
    node = 0
    for word in words:
        own = word if word in left_out else None
        first.append(node)
        for end in range(1, len(word) + 1):
            for start in range(max(0, end - longest), end):
                id = ids.get(word[start:end])
                if id is not None and (end - start < len(word) or own is None):
                    tokens.append(id)
                    starts.append(node + start)
                    ends.append(node + end)
                    levels.append(end)
        node += len(word) + 1
    level = np.array(levels, dtype=np.int32)
    order = np.argsort(level, kind="stable")
    lengths = np.array([len(word) for word in words], dtype=np.int32)
    nodes = np.array(first, dtype=np.int32)
    return Lattice(
        np.array(tokens, dtype=np.int32)[order],
        np.array(starts, dtype=np.int32)[order],
        np.array(ends, dtype=np.int32)[order],
        level[order],
        nodes,
        nodes + lengths,
        node,
    )


def _groups(levels: Ints, nodes: Ints) -> list[tuple[slice, Ints, Ints]]:
    """Cut edges, sorted by level and then by node, into levels, and each of these into its nodes."""
    if not len(levels):
        return []
    level_starts = np.append(np.flatnonzero(np.diff(levels, prepend=levels[0] - 1)), len(levels))
    found: list[tuple[slice, Ints, Ints]] = []
    for start, stop in zip(level_starts[:-1].tolist(), level_starts[1:].tolist(), strict=True):
        inside = nodes[start:stop]
        groups = np.flatnonzero(np.diff(inside, prepend=inside[0] - 1))
        found.append((slice(start, stop), groups, inside[groups]))
    return found


def _log_sum(values: Floats, groups: Ints) -> Floats:
    """Return the log of the sum of exp(values) in each group; a group that cannot be reached stays so."""
    highest = np.maximum.reduceat(values, groups)
    safe = np.where(np.isfinite(highest), highest, 0.0)
    sizes = np.diff(np.append(groups, len(values)))
    with np.errstate(divide="ignore"):
        result: Floats = safe + np.log(np.add.reduceat(np.exp(values - np.repeat(safe, sizes)), groups))
    return result
