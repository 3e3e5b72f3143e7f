"""Parity of every registered pair, on fresh random inputs: one test over the whole registry."""

from __future__ import annotations

import pytest

from benchmarks.pairs import SETTINGS, all_pairs, validate
from groundup.core.registry import Pair

PAIRS = all_pairs()


def test_the_registry_is_filled() -> None:
    assert {"model.attention", "model.rms_norm", "train.adamw_fused"} <= set(PAIRS)
    assert any(name.startswith("tokenizer.") for name in PAIRS), sorted(PAIRS)
    assert set(SETTINGS) <= set(PAIRS), "benchmarks/pairs.py times a pair that is gone"


@pytest.mark.parametrize("entry", PAIRS.values(), ids=list(PAIRS))
def test_fast_equals_reference(entry: Pair) -> None:
    validate(entry, seeds=(0, 1, 1001))


@pytest.mark.parametrize("entry", PAIRS.values(), ids=list(PAIRS))
def test_inputs_are_fresh_for_each_seed_and_the_same_for_one(entry: Pair) -> None:
    assert repr(entry.inputs(5)) == repr(entry.inputs(5))
    assert len({repr(entry.inputs(seed)) for seed in range(4)}) > 1
