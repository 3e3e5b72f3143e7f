"""The one benchmark harness: validate, warm up, repeat, run the peer in the same process in the order A B A B.

A row says how long one call takes (median and spread), how many times faster it is than its peer, and, where the work
is known, the least time that this machine could need for it (the floor) and the share of it that was reached. Results
go to `benchmarks/results/NAME.json` with the machine's fingerprint; the tables of the README are made from them.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from groundup.core.console import format_seconds, say, warn
from groundup.core.execution import available_cpus, machine_fingerprint
from groundup.core.files import write_json

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median over samples, and the middle half of them."""

    median_s: float
    lower_quartile_s: float
    upper_quartile_s: float
    samples: int
    calls_per_sample: int

    @property
    def spread(self) -> float:
        """Width of the middle half over the median; above about 0.1 the machine was busy with something else."""
        return (self.upper_quartile_s - self.lower_quartile_s) / self.median_s


@dataclass(frozen=True)
class Work:
    """What a call cannot do without: arithmetic operations, and bytes read from and written to memory once."""

    operations: float = 0.0
    moved_bytes: float = 0.0


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what was measured.
        ours, peer: timings of the version in use and of what it is compared with.
        peer_name: how the table names the peer.
        ratio: the peer's time over ours, the median over neighbouring samples; above 1 ours is faster.
        ratio_lower, ratio_upper: the middle half of these ratios.
        difference: largest relative difference of the two results.
        floor_s: the least time that this machine could need.
        share_of_floor: `floor_s` over our median; 1 cannot be passed.
    """

    name: str
    ours: Timing
    peer: Timing | None
    peer_name: str
    ratio: float | None
    ratio_lower: float | None
    ratio_upper: float | None
    difference: float | None
    floor_s: float | None
    share_of_floor: float | None


class ValidationError(AssertionError):
    """The two versions do not give the same result; nothing was timed."""


def relative_difference(ours: Any, reference: Any) -> float:
    """max|a-b| / max|b| over everything two results hold; 0 when they are equal, infinity when they cannot be compared.

    Args:
        ours: tensors, arrays, numbers, or sequences and mappings of them; anything else is compared with ==.
        reference: the same structure.
    """
    if hasattr(reference, "shape") and hasattr(ours, "shape"):
        if tuple(ours.shape) != tuple(reference.shape) or ours.dtype != reference.dtype:
            return math.inf
        return _array_difference(ours, reference)
    if isinstance(reference, Mapping) and isinstance(ours, Mapping):
        if ours.keys() != reference.keys():
            return math.inf
        return max((relative_difference(ours[key], reference[key]) for key in reference), default=0.0)
    if isinstance(reference, (list, tuple)) and isinstance(ours, (list, tuple)):
        if len(ours) != len(reference):
            return math.inf
        if ours == reference if not _holds_arrays(reference) else False:
            return 0.0
        return max((relative_difference(a, b) for a, b in zip(ours, reference, strict=True)), default=0.0)
    if isinstance(reference, float) and isinstance(ours, float):
        if ours == reference or (math.isnan(ours) and math.isnan(reference)):
            return 0.0
        return abs(ours - reference) / abs(reference) if reference else math.inf
    return 0.0 if ours == reference else math.inf


def _holds_arrays(values: Sequence[Any]) -> bool:
    return any(hasattr(value, "shape") or isinstance(value, (list, tuple, dict)) for value in values)


def _array_difference(ours: Any, reference: Any) -> float:
    import torch

    a, b = (torch.as_tensor(value).detach().to("cpu") for value in (ours, reference))
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    if not a.is_floating_point():
        return math.inf
    a, b = a.double(), b.double()
    if not torch.equal(a.isnan(), b.isnan()) or not torch.equal(a.isinf(), b.isinf()):
        return math.inf
    finite = b.isfinite()
    if not torch.equal(a[~finite & ~b.isnan()], b[~finite & ~b.isnan()]):
        return math.inf
    largest = b[finite].abs().max().item() if finite.any() else 0.0
    worst = (a[finite] - b[finite]).abs().max().item() if finite.any() else 0.0
    return worst / largest if largest else (0.0 if worst == 0.0 else math.inf)


def compare(
    name: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any] | None = None,
    *,
    peer_name: str = "reference",
    tolerance: float | None = None,
    samples: int = 11,
    sample_s: float = 0.02,
    warm_up_s: float = 0.2,
    work: Work | None = None,
) -> Row:
    """Validate, warm up, and time `ours` beside `peer`, samples taken in turn so that drift meets both alike.

    Args:
        name: what is measured.
        ours: one call of the version in use.
        peer: one call of what it is compared with.
        peer_name: how the table names it.
        tolerance: largest allowed relative difference of the two results; None leaves them uncompared.
        samples: how many times each is timed.
        sample_s: a sample calls a function as often as fits into this many seconds, at least once.
        warm_up_s: how long each runs before it is timed (caches, lazy compilation, clock of the processor).
        work: what the call cannot do without, for the floor.

    Raises:
        ValidationError: when the results differ by more than `tolerance`.
    """
    difference = None
    if peer is not None and tolerance is not None:
        difference = relative_difference(ours(), peer())
        if not difference <= tolerance:
            raise ValidationError(
                f"{name}: the results differ by {difference:.3g} of the largest value; {tolerance:.3g} is allowed"
            )
    functions = [ours] if peer is None else [ours, peer]
    calls = [_calls_per_sample(function, sample_s, warm_up_s) for function in functions]
    seconds: list[list[float]] = [[] for _ in functions]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(samples):
            for function, count, times in zip(functions, calls, seconds, strict=True):
                times.append(_sample(function, count))
    finally:
        if collecting:
            gc.enable()
    timings = [_timing(times, count) for times, count in zip(seconds, calls, strict=True)]
    ratios = [theirs / mine for mine, theirs in zip(*seconds, strict=True)] if peer is not None else None
    floor = floor_s(work) if work is not None else None
    return Row(
        name=name,
        ours=timings[0],
        peer=timings[1] if peer is not None else None,
        peer_name=peer_name if peer is not None else "",
        ratio=statistics.median(ratios) if ratios else None,
        ratio_lower=_quantile(ratios, 0.25) if ratios else None,
        ratio_upper=_quantile(ratios, 0.75) if ratios else None,
        difference=difference,
        floor_s=floor,
        share_of_floor=floor / timings[0].median_s if floor is not None else None,
    )


def _calls_per_sample(function: Callable[[], Any], sample_s: float, warm_up_s: float) -> int:
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < warm_up_s:
        last = time.perf_counter()
        function()
        calls += 1
        one = time.perf_counter() - last
    return max(1, round(sample_s / max(one, 1e-9)))


def _sample(function: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def _timing(times: list[float], calls: int) -> Timing:
    return Timing(statistics.median(times), _quantile(times, 0.25), _quantile(times, 0.75), len(times), calls)


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@lru_cache(maxsize=1)
def operations_per_s() -> float:
    """float32 operations per second of a large matrix product, the best of many: a floor is what can be done.

    On a machine that shares its processor a slow second would otherwise make the floor too easy.
    """
    import torch

    size = 1024
    a, b, c = torch.ones(size, size), torch.ones(size, size), torch.empty(size, size)
    return 2 * size**3 / min(_sample(lambda: torch.mm(a, b, out=c), 3) for _ in range(60))


@lru_cache(maxsize=64)
def bytes_per_s(moved_bytes: int) -> float:
    """Bytes per second of a copy that reads and writes about `moved_bytes` in all, the best of several.

    The size matters: a few megabytes stay in the processor's caches, several times faster than memory.
    """
    import torch

    count = max(1, moved_bytes // 8)
    source, target = torch.ones(count), torch.empty(count)
    calls = max(1, 10_000_000 // moved_bytes) if moved_bytes else 1
    return 8 * count / min(_sample(lambda: target.copy_(source), calls) for _ in range(8))


def floor_s(work: Work) -> float:
    """The larger of operations over the rate of the unit, and bytes over the bandwidth, in seconds."""
    return max(work.operations / operations_per_s(), work.moved_bytes / bytes_per_s(int(work.moved_bytes)))


def machine() -> dict[str, Any]:
    """Where a result was measured, and how busy the machine was."""
    import torch

    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    if load is not None and load > 0.5 * available_cpus():
        warn(f"{load} processes are running on {available_cpus()} CPUs: wait for a quiet machine before using timings")
    return {
        "fingerprint": machine_fingerprint(),
        "cpus": available_cpus(),
        "threads": torch.get_num_threads(),
        "load_before": load,
    }


def write_results(
    name: str,
    rows: Sequence[Row],
    where: dict[str, Any],
    folder: Path = RESULTS,
    *,
    more: dict[str, Any] | None = None,
) -> Path:
    """Write `folder/NAME.json`: date, machine, and the rows.

    Args:
        name: name of the benchmark.
        rows: what `compare` returned.
        where: what `machine()` returned before the first row was timed.
        folder: where results are kept.
        more: what else the benchmark measured, by name.
    """
    value: dict[str, Any] = {
        "benchmark": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
        "machine": where,
        "rows": [asdict(row) for row in rows],
        **(more or {}),
    }
    if any(row.floor_s is not None for row in rows):
        value["operations_per_s"] = operations_per_s()
    path = folder / f"{name}.json"
    write_json(path, value)
    return path


def show(rows: Sequence[Row]) -> None:
    """Print one line for each row."""
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        parts = [f"{row.name:<{width}}  {duration(row.ours.median_s):>8} (spread {row.ours.spread:.0%})"]
        if row.peer is not None:
            parts.append(f"{row.peer_name} {duration(row.peer.median_s):>8}")
            parts.append(f"{row.ratio:.2f} times as fast ({row.ratio_lower:.2f} to {row.ratio_upper:.2f})")
        if row.difference is not None:
            parts.append(f"difference {row.difference:.1e}")
        if row.floor_s is not None:
            parts.append(f"floor {duration(row.floor_s)}, {row.share_of_floor:.0%} of it reached")
        say("  ".join(parts))
    busy = [row.name for row in rows if row.ours.spread > 0.2]
    if busy:
        say(f"spread above 20 %, so the machine was busy with something else: {', '.join(busy)}")


def duration(seconds: float) -> str:
    """`1.24 µs`, `3.51 ms`, `42 s`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else format_seconds(seconds)
