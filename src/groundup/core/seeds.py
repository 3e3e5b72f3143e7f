"""Named seeds: each use of randomness has its own generator, derived from the run's seed and a name."""

from __future__ import annotations

import hashlib
from random import Random


def seed_for(run_seed: int, *name: str | int) -> int:
    """Derive a 63-bit seed from the run's seed and a name such as `("rollout", step, index)`.

    The same arguments give the same seed on every platform; different names give independent streams.
    """
    text = json_key(run_seed, *name)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def random_for(run_seed: int, *name: str | int) -> Random:
    """A standard-library generator for the named use."""
    return Random(seed_for(run_seed, *name))


def json_key(*parts: str | int) -> str:
    # The repr keeps ("a", 1) and ("a", "1") apart.
    return "\x1f".join(repr(part) for part in parts)
