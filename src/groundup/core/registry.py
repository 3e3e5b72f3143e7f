"""Pairs of a readable reference and a fast path, and the slots that a user's own version can fill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from groundup.core.errors import UsageError, suggest


@dataclass(frozen=True)
class Pair:
    """A hot operation written twice.

    Attributes:
        name: dotted name, such as `tokenizer.encode`.
        reference: the readable version; it defines the result.
        fast: the version used by default.
        inputs: `inputs(seed) -> tuple of arguments`, fresh random ones for each seed.
        tolerance: largest allowed `max|a-b| / max|b|`; 0 demands equality.
    """

    name: str
    reference: Callable[..., Any]
    fast: Callable[..., Any]
    inputs: Callable[[int], tuple[Any, ...]]
    tolerance: float


_pairs: dict[str, Pair] = {}


def register(
    name: str,
    reference: Callable[..., Any],
    fast: Callable[..., Any],
    inputs: Callable[[int], tuple[Any, ...]],
    tolerance: float = 0.0,
) -> None:
    """Register a pair; one parity test and one benchmark run over all of them."""
    _pairs[name] = Pair(name, reference, fast, inputs, tolerance)


def pairs() -> dict[str, Pair]:
    """All registered pairs by name (import the folder that registers them first)."""
    return dict(_pairs)


def pair(name: str) -> Pair:
    """The pair of that name.

    Raises:
        UsageError: when there is none; the nearest name is suggested.
    """
    if name not in _pairs:
        raise UsageError(f"no pair named {name!r}{suggest(name, tuple(_pairs))}")
    return _pairs[name]
