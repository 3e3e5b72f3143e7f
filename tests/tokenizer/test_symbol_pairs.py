"""Learning to join characters: the merges of the trainers of `tokenizers`, on fresh words full of ties."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from groundup.tokenizer.symbol_pairs import LearnedPairs, learn_pairs, learn_pairs_reference

tokenizers = pytest.importorskip("tokenizers")


def some_words(draw: random.Random) -> dict[str, int]:
    letters = draw.choice(["ab", "abc", "abcdefgh", "aé漢😀"])
    return {
        "".join(draw.choices(letters, k=draw.randint(1, 10))): draw.randint(1, 9) for _ in range(draw.randint(1, 40))
    }


def in_tokenizers(words: dict[str, int], num_tokens: int, inside: str, learned: LearnedPairs) -> dict[str, Any]:
    """Their model. Characters are handed in as special tokens: else their ids, which decide ties, are in the order of a
    hash table."""
    options: dict[str, Any] = {"continuing_subword_prefix": inside} if inside else {}
    characters = [token for token in learned.tokens if len(token.removeprefix(inside)) == 1]
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=num_tokens, min_frequency=2, show_progress=False, special_tokens=characters, **options
    )
    theirs.train_from_iterator([" ".join([word] * count) for word, count in words.items()], trainer)
    model: dict[str, Any] = json.loads(theirs.to_str())["model"]
    return model


@pytest.mark.parametrize("inside", ["", "##"])
def test_the_merges_are_those_of_tokenizers(inside: str) -> None:
    draw = random.Random(f"merges {inside}")
    joined = 0
    for _ in range(60):
        words, num_tokens = some_words(draw), draw.randint(10, 60)
        learned = learn_pairs(words, num_tokens, inside)
        theirs = in_tokenizers(words, num_tokens, inside, learned)
        assert learned.merges == [tuple(pair) for pair in theirs["merges"]]
        assert set(learned.tokens) == set(theirs["vocab"])
        joined += len(learned.merges)
    assert joined > 500


def test_a_token_made_by_two_pairs_is_one_token() -> None:
    words = {"abc": 5, "xabc": 3, "bc": 9, "ab": 8, "abd": 7}
    learned = learn_pairs(words, 100)
    assert learned == learn_pairs_reference(words, 100)
    assert len(learned.tokens) == len(set(learned.tokens))


def test_the_ratio_joins_what_is_rare_and_always_together_first() -> None:
    words = {"the": 100, "then": 50, "qz": 2, "hat": 30}
    assert learn_pairs(words, 100, "##").merges[0] == ("t", "##h")
    # 2 / (2 * 2) beats 150 / (180 * 150).
    assert learn_pairs(words, 100, "##", "ratio").merges[0] == ("q", "##z")


def test_what_is_too_rare_is_not_joined() -> None:
    assert learn_pairs({"abab": 1}, 10, min_count=3).merges == []
    assert learn_pairs({"abab": 1}, 10, min_count=2).merges == [("a", "b")]
    assert learn_pairs({}, 10) == LearnedPairs([], [])
    assert learn_pairs({"": 3, "a": 2}, 10) == LearnedPairs(["a"], [])


def test_progress_ends_with_what_was_learned() -> None:
    seen: list[tuple[int, int]] = []
    words = {"".join(random.Random(seed).choices("abcdef", k=8)): 5 for seed in range(60)}
    learned = learn_pairs(words, 200, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(learned.tokens), 200)
    assert len(seen) > 1
