"""The pairs of this folder: reference and fast versions that must agree exactly, on fresh inputs."""

from __future__ import annotations

import random

from groundup.core.registry import register
from groundup.core.seeds import seed_for
from groundup.tokenizer.bpe_fast import merge_tokens, train_merges
from groundup.tokenizer.bpe_reference import encode_reference, merge_tokens_reference, train_merges_reference
from groundup.tokenizer.compiled import encode_compiled, split_compiled
from groundup.tokenizer.patterns import SplitPattern, split, split_pattern
from groundup.tokenizer.scan_rules import SCAN_RULES
from groundup.tokenizer.symbol_pairs import PairScore, learn_pairs, learn_pairs_reference
from groundup.tokenizer.train_compiled import train_merges_compiled

#: What the split patterns look at: contractions and their odd folds (the long s, the Kelvin sign), blanks of all kinds,
#: line ends, letters and numbers of one to four bytes, marks, signs.
SPLIT_ALPHABET = (
    "' ' ' '  sStTmMdDlLvVeErR\u017f\u212a\n\n\r\t\x0b\x85\xa0\u2028\u3000\x1c12٣½Ⅷ𝟘aé漢𝒜ǅ\u0301.!-_😀\u200d\0"
)


def register_all() -> None:
    """Enter the pairs of this folder into the registry."""
    register("tokenizer.train", train_merges_reference, train_merges, _training_inputs)
    register("tokenizer.train_compiled", train_merges_reference, train_merges_compiled, _training_inputs)
    register("tokenizer.symbol_pairs", learn_pairs_reference, learn_pairs, _symbol_inputs)
    register("tokenizer.encode", merge_tokens_reference, merge_tokens, _encoding_inputs)
    register("tokenizer.encode_compiled", encode_reference, encode_compiled, _text_inputs)
    register("tokenizer.split_compiled", split, split_compiled, _splitting_inputs)


def _training_inputs(seed: int) -> tuple[dict[bytes, int], int]:
    """Words over few letters, so that runs, overlaps and ties are common."""
    draw = random.Random(seed_for(seed, "tokenizer.train"))
    letters = draw.choice(["a", "ab", "abc", "abcdefgh", "aé漢😀"])
    words = ("".join(draw.choices(letters, k=draw.randint(1, 12))).encode() for _ in range(draw.randint(1, 60)))
    return {word: draw.randint(1, 9) for word in words}, draw.randint(0, 80)


def _symbol_inputs(seed: int) -> tuple[dict[str, int], int, str, PairScore, int, list[str]]:
    """Such words as text, with or without a mark inside words, and either score."""
    draw = random.Random(seed_for(seed, "tokenizer.symbol_pairs"))
    words, _ = _training_inputs(seed)
    scores: list[PairScore] = ["count", "ratio"]
    texts = {word.decode(): count for word, count in words.items()}
    reserved = ["".join(draw.choices([*texts], k=1))[:2] for _ in range(3)]
    return texts, draw.randint(0, 80), draw.choice(["", "##"]), draw.choice(scores), draw.randint(1, 3), reserved


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


def _splitting_inputs(seed: int) -> tuple[str, SplitPattern]:
    """A text of what the patterns look at, and one of the patterns that the scanner knows."""
    draw = random.Random(seed_for(seed, "tokenizer.split"))
    text = "".join(draw.choices(SPLIT_ALPHABET, k=draw.randint(1, 120)))
    return text, split_pattern(draw.choice(list(SCAN_RULES)))


def _text_inputs(seed: int) -> tuple[str, SplitPattern, dict[tuple[int, int], tuple[int, int]]]:
    """Such a text around words from which the merges were learned."""
    text, pattern = _splitting_inputs(seed)
    piece, table = _encoding_inputs(seed)
    return text + bytes(piece).decode("utf-8", "replace") + text[::-1], pattern, table
