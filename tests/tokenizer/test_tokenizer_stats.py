"""Statistics of a tokenizer on texts, counted by hand."""

from __future__ import annotations

import json

import pytest

from groundup.core.errors import DataError
from groundup.tokenizer import ByteBPE
from groundup.tokenizer.stats import tokenizer_statistics


def test_counts_by_hand() -> None:
    tokenizer = ByteBPE.from_merges([(b"a", b"b"), (b"ab", b"c"), (b"x", b"y")])
    statistics = tokenizer_statistics(tokenizer, ["abc abc", "é ab"], num_longest=3)
    # abc, space, abc; then two bytes of é, space, ab
    assert statistics.num_tokens == 7
    assert statistics.num_bytes == 12
    assert statistics.num_characters == 11
    assert statistics.num_words == 4
    assert statistics.bytes_per_token == 12 / 7
    assert statistics.tokens_per_word == 7 / 4
    assert statistics.vocabulary_used == 5 / 259
    assert statistics.longest_tokens == ("abc", "ab")
    assert statistics.lossy_texts == 0
    assert json.loads(json.dumps(statistics.to_dict()))["longest_tokens"] == ["abc", "ab"]


def test_only_tokens_with_a_letter_are_listed() -> None:
    tokenizer = ByteBPE.from_merges([(b"-", b"-"), (b"\n", b"\n"), (b"a", b"b")])
    assert tokenizer_statistics(tokenizer, ["-- ab\n\né c"]).longest_tokens == ("ab", "c")


def test_nothing_to_count() -> None:
    with pytest.raises(DataError, match="all of the 2 texts are empty"):
        tokenizer_statistics(ByteBPE.from_merges([]), ["", ""])


def test_better_compression_shows(small_bpe: ByteBPE) -> None:
    text = "The quick brown fox jumps over the lazy dog"
    trained = tokenizer_statistics(small_bpe, [text])
    assert trained.bytes_per_token > tokenizer_statistics(ByteBPE.from_merges([]), [text]).bytes_per_token == 1
