"""Times every registered pair: the fast path beside its readable reference, after validating it on fresh inputs.

python -m benchmarks.pairs                    all pairs; writes benchmarks/results/pairs.json
python -m benchmarks.pairs model. --samples 5 those whose name begins so; printed only
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import pydoc_data.topics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import groundup
from benchmarks.harness import Row, ValidationError, Work, compare, machine, relative_difference, show, write_results
from groundup.core.console import fail, say
from groundup.core.registry import Pair, pairs
from groundup.model.config import RotaryConfig
from groundup.model.ops.rotary import rotary_tables
from groundup.tokenizer.bpe_fast import train_merges
from groundup.tokenizer.patterns import split, split_pattern

SEEDS = (11, 12, 13, 14)


@dataclass(frozen=True)
class Setting:
    """Arguments of the size that the pair has in use, in place of the small ones it is validated on."""

    inputs: Callable[[], tuple[Any, ...]]
    work: Work | None = None


def _activations(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@lru_cache(maxsize=1)
def _reference_words() -> dict[bytes, int]:
    """The pieces of Python's language reference (about 0.7 MB of text) and their counts."""
    text = "\n".join(pydoc_data.topics.topics.values())
    return dict(Counter(piece.encode() for piece in split(text, split_pattern("llama3"))))


def _word_and_merges() -> tuple[list[int], dict[tuple[int, int], tuple[int, int]]]:
    """A word of 14 letters, and 1,000 merges learned from the language reference."""
    ids = {bytes([byte]): byte for byte in range(256)}
    table = {}
    for rank, (left, right) in enumerate(train_merges(_reference_words(), 1000)):
        table[ids[left], ids[right]] = (rank, ids.setdefault(left + right, len(ids)))
    return list(b" documentation"), table


def _optimizer_state() -> tuple[Any, ...]:
    """Parameters, gradients and moments of four layers of width 256, 2.6 million values each.

    The copies that make a pure function of an update are part of both times.
    """
    shapes = [shape for _ in range(4) for shape in ((256, 768), (768, 256), *[(256, 256)] * 4, (256,), (256,))]
    draws = [[_activations(*shape) for shape in shapes] for _ in range(3)]
    return *draws, [tensor.square() for tensor in draws[0]], 10


def _layer_matrices() -> tuple[list[Tensor]]:
    """The matrices of four layers of width 256."""
    shapes = [shape for _ in range(4) for shape in (*[(768, 256)] * 2, (256, 768), *[(256, 256)] * 4)]
    return ([_activations(*shape) for shape in shapes],)


def _orthogonalize_operations() -> float:
    """Five times X X^T, its square, and the product with X, M <= N each: 4 M^2 N + 2 M^3."""
    sizes = [sorted(matrix.shape) for matrix in _layer_matrices()[0]]
    return float(sum(5 * (4 * m * m * n + 2 * m**3) for m, n in sizes))


