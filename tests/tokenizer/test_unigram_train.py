"""Unigram learning: every sum over all ways to cut against counting them out, and SentencePiece's trainer."""

from __future__ import annotations

import io
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.tokenizer import Unigram
from groundup.tokenizer.blanks import trained_words
from groundup.tokenizer.unigram_lattice import build_lattice
from groundup.tokenizer.unigram_train import _Trainer, em_pass, learn_unigram, seed_tokens

WORDS = st.dictionaries(st.text("abcé", min_size=1, max_size=7), st.integers(1, 9), min_size=1, max_size=12)


def ways_to_cut(word: str, tokens: set[str]) -> Iterator[list[str]]:
    for cuts in itertools.product([False, True], repeat=max(len(word) - 1, 0)):
        ends = [*(place for place, cut in enumerate(cuts, 1) if cut), len(word)]
        parts = [word[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        if tokens.issuperset(parts):
            yield parts


def some_scores(words: dict[str, int], seed: int) -> dict[str, float]:
    draw = random.Random(seed)
    pieces = {word[a:b] for word in words for a in range(len(word)) for b in range(a + 1, len(word) + 1)}
    tokens = [piece for piece in sorted(pieces) if len(piece) == 1 or draw.random() < 0.5]
    return {token: draw.uniform(-9, -0.1) for token in tokens}


@settings(max_examples=60, deadline=None)
@given(WORDS, st.integers(0, 10_000))
def test_sums_counts_and_best_ways_are_those_of_all_ways(words: dict[str, int], seed: int) -> None:
    scores = some_scores(words, seed)
    tokens, texts = list(scores), list(words)
    lattice = build_lattice(texts, {token: id for id, token in enumerate(tokens)})
    array = np.array([*scores.values()])
    weights = np.array([*words.values()], dtype=np.float64)
    counts, log_likelihood = lattice.expected_counts(array, weights)
    best, steps = lattice.best(array)

    expected: Counter[str] = Counter()
    whole = 0.0
    for place, word in enumerate(texts):
        ways = [(way, math.exp(sum(scores[part] for part in way))) for way in ways_to_cut(word, set(tokens))]
        total = sum(chance for _, chance in ways)
        whole += words[word] * math.log(total)
        for way, chance in ways:
            for part in way:
                expected[part] += words[word] * chance / total
        assert best[place] == pytest.approx(math.log(max(chance for _, chance in ways)), rel=1e-12)
    assert log_likelihood == pytest.approx(whole, rel=1e-10, abs=1e-10)
    assert counts == pytest.approx(np.array([expected[token] for token in tokens]), rel=1e-9, abs=1e-12)
    # The best ways cover each word, and cost what they should.
    spent = np.zeros(len(texts))
    length = np.zeros(len(texts))
    for edges in steps:
        word_of = lattice.words_of(lattice.starts[edges])
        spent[word_of] += array[lattice.tokens[edges]]
        length[word_of] += (lattice.ends - lattice.starts)[edges]
    assert spent == pytest.approx(best, rel=1e-12)
    assert length.tolist() == [len(word) for word in texts]


@settings(max_examples=40, deadline=None)
@given(WORDS, st.integers(0, 10_000))
def test_the_likelihood_never_falls_from_pass_to_pass(words: dict[str, int], seed: int) -> None:
    scores = some_scores(words, seed)
    lattice = build_lattice(list(words), {token: id for id, token in enumerate(scores)})
    weights = np.array([*words.values()], dtype=np.float64)
    array = np.array([*scores.values()])
    array -= math.log(np.exp(array).sum())
    before = -math.inf
    for _ in range(6):
        array, counts, log_likelihood = em_pass(lattice, array, weights)
        assert log_likelihood >= before - 1e-9 * max(1.0, abs(log_likelihood)) - 1e-6
        assert np.exp(array).sum() == pytest.approx(1.0)
        assert counts.sum() <= sum(len(word) * count for word, count in words.items()) + 1e-6
        before = log_likelihood


def test_a_lattice_can_do_without_tokens() -> None:
    ids = {"a": 0, "b": 1, "ab": 2, "bb": 3}
    lattice = build_lattice(["abb", "ab"], ids)
    array = np.log(np.array([0.3, 0.2, 0.4, 0.1]))
    removed = np.array([False, False, True, False])
    smaller = lattice.without(removed)
    assert smaller.best(array)[0] == pytest.approx([math.log(0.3 * 0.1), math.log(0.3 * 0.2)])
    alone = build_lattice(["ab", "bb", "a"], ids, left_out={"ab", "bb", "a"})
    assert alone.best(array)[0].tolist() == [math.log(0.3) + math.log(0.2), 2 * math.log(0.2), -math.inf]


def test_seeds_by_hand() -> None:
    # `abc` twice: `ab` and `bc` stand in it each time; `bc` is not always followed by the same, `ab` is.
    assert seed_tokens({"abc": 2, "xbc": 1}) == {"a": 2, "b": 3, "c": 3, "x": 1, "abc": 2, "bc": 3}
    assert seed_tokens({"abc": 2, "xbc": 1}, most=1) == {"a": 2, "b": 3, "c": 3, "x": 1, "abc": 2}
    assert seed_tokens({"aaaa": 1}) == {"a": 4, "aa": 3, "aaa": 2}


@settings(max_examples=40, deadline=None)
@given(WORDS)
def test_seeds_are_counted_as_they_stand(words: dict[str, int]) -> None:
    for token, count in seed_tokens(words).items():
        places = sum(
            times * sum(word.startswith(token, start) for start in range(len(word))) for word, times in words.items()
        )
        assert places == count


def best_way(word: str, scores: dict[str, float], without: str = "") -> tuple[float, list[str]]:
    ways = [way for way in ways_to_cut(word, {*scores}) if way != [without]]
    return max(((sum(scores[part] for part in way), way) for way in ways), default=(-math.inf, []))


@settings(max_examples=60, deadline=None)
@given(WORDS, st.integers(0, 10_000))
def test_the_token_that_is_missed_least_leaves(words: dict[str, int], seed: int) -> None:
    """By the definition of the loss, with every best way found by looking at all."""
    scores = some_scores(words, seed)
    tokens, texts = list(scores), list(words)
    weights = np.array([*words.values()], dtype=np.float64)
    trainer = _Trainer(texts, weights, tokens, np.exp([*scores.values()]))
    scores = dict(zip(tokens, trainer.scores.tolist(), strict=True))
    counts = Counter(dict.fromkeys(tokens, 0))
    for word, count in words.items():
        for part in best_way(word, scores)[1]:
            counts[part] += count
    total = counts.total()
    losses = {}
    for token in tokens:
        instead, others = best_way(token, scores, without=token)
        if len(token) > 1 and counts[token] and instead <= scores[token]:
            n = counts[token]
            without = sum(math.log((counts[part] + n) / (total + n * (len(others) - 1))) for part in others)
            losses[token] = n * (math.log(n / total) - without)
        elif len(token) > 1:
            losses[token] = -math.inf
        else:
            losses[token] = math.inf
    assert trainer.losses() == pytest.approx(np.array([losses[token] for token in tokens]), rel=1e-9, abs=1e-9)
    if min(losses.values()) < math.inf:
        trainer.prune(len(tokens) - 1)
        (gone,) = [token for token, is_there in zip(tokens, trainer.alive, strict=True) if not is_there]
        assert losses[gone] == pytest.approx(min(losses.values()), rel=1e-9, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(WORDS, st.integers(1, 30))
def test_all_characters_stay_and_the_size_is_kept(words: dict[str, int], num_tokens: int) -> None:
    learned = learn_unigram(words, num_tokens)
    characters = set().union(*words)
    assert characters <= learned.keys()
    assert len(learned) <= max(num_tokens, len(characters))
    assert len(learned) >= min(num_tokens, len(seed_tokens(words)))
    assert sum(map(math.exp, learned.values())) <= 1 + 1e-9
    assert [*learned.values()] == sorted(learned.values(), reverse=True)


def test_the_order_of_the_words_plays_no_part() -> None:
    words = {"".join(random.Random(seed).choices("abcde", k=7)): 1 + seed % 5 for seed in range(80)}
    again = dict(reversed(words.items()))
    assert learn_unigram(words, 60) == learn_unigram(again, 60)


def test_text_without_blanks_is_learned_from_too() -> None:
    word = "".join(random.Random(3).choices(["ab", "cd", "efg"], k=1_500))
    learned = learn_unigram({word: 1}, 40)
    assert len(learned) == 40
    assert "efg" in learned


@pytest.fixture(scope="module")
def words_of_shakespeare(shakespeare: str) -> dict[str, int]:
    lines = [" ".join(line.split()) for line in shakespeare[:150_000].split("\n") if line.strip()]
    return dict(Counter(word for line in lines for word in trained_words(line)))


def sentencepiece_scores(shakespeare: str, num_tokens: int) -> dict[str, float]:
    spm: Any = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(shakespeare[:150_000].split("\n")),
        model_writer=model,
        vocab_size=num_tokens + 3,
        model_type="unigram",
        character_coverage=1.0,
        normalization_rule_name="identity",
        split_by_unicode_script=False,
        split_by_number=False,
        minloglevel=2,
        num_threads=1,
    )
    theirs = spm.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(3, theirs.get_piece_size())
    return {theirs.id_to_piece(id): theirs.get_score(id) for id in ids}


def test_no_worse_than_sentencepiece_of_the_same_size(words_of_shakespeare: dict[str, int], shakespeare: str) -> None:
    """Tokens and log-likelihood for a character; its scores are no probabilities, so they are scaled to sum to one."""
    num_tokens = 800
    ours, theirs = learn_unigram(words_of_shakespeare, num_tokens), sentencepiece_scores(shakespeare, num_tokens)
    assert len(ours) == len(theirs) == num_tokens
    results = []
    for scores in (ours, theirs):
        lattice = build_lattice(list(words_of_shakespeare), {token: id for id, token in enumerate(scores)})
        array = np.array([*scores.values()])
        array -= math.log(np.exp(array).sum())
        weights = np.array([*words_of_shakespeare.values()], dtype=np.float64)
        _, steps = lattice.best(array)
        tokens = sum(weights[lattice.words_of(lattice.starts[edges])].sum() for edges in steps)
        results.append((tokens, -lattice.expected_counts(array, weights)[1]))
    assert results[0][0] <= 1.01 * results[1][0]
    assert results[0][1] <= 1.01 * results[1][1]
    assert len(ours.keys() & theirs.keys()) > 0.6 * num_tokens


def test_the_encoder_finds_the_ways_of_the_lattice(words_of_shakespeare: dict[str, int]) -> None:
    scores = learn_unigram(words_of_shakespeare, 500)
    ids = {token: id for id, token in enumerate(scores)}
    tokenizer = Unigram(
        scores, ids, special_tokens={"<unk>": len(ids)}, roles={"unk": "<unk>"}, blank_first="never",
        falls_back_to_bytes=False,
    )  # fmt: skip
    texts = list(words_of_shakespeare)
    lattice = build_lattice(texts, ids)
    array = np.array([*scores.values()])
    best, steps = lattice.best(array)
    found: list[list[int]] = [[] for _ in texts]
    for edges in steps:
        for word, token in zip(lattice.words_of(lattice.starts[edges]), lattice.tokens[edges], strict=True):
            found[word].insert(0, int(token))
    for word, expected, score in zip(texts, found, best, strict=True):
        assert tokenizer.encode(word) == expected
        assert tokenizer.log_probability(word) == pytest.approx(score, rel=1e-12)
