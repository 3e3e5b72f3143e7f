"""Word vectors: gradients beside torch and small steps, counts beside a plain count, neighbours beside brute force."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from groundup.core.errors import DataError, UsageError
from groundup.foundations.classic.components import leading_singular
from groundup.foundations.functions import embedding
from groundup.foundations.gradient_check import check_gradients
from groundup.foundations.tensor import Tensor
from groundup.foundations.words import analogies, glove, skipgram
from groundup.foundations.words.likeness import edit_distance, id_distance, share_nearer
from groundup.foundations.words.ppmi import factorise, positive_information
from groundup.foundations.words.rows import AdaGradRows, sum_rows
from groundup.foundations.words.vectors import WordVectors
from groundup.foundations.words.vocabulary import (
    Stream,
    Vocabulary,
    build_vocabulary,
    keep_probabilities,
    pairs_within,
    read_stream,
    subsample,
)

seeds = st.integers(0, 10_000)
texts_of_words = st.lists(st.lists(st.sampled_from("abcdef"), max_size=12).map(" ".join), min_size=1, max_size=5)


# ------------------------------------------------------------------------------------------- vocabulary


def test_a_vocabulary_ranks_by_count_and_then_by_the_alphabet() -> None:
    vocabulary = build_vocabulary(["The cat, the dog!", "A cat a the x"], min_count=2)
    assert vocabulary.words == ("the", "a", "cat") and vocabulary.counts.tolist() == [3, 2, 2]
    assert build_vocabulary(["b b a a a c"], min_count=1, max_size=2).words == ("a", "b")
    stream = read_stream(["the unknown cat", "", "A"], vocabulary)
    assert stream.words.tolist() == [0, 2, 1] and stream.texts.tolist() == [0, 0, 2]
    assert "dog" not in vocabulary and vocabulary.number("cat") == 2


def test_what_a_vocabulary_refuses() -> None:
    with pytest.raises(DataError, match="1 of 3 words occur at least 2 times"):
        build_vocabulary(["a a b c"], min_count=2)
    vocabulary = Vocabulary(["function", "a"], [9, 5])
    with pytest.raises(
        UsageError, match=r"'functoin' is not among the 2 words, each seen at least 5 times \(did you mean 'function'"
    ):
        vocabulary.number("functoin")
    for words, counts in ((["a", "a"], [1, 1]), (["a"], [0]), ([], []), (["a"], [1, 2])):
        with pytest.raises(UsageError, match="one for each, above 0, and no word twice"):
            Vocabulary(words, counts)
    with pytest.raises(UsageError, match="threshold of 0"):
        keep_probabilities(vocabulary, 0)
    with pytest.raises(UsageError, match="window of 0"):
        list(pairs_within(Stream(np.arange(3), np.zeros(3, np.int64)), 0))


def test_frequent_words_are_kept_as_often_as_the_formula_says() -> None:
    vocabulary = Vocabulary(["the", "cat", "rare"], [900, 99, 1])
    keep = keep_probabilities(vocabulary, 0.01)
    share = 0.9
    assert keep[0] == pytest.approx((0.01 / share) ** 0.5 + 0.01 / share) and keep[2] == 1
    assert (keep_probabilities(vocabulary, np.inf) == 1).all()
    stream = Stream(np.zeros(200_000, np.int64), np.zeros(200_000, np.int64))
    kept = len(subsample(stream, keep, np.random.default_rng(0))) / len(stream)
    assert kept == pytest.approx(keep[0], abs=4 * (keep[0] / len(stream)) ** 0.5)


def plain_pairs(stream: Stream, window: int) -> list[tuple[int, int, int]]:
    return [
        (abs(i - j), int(stream.words[i]), int(stream.words[j]))
        for i, j in itertools.permutations(range(len(stream)), 2)
        if abs(i - j) <= window and stream.texts[i] == stream.texts[j]
    ]


@settings(max_examples=40, deadline=None)
@given(texts_of_words, st.integers(1, 15))
def test_pairs_and_counts_are_those_of_a_plain_loop(texts: list[str], window: int) -> None:
    stream = read_stream(texts, Vocabulary("abcdef", [1] * 6))
    expected = plain_pairs(stream, window)
    centres, contexts = skipgram.skipgram_pairs(stream, window)
    assert Counter(zip(centres.tolist(), contexts.tolist(), strict=True)) == Counter((a, b) for _, a, b in expected)
    table = np.zeros((6, 6))
    for distance, a, b in expected:
        table[a, b] += 1 / distance
    if not expected:
        with pytest.raises(DataError, match="no two side by side"):
            glove.count_together(stream, 6, window)
        return
    counts = glove.count_together(stream, 6, window)
    np.testing.assert_allclose(counts.dense(), table)
    assert (counts.values > 0).all()
    plain = glove.count_together(stream, 6, window, by_distance=False)
    assert plain.values.sum() == len(expected) and np.array_equal(plain.dense(), plain.dense().T)


def test_a_drawn_window_reaches_each_distance_by_its_share() -> None:
    words = np.arange(60_000)
    middle, beside = skipgram.skipgram_pairs(Stream(words, np.zeros_like(words)), 4, np.random.default_rng(1))
    share = np.bincount(np.abs(middle - beside))[1:] / (2 * len(words))
    np.testing.assert_allclose(share, [1, 0.75, 0.5, 0.25], atol=0.01)


# ------------------------------------------------------------------------------------------------- rows


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 40))
def test_rows_of_equal_ids_add_up(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    ids, rows = random.integers(0, 7, count), random.normal(size=(count, 3))
    expected = np.zeros((7, 3))
    np.add.at(expected, ids, rows)
    places, sums = sum_rows(ids, rows)
    assert np.array_equal(places, np.unique(ids))
    np.testing.assert_allclose(sums, expected[places], atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_adagrad_of_rows_is_torch_s(seed: int) -> None:
    random = np.random.default_rng(seed)
    start = random.normal(size=(6, 3))
    theirs = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adagrad([theirs], lr=0.3)
    ours = AdaGradRows(start.copy(), 0.3)
    for _ in range(5):
        ids, rows = random.integers(0, 6, 8), random.normal(size=(8, 3))
        theirs.grad = torch.zeros_like(theirs).index_add(0, torch.tensor(ids), torch.tensor(rows))
        optimizer.step()
        ours.step(ids, rows)
    np.testing.assert_allclose(ours.table, theirs.detach().numpy(), rtol=1e-9, atol=1e-12)
    with pytest.raises(UsageError, match="rate of 0"):
        AdaGradRows(start, 0)


# --------------------------------------------------------------------------------------------- word2vec


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.5, 30), st.sampled_from([0.1, 1.0, 30.0]))
def test_skipgram_loss_and_gradients_are_torch_s(seed: int, negatives: float, size: float) -> None:
    random = np.random.default_rng(seed)
    parts = [random.normal(size=(count, 4)) * size for count in (5, 5, 7)]
    u, v, n = (torch.tensor(part, requires_grad=True) for part in parts)
    wanted = -logsigmoid((u * v).sum(1)).sum() - negatives / 7 * logsigmoid(-(u @ n.T)).sum()
    wanted.backward()
    loss, *gradients = skipgram.loss_and_gradients(*parts, negatives)
    assert loss == pytest.approx(wanted.item(), rel=1e-9)
    for ours, theirs in zip(gradients, (u, v, n), strict=True):
        assert theirs.grad is not None
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-9, atol=1e-9)


def test_skipgram_gradients_of_tables_are_those_of_the_engine_and_of_small_steps() -> None:
    random = np.random.default_rng(3)
    tables = [Tensor(random.normal(size=(5, 3)), requires_grad=True) for _ in range(2)]
    c, o, n = np.array([0, 1, 1, 4]), np.array([2, 2, 0, 1]), np.array([3, 3, 2])

    def loss() -> Tensor:
        u, v, noise = embedding(tables[0], c), embedding(tables[1], o), embedding(tables[1], n)
        true_loss = (u * v).sum(axis=1).sigmoid().log().sum()
        return -true_loss - (-(u @ noise.T)).sigmoid().log().sum() * (5 / 3)

    assert check_gradients(loss, tables) < 1e-7
    value, by_c, by_o, by_n = skipgram.loss_and_gradients(
        tables[0].data[c], tables[1].data[o], tables[1].data[n], negatives=5
    )
    assert value == pytest.approx(loss().item(), rel=1e-12)
    for table, ids, rows in (
        (tables[0], c, by_c),
        (tables[1], np.concatenate([o, n]), np.concatenate([by_o, by_n])),
    ):
        places, sums = sum_rows(ids, rows)
        assert table.grad is not None
        np.testing.assert_allclose(sums, table.grad[places], rtol=1e-9, atol=1e-12)
        assert np.abs(np.delete(table.grad, places, axis=0)).sum() == 0


def test_shared_noise_expects_what_noise_of_each_pair_does() -> None:
    random = np.random.default_rng(0)
    u, v, table = random.normal(size=(3, 4)), random.normal(size=(3, 4)), random.normal(size=(6, 4))
    distribution = skipgram.noise_distribution(np.array([50, 20, 9, 4, 2, 1]))
    # k words for each pair, in expectation: k times the sum over words of p times their term.
    expected = np.logaddexp(0, -(u * v).sum(1)).sum() + 5 * (np.logaddexp(0, u @ table.T) @ distribution).sum()
    cumulated = np.cumsum(distribution)
    drawn = [
        skipgram.loss_and_gradients(u, v, table[skipgram.draw_words(cumulated, 16, random)], 5)[0] for _ in range(4000)
    ]
    assert np.mean(drawn) == pytest.approx(expected, abs=4 * np.std(drawn) / len(drawn) ** 0.5)


def test_noise_is_drawn_by_its_distribution() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy has the chi-square test")
    distribution = skipgram.noise_distribution(np.array([1000, 300, 50, 8, 1]))
    np.testing.assert_allclose(
        distribution * np.sum([1000**0.75, 300**0.75, 50**0.75, 8**0.75, 1]), np.array([1000, 300, 50, 8, 1]) ** 0.75
    )
    drawn = skipgram.draw_words(np.cumsum(distribution), 50_000, np.random.default_rng(0))
    found = np.bincount(drawn, minlength=5)
    assert stats.chisquare(found, distribution * 50_000).pvalue > 1e-3
    # The same draws do not fit the counts without the power.
    plain = np.array([1000, 300, 50, 8, 1]) / 1359
    assert stats.chisquare(found, plain * 50_000).pvalue < 1e-6


# ------------------------------------------------------------------------------------------------ GloVe


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_glove_loss_and_gradients_are_torch_s(seed: int) -> None:
    random = np.random.default_rng(seed)
    u, v = random.normal(size=(6, 4)), random.normal(size=(6, 4))
    a, b, counts = random.normal(size=6), random.normal(size=6), random.exponential(20, size=6) + 0.1
    weights = glove.weights_of(counts, 10)
    leaves = [torch.tensor(part, requires_grad=True) for part in (u, v, a, b)]
    tu, tv, ta, tb = leaves
    error = (tu * tv).sum(1) + ta + tb - torch.tensor(np.log(counts))
    wanted = (torch.tensor(np.where(counts < 10, (counts / 10) ** 0.75, 1.0)) * error**2).sum()
    wanted.backward()
    loss, by_u, by_v, by_bias = glove.loss_and_gradients(u, v, a, b, np.log(counts), weights)
    assert loss == pytest.approx(wanted.item(), rel=1e-9)
    for ours, theirs in zip((by_u, by_v, by_bias, by_bias), leaves, strict=True):
        assert theirs.grad is not None
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-9, atol=1e-12)


# ----------------------------------------------------------------------------------------- PPMI and SVD


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 6))
def test_leading_singular_values_are_numpy_s(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(40, 6)) @ random.normal(size=(6, 25))
    u, singular, v = leading_singular(matrix, count, random)
    wanted_u, wanted, wanted_v = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(singular, wanted[:count], rtol=1e-9)
    np.testing.assert_allclose(np.abs((u * wanted_u[:, :count]).sum(axis=0)), 1, atol=1e-6)
    np.testing.assert_allclose(np.abs((v * wanted_v[:count]).sum(axis=1)), 1, atol=1e-6)
    best = wanted_u[:, :count] * wanted[:count] @ wanted_v[:count]
    np.testing.assert_allclose(u * singular @ v, best, atol=1e-4)
    largest = v[np.arange(count), np.abs(v).argmax(axis=1)]
    assert (largest > 0).all()
    with pytest.raises(UsageError, match="26 singular values"):
        leading_singular(matrix, 26, random)


def test_leading_singular_values_of_a_slow_spectrum_are_scikit_learn_s() -> None:
    extmath = pytest.importorskip("sklearn.utils.extmath", reason="scikit-learn is the reference")
    matrix = np.random.default_rng(1).normal(size=(200, 150)).astype(np.float32)
    exact = np.linalg.svd(matrix, compute_uv=False)[:10]
    theirs = extmath.randomized_svd(matrix, 10, n_iter=6, random_state=0)[1]
    ours = leading_singular(matrix, 10, np.random.default_rng(0))[1]
    assert np.abs(ours / exact - 1).max() <= np.abs(theirs / exact - 1).max() * 1.5 + 1e-4


def test_ppmi_is_the_formula() -> None:
    table = np.array([[0.0, 4, 1], [4, 2, 0], [1, 0, 6]])
    rows, columns = np.nonzero(table)
    counts = glove.Counts(rows, columns, table[rows, columns], 3)
    joint = table / table.sum()
    with np.errstate(divide="ignore"):
        expected = np.maximum(np.log(joint / np.outer(joint.sum(1), joint.sum(0))), 0)
    np.testing.assert_allclose(positive_information(counts, power=1), expected[rows, columns], atol=1e-12)
    smoothed = table.sum(0) ** 0.75 / (table.sum(0) ** 0.75).sum()
    with np.errstate(divide="ignore"):
        shifted = np.maximum(np.log(joint / np.outer(joint.sum(1), smoothed)) - np.log(2), 0)
    np.testing.assert_allclose(positive_information(counts, negatives=2), shifted[rows, columns], atol=1e-12)
    vectors = factorise(counts, 3, np.random.default_rng(0), power=1)
    u, singular, _ = np.linalg.svd(expected)
    np.testing.assert_allclose(vectors @ vectors.T, u * singular @ u.T, atol=1e-5)
    with pytest.raises(UsageError, match="20,000 words squared"):
        factorise(glove.Counts(rows, columns, table[rows, columns], 20_000), 3, np.random.default_rng(0))


# -------------------------------------------------------------------------------------- what they learn


def grouped_texts(seed: int) -> list[str]:
    """Sentences whose words come from one of three groups, and filler that stands everywhere."""
    random = np.random.default_rng(seed)
    groups = [[f"{letter}{number}" for number in range(6)] for letter in "xyz"]
    return [
        " ".join(random.choice([*groups[index % 3], "the", "of"], size=8, p=[0.11] * 6 + [0.2, 0.14]))
        for index in range(600)
    ]


@pytest.mark.parametrize("method", ["skipgram", "glove", "ppmi"])
def test_words_of_one_group_come_to_lie_together(method: str) -> None:
    texts = grouped_texts(0)
    vocabulary = build_vocabulary(texts)
    stream = read_stream(texts, vocabulary)
    random = np.random.default_rng(0)
    if method == "skipgram":
        chosen = skipgram.SkipgramSettings(
            size=8, window=3, epochs=10, batch_size=512, num_noise_words=32, threshold=np.inf
        )
        learned = skipgram.train_skipgram(stream, vocabulary, chosen, random)
        assert np.mean(learned.losses[-5:]) < np.mean(learned.losses[:5]) - 0.1
        # At the start all scores are 0: log 2 for the pair and for each of the five noise words.
        assert learned.losses[0] == pytest.approx(6 * np.log(2), rel=1e-3)
        matrix = learned.centres
    else:
        counts = glove.count_together(stream, len(vocabulary), 3)
        if method == "glove":
            result = glove.train_glove(counts, glove.GloveSettings(size=8, epochs=60, batch_size=128), random)
            assert result.losses[-1] < result.losses[0] / 4
            matrix = result.vectors
        else:
            matrix = factorise(counts, 8, random)
    vectors = WordVectors(vocabulary, matrix)
    for letter in "xyz":
        own = [word for word, _ in vectors.neighbours(f"{letter}0", 5)]
        assert {word[0] for word in own} == {letter}, own
    assert vectors.odd_one_out(["x1", "x2", "y3", "x4"]) == "y3"


def test_training_ends_when_told_and_repeats_itself() -> None:
    texts = grouped_texts(1)
    vocabulary = build_vocabulary(texts)
    stream = read_stream(texts, vocabulary)
    chosen = skipgram.SkipgramSettings(size=4, epochs=2, threshold=np.inf)
    told: list[tuple[int, int]] = []
    runs = [
        skipgram.train_skipgram(stream, vocabulary, chosen, np.random.default_rng(5), max_steps=3) for _ in range(2)
    ]
    assert len(runs[0].losses) == 3 and np.array_equal(runs[0].centres, runs[1].centres)
    skipgram.train_skipgram(
        stream, vocabulary, chosen, np.random.default_rng(5), progress=lambda done, total: told.append((done, total))
    )
    assert [done for done, _ in told] == list(range(1, len(told) + 1)) and told[-1][1] == pytest.approx(
        len(told), abs=3
    )
    counts = glove.count_together(stream, len(vocabulary), 2)
    assert (
        len(glove.train_glove(counts, glove.GloveSettings(batch_size=64), np.random.default_rng(0), max_steps=4).losses)
        == 4
    )


def test_what_the_trainings_refuse() -> None:
    vocabulary, random = Vocabulary(["a", "b"], [1, 1]), np.random.default_rng(0)
    lonely = read_stream(["a", "b"], vocabulary)
    with pytest.raises(DataError, match="2 known words holds no two side by side"):
        skipgram.train_skipgram(lonely, vocabulary, skipgram.SkipgramSettings(), random)
    with pytest.raises(UsageError, match="must be 1 or more"):
        skipgram.train_skipgram(lonely, vocabulary, skipgram.SkipgramSettings(size=0), random)
    counts = glove.count_together(read_stream(["a b"], vocabulary), 2, 1)
    with pytest.raises(UsageError, match=r"most \(0\) above 0"):
        glove.train_glove(counts, glove.GloveSettings(most=0), random)
    with pytest.raises(UsageError, match="negatives"):
        positive_information(counts, negatives=0)


# ---------------------------------------------------------------------------------- questions to vectors


def some_vectors(seed: int, count: int = 12, size: int = 4) -> WordVectors:
    words = [f"w{number}" for number in range(count)]
    return WordVectors(Vocabulary(words, [9] * count), np.random.default_rng(seed).normal(size=(count, size)))


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_neighbours_and_analogies_are_those_of_a_plain_search(seed: int) -> None:
    vectors = some_vectors(seed)
    words = vectors.vocabulary.words
    cosine = {
        (x, y): vectors[x] @ vectors[y] / np.linalg.norm(vectors[x]) / np.linalg.norm(vectors[y])
        for x in words
        for y in words
    }
    found = vectors.neighbours("w0", 4)
    expected = sorted((word for word in words if word != "w0"), key=lambda word: -cosine["w0", word])[:4]
    assert [word for word, _ in found] == expected
    assert found[0][1] == pytest.approx(cosine["w0", expected[0]]) == pytest.approx(vectors.likeness("w0", expected[0]))
    # 3CosAdd: the word d of largest cos(d, b) - cos(d, a) + cos(d, c).
    score = {d: cosine[d, "w1"] - cosine[d, "w0"] + cosine[d, "w2"] for d in words}
    best = max((d for d in words if d not in ("w0", "w1", "w2")), key=score.__getitem__)
    assert vectors.analogy("w0", "w1", "w2")[0][0] == best
    question = np.array([[0, 1, 2]] * 600)
    assert {words[place] for place in vectors.answer_analogies(question)} == {best}
    assert words[vectors.answer_analogies(question, excluding=False)[0]] == max(words, key=score.__getitem__)
    nearest = max((d for d in words if d not in ("w0", "w1", "w2")), key=lambda d: cosine[d, "w2"])
    assert words[vectors.answer_analogies(question, without_offset=True)[0]] == nearest


def test_a_mean_of_words_knows_no_order_and_unknown_words_are_nothing() -> None:
    vectors = some_vectors(0)
    assert np.array_equal(vectors.sentence("w0 w5 w3"), vectors.sentence("W3, w5: w0 ..."))
    assert vectors.sentence_likeness("w0 w5 w3", "w3 w5 w0") == pytest.approx(1, abs=1e-12)
    assert vectors.sentence_likeness("w0", "nothing known") == 0 and not vectors.sentence("").any()
    zero = WordVectors(Vocabulary(["a", "b"], [1, 1]), np.array([[0.0, 0], [1, 0]]))
    assert zero.likeness("a", "b") == 0


def test_what_vectors_refuse() -> None:
    vocabulary = Vocabulary(["a", "b"], [1, 1])
    with pytest.raises(UsageError, match=r"2 words need as many rows, not a matrix of shape \(3, 4\)"):
        WordVectors(vocabulary, np.zeros((3, 4)))
    with pytest.raises(UsageError, match="not finite"):
        WordVectors(vocabulary, np.array([[1.0], [np.nan]]))
    with pytest.raises(UsageError, match="2 words have no odd one"):
        some_vectors(0).odd_one_out(["w0", "w1"])
    with pytest.raises(UsageError, match="'q' is not among the 12 words"):
        some_vectors(0).neighbours("q")


def test_questions_hold_known_words_only_and_every_two_pairs_once_each_way() -> None:
    vocabulary = Vocabulary(["a", "as", "b", "bs", "c", "he", "him", "her"], [9] * 8)
    asked = analogies.questions_for(
        vocabulary, {"plural": "a:as b:bs c:cs", "one": "a:as d:ds", "her": "he:her him:her"}
    )
    assert [one.relation for one in asked] == ["plural"]
    assert asked[0].pairs == (("a", "as"), ("b", "bs")) and asked[0].num_listed == 3
    assert asked[0].places.tolist() == [[2, 3, 0, 1], [0, 1, 2, 3]] and asked[0].targets.tolist() == [0, 1]
    for wrong in ("a:", ":b", "ab", "a:b:c"):
        with pytest.raises(UsageError, match="is no pair"):
            analogies.read_pairs(wrong)


def test_perfect_offsets_answer_all_and_the_lists_are_whole() -> None:
    # Stem + ending, at right angles: b - a + c is d.
    stems, ending = np.eye(5)[:4], np.eye(5)[4] * 0.5
    words = [f"{stem}{end}" for stem in "abcd" for end in ("", "s")]
    matrix = np.concatenate([[stem, stem + ending] for stem in stems])
    vectors = WordVectors(Vocabulary(words, [1] * 8), matrix)
    (asked,) = analogies.questions_for(vectors.vocabulary, {"plural": "a:as b:bs c:cs d:ds"})
    answers = analogies.ask(vectors, asked)
    assert len(answers.right) == 12 and answers.right.all()
    for text in (*analogies.RELATIONS.values(), analogies.RELATED):
        pairs = analogies.read_pairs(text)
        assert len(pairs) > 5 and all(word == word.lower() and first != word for first, word in pairs)


# -------------------------------------------------------------------------------------------- likeness


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=7), st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_edit_distance_is_a_distance_and_the_recursion_s(a: str, b: str, c: str) -> None:
    def plain(x: str, y: str) -> int:
        if not x or not y:
            return len(x) + len(y)
        return min(plain(x[1:], y) + 1, plain(x, y[1:]) + 1, plain(x[1:], y[1:]) + (x[0] != y[0]))

    if len(a) + len(b) <= 9:
        assert edit_distance(a, b) == plain(a, b)
    assert edit_distance(a, b) == edit_distance(b, a) and (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_share_nearer_is_the_area_under_the_curve(related: list[int], others: list[int]) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    shares = share_nearer(np.array(related, float), np.array(others, float))
    wanted = metrics.roc_auc_score([1] * len(related) + [0] * len(others), [-x for x in related + others])
    assert shares.shape == (len(related),) and shares.mean() == pytest.approx(wanted)


def test_ids_are_as_far_as_their_numbers() -> None:
    vocabulary = Vocabulary(["a", "b", "c"], [3, 2, 1])
    assert id_distance(vocabulary, "a", "c") == 2 == id_distance(vocabulary, "c", "a")
