"""The pairs of this folder: reference and fast versions that must agree exactly, on fresh inputs."""

from __future__ import annotations

import random

from groundup.core.registry import register
from groundup.core.seeds import seed_for
from groundup.tokenizer.bpe_fast import merge_tokens, train_merges
from groundup.tokenizer.bpe_reference import merge_tokens_reference, train_merges_reference


def register_all() -> None:
    """Enter the pairs of this folder into the registry."""
    register("tokenizer.train", train_merges_reference, train_merges, _training_inputs)
    register("tokenizer.encode", merge_tokens_reference, merge_tokens, _encoding_inputs)


def _training_inputs(seed: int) -> tuple[dict[bytes, int], int]:
    """Words over few letters, so that runs, overlaps and ties are common."""
    draw = random.Random(seed_for(seed, "tokenizer.train"))
    letters = draw.choice(["a", "ab", "abc", "abcdefgh", "aé漢😀"])
    words = ("".join(draw.choices(letters, k=draw.randint(1, 12))).encode() for _ in range(draw.randint(1, 60)))
    return {word: draw.randint(1, 9) for word in words}, draw.randint(0, 80)


def _encoding_inputs(seed: int) -> tuple[list[int], dict[tuple[int, int], tuple[int, int]]]:
    """Merges learned from such words, and a piece to merge that is short or long (the two ways of the fast one)."""
    draw = random.Random(seed_for(seed, "tokenizer.encode"))
    words, num_merges = _training_inputs(seed)
    ids = {bytes([byte]): byte for byte in range(256)}
    table: dict[tuple[int, int], tuple[int, int]] = {}
    for rank, (left, right) in enumerate(train_merges_reference(words, num_merges)):
        table[ids[left], ids[right]] = (rank, ids.setdefault(left + right, len(ids)))
    piece = b"".join(draw.choices(list(words), k=draw.randint(1, 30)))
    return list(piece), table
