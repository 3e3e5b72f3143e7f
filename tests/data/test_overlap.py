"""Held-out text in the training split, against a search by brute force on random streams."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.document import Document
from groundup.data.overlap import _rolling, count_tokens, find_overlap, passage_tokens, unigram_entropy
from groundup.data.shards import TokenShards, write_shards
from groundup.tokenizer import CharTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz \n"


def shards(folder: Path, texts: list[str], shard_tokens: int = 1 << 20) -> TokenShards:
    documents = [Document(text=text, id=str(n), group=str(n), source="t") for n, text in enumerate(texts)]
    write_shards(documents, CharTokenizer.train([LETTERS]), folder, shard_tokens=shard_tokens)
    return TokenShards(folder)


def texts(seed: int, count: int, length: int = 300) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(LETTERS), length)) for _ in range(count)]


def test_copies_and_pasted_passages_are_found_and_nothing_else(tmp_path: Path) -> None:
    held_out = texts(1, 6)
    train = texts(2, 20)
    train[3] = held_out[2]
    train[7] = train[7][:50] + held_out[4][100:200] + train[7][150:]
    # Small files, so that passages cross their borders.
    found = find_overlap(shards(tmp_path / "train", train, 500), shards(tmp_path / "held", held_out))
    assert found.copied == (2,) and found.documents == 6
    assert found.copied_tokens == 300 and found.shared_tokens == pytest.approx(400, abs=4)
    alone = find_overlap(shards(tmp_path / "other", texts(3, 20)), shards(tmp_path / "held", held_out))
    assert alone.copied == () and alone.shared_tokens == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(8, 12))
def test_the_rolling_hash_is_equal_where_the_runs_are(seed: int, count: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, 2, 120).astype("<u2")
    hashes = _rolling(tokens, count)
    runs = [tuple(tokens[i : i + count]) for i in range(len(tokens) - count + 1)]
    assert len(hashes) == len(runs)
    for i in range(0, len(runs), 7):
        assert [h == hashes[i] for h in hashes] == [run == runs[i] for run in runs]


def test_short_documents_and_short_streams(tmp_path: Path) -> None:
    found = find_overlap(shards(tmp_path / "train", ["ab"]), shards(tmp_path / "held", ["ab", "c"]))
    assert found.documents == 0 and found.shared_share == found.copied_share == 0.0
    assert passage_tokens(shards(tmp_path / "again", ["ab"])) >= 75


def test_entropy_and_counts(tmp_path: Path) -> None:
    made = shards(tmp_path / "train", ["aab", "b"])
    counts = count_tokens(made)
    assert counts.sum() == made.num_tokens == 6
    assert unigram_entropy(np.array([5, 5, 0, 10])) == pytest.approx(1.5 * math.log(2))