# One micro-batch of a small model: 8 rows of 256 tokens, width 512, 8 heads of 64 that share 4 key-value heads.
_B, _T, _D, _H, _K, _d = 8, 256, 512, 8, 4, 64
_ACTIVATIONS_BYTES = 4 * _B * _T * _D
# Causal attention needs half of the T x T scores: 2 operations for each of d products, for scores and for values.
_ATTENTION = Work(2 * 2 * _B * _H * _d * _T * (_T + 1) / 2, 4 * _B * _T * _d * (2 * _H + 2 * _K))
SETTINGS = {
    "tokenizer.train": Setting(lambda: (_reference_words(), 100)),
    "tokenizer.encode": Setting(_word_and_merges),
    "train.adamw_foreach": Setting(_optimizer_state),
    "train.adamw_fused": Setting(_optimizer_state),
    "train.orthogonalize": Setting(_layer_matrices, Work(_orthogonalize_operations())),
    "model.rms_norm": Setting(
        lambda: (_activations(_B, _T, _D), _activations(_D), 1e-6), Work(moved_bytes=2 * _ACTIVATIONS_BYTES)
    ),
    "model.layer_norm": Setting(
        lambda: (_activations(_B, _T, _D), _activations(_D), _activations(_D), 1e-6),
        Work(moved_bytes=2 * _ACTIVATIONS_BYTES),
    ),
    "model.gelu_new": Setting(lambda: (_activations(_B, _T, 4 * _D),), Work(moved_bytes=8 * _ACTIVATIONS_BYTES)),
    "model.rotary": Setting(
        lambda: (
            _activations(_B, _H, _T, _d),
            *rotary_tables(torch.arange(_T)[None], _d, RotaryConfig(), torch.float32),
        ),
        Work(moved_bytes=2 * _ACTIVATIONS_BYTES),
    ),
    "model.linear_onednn": Setting(
        lambda: (_activations(_B, _T, _D), _activations(4 * _D, _D), None), Work(2 * 4 * _B * _T * _D * _D)
    ),
    "model.attention_stored": Setting(
        lambda: (*(_activations(_B, heads, 2 * _T, _d) for heads in (_H, _K, _K)), None),
        Work(4 * _ATTENTION.operations),
    ),
    "model.attention": Setting(
        lambda: (*(_activations(_B, heads, _T, _d) for heads in (_H, _K, _K)), None, True), _ATTENTION
    ),
}


def all_pairs() -> dict[str, Pair]:
    """Every pair of the package: all modules are imported, so that all of them are registered."""
    for module in pkgutil.walk_packages(groundup.__path__, "groundup."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return dict(sorted(pairs().items()))


def validate(entry: Pair, seeds: Sequence[int] = SEEDS) -> float:
    """Compare the two versions on fresh inputs of each seed; return the largest relative difference.

    Raises:
        ValidationError: when they differ by more than the pair's tolerance.
    """
    worst = 0.0
    for seed in seeds:
        # Inputs are drawn twice, so that a version that writes into its arguments cannot help or hurt the other.
        difference = relative_difference(entry.fast(*entry.inputs(seed)), entry.reference(*entry.inputs(seed)))
        if not difference <= entry.tolerance:
            raise ValidationError(
                f"{entry.name}, seed {seed}: the fast path differs by {difference:.3g} of the largest value; "
                f"{entry.tolerance:.3g} is allowed"
            )
        worst = max(worst, difference)
    return worst


def time_pair(entry: Pair, samples: int) -> Row:
    """Validate a pair on fresh inputs, then time both versions, at the size it has in use where `SETTINGS` has one."""
    validate(entry)
    setting = SETTINGS.get(entry.name)
    inputs = setting.inputs() if setting else entry.inputs(SEEDS[0])
    return compare(
        entry.name,
        lambda: entry.fast(*inputs),
        lambda: entry.reference(*inputs),
        tolerance=entry.tolerance,
        samples=samples,
        work=setting.work if setting else None,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Validate and time every reference beside its fast path.")
    parser.add_argument("prefix", nargs="?", default="", help="only the pairs whose name begins so")
    parser.add_argument("--samples", type=int, default=11, help="how many times each version is timed")
    options = parser.parse_args(arguments)
    chosen = [entry for name, entry in all_pairs().items() if name.startswith(options.prefix)]
    if not chosen:
        fail(f"no pair begins with {options.prefix!r}: the pairs are {', '.join(all_pairs())}")
        return 2
    where, rows, wrong = machine(), [], 0
    for number, entry in enumerate(chosen, 1):
        try:
            rows.append(time_pair(entry, options.samples))
        except ValidationError as error:
            fail(str(error))
            wrong += 1
            continue
        say(f"{number}/{len(chosen)} {entry.name}")
    show(rows)
    if not options.prefix and not wrong:
        say(f"written to {write_results('pairs', rows, where)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
