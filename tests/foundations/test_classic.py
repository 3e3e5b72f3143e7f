"""The classic models beside scikit-learn, on fresh random data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.foundations.classic.components import principal_components
from groundup.foundations.classic.kmeans import k_means
from groundup.foundations.classic.linear import (
    descend_least_squares,
    descend_logistic,
    probability,
    solve_least_squares,
    standardized,
)
from groundup.foundations.classic.naive_bayes import NaiveBayes, words_of
from groundup.foundations.classic.neighbours import Neighbours, squared_distances
from groundup.foundations.classic.tree import DecisionTree, gini

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is the reference")
from sklearn.cluster import KMeans  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.feature_extraction.text import CountVectorizer  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.naive_bayes import MultinomialNB  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

seeds = st.integers(0, 10_000)


def groups(seed: int, rows: int = 120, columns: int = 4, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % count
    return random.normal(size=(count, columns))[labels] * 2 + random.normal(size=(rows, columns)), labels


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_least_squares(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = standardized(random.normal(size=(60, 3)) * [1, 10, 0.1])
    y = x @ [2.0, -1.0, 0.5] + 3 + random.normal(size=60)
    theirs = LinearRegression().fit(x, y)
    exact, descended = solve_least_squares(x, y), descend_least_squares(x, y, rate=0.2, steps=2000)
    for ours in (exact, descended):
        np.testing.assert_allclose(ours.weights, theirs.coef_, atol=1e-8)
        assert ours.bias == pytest.approx(theirs.intercept_, abs=1e-8)
    assert descended.trace is not None
    assert (np.diff(descended.trace.losses) <= 1e-12).all()
    assert descended.trace.weights.shape == (2001, 4) and not descended.trace.weights[0].any()


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([0.01, 0.1, 1.0]))
def test_logistic_regression(seed: int, penalty: float) -> None:
    x, labels = groups(seed, count=2)
    x = standardized(x)
    theirs = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=10_000).fit(x, labels)
    ours = descend_logistic(x, labels, rate=1.0, steps=4000, penalty=penalty)
    np.testing.assert_allclose(ours.weights, theirs.coef_[0], atol=1e-4)
    assert ours.bias == pytest.approx(theirs.intercept_[0], abs=1e-4)
    np.testing.assert_allclose(probability(ours.scores(x)), theirs.predict_proba(x)[:, 1], atol=1e-4)


def test_a_rate_that_overshoots_is_named() -> None:
    x, labels = groups(0, count=2)
    with pytest.raises(UsageError, match="with a rate of 30 the steps overshoot"):
        descend_least_squares(x * 10, labels.astype(float), rate=30)
    with pytest.raises(UsageError, match="targets are 0 and 1"):
        descend_logistic(x, labels + 1)
    with pytest.raises(UsageError, match=r"shapes \(120, 4\) and \(3,\)"):
        solve_least_squares(x, np.zeros(3))
    assert probability(np.array([-1e4, 0, 1e4])).tolist() == [0, 0.5, 1]


WORDS = ["free", "money", "now", "offer", "meeting", "report", "lunch", "cheap", "winner", "project"]


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([0.1, 1.0]))
def test_naive_bayes(seed: int, smoothing: float) -> None:
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 9))) for _ in range(30)]
    labels = random.choice(["ham", "spam", "news"], 30).tolist()
    ours = NaiveBayes(texts, labels, smoothing=smoothing)
    counter = CountVectorizer(token_pattern=r"\w+")
    theirs = MultinomialNB(alpha=smoothing).fit(counter.fit_transform(texts), labels)
    questions = [*texts[:5], "money unseen", "unseen", ""]
    expected = theirs.predict_log_proba(counter.transform(questions))
    for question, row in zip(questions, expected, strict=True):
        found = ours.log_probabilities(question)
        np.testing.assert_allclose([found[label] for label in theirs.classes_], row, atol=1e-10)


def test_telling_words_and_what_is_refused() -> None:
    model = NaiveBayes(["free money", "free offer", "project meeting"], ["spam", "spam", "ham"])
    assert model.predict("FREE lunch!") == "spam" and model.telling_words("spam", 1)[0][0] == "free"
    assert words_of("It's 5 O'Clock") == ["it", "s", "5", "o", "clock"]
    assert NaiveBayes(["a"], ["x"]).telling_words("x") == []
    with pytest.raises(UsageError, match="above 0"):
        NaiveBayes(["a"], ["x"], smoothing=0)
    with pytest.raises(UsageError, match="0 texts and 0 labels"):
        NaiveBayes([], [])


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 9))
def test_neighbours(seed: int, count: int) -> None:
    x, labels = groups(seed)
    questions = np.random.default_rng(seed + 1).normal(size=(20, 4)) * 2
    theirs = KNeighborsClassifier(count, algorithm="brute").fit(x, labels)
    ours = Neighbours(x, labels, count=count)
    assert np.array_equal(ours.predict(questions), theirs.predict(questions))
    assert np.array_equal(ours.nearest(questions), theirs.kneighbors(questions)[1])
    assert (squared_distances(x, x).diagonal() < 1e-9).all()


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 5))
def test_k_means(seed: int, count: int) -> None:
    x, _ = groups(seed)
    start = x[np.random.default_rng(seed).choice(len(x), count, replace=False)]
    theirs = KMeans(count, init=start, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(x)
    ours = k_means(x, count, start=start)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-9)
    assert np.array_equal(ours.groups, theirs.labels_)
    assert (np.diff(ours.history) <= 1e-9 * ours.history[0]).all()
    best = k_means(x, count, seed=seed, tries=10)
    assert best.inertia <= 1.05 * KMeans(count, n_init=10, random_state=0).fit(x).inertia_


def test_k_means_of_equal_points_and_of_too_many_groups() -> None:
    found = k_means(np.ones((4, 2)), 3)
    assert found.inertia == 0
    with pytest.raises(UsageError, match="5 groups"):
        k_means(np.ones((4, 2)), 5)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 4))
def test_principal_components(seed: int, count: int) -> None:
    x, _ = groups(seed)
    theirs, ours = PCA(count).fit(x), principal_components(x, count)
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(ours.shares, theirs.explained_variance_ratio_, rtol=1e-9)
    signs = np.sign((ours.directions * theirs.components_).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(ours.directions, theirs.components_ * signs, atol=1e-8)
    np.testing.assert_allclose(ours.rebuild(ours.project(x)), theirs.inverse_transform(theirs.transform(x)), atol=1e-9)
    assert (ours.directions.max(axis=1) >= -ours.directions.min(axis=1)).all()


def test_components_of_what_does_not_vary() -> None:
    assert principal_components(np.ones((3, 2)), 1).shares.tolist() == [0.0]
    with pytest.raises(UsageError, match="3 components of data of shape"):
        principal_components(np.ones((3, 2)), 3)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 6), st.integers(1, 8))
def test_decision_tree(seed: int, depth: int, least: int) -> None:
    x, labels = groups(seed)
    ours = DecisionTree(x, labels, depth=depth, least=least)
    if depth:
        theirs = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=least, random_state=0).fit(x, labels)
        # Questions of equal worth may be chosen otherwise; then the trees part, and their answers are as good.
        assert (ours.predict(x) == labels).mean() >= (theirs.predict(x) == labels).mean() - 0.05
        left, right = ours.root.left, ours.root.right
        children = [theirs.tree_.children_left[0], theirs.tree_.children_right[0]]
        expected = sum(theirs.tree_.impurity[i] * theirs.tree_.n_node_samples[i] for i in children)
        assert left is not None and right is not None
        found = sum(gini(node.counts) * node.counts.sum() for node in (left, right))
        assert found == pytest.approx(expected)
    else:
        assert set(ours.predict(x)) == {0}


def test_a_tree_tells_its_questions() -> None:
    x = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 1.0], [4.0, 1.0]])
    tree = DecisionTree(x, np.array([0, 0, 1, 1]))
    assert tree.describe(["size", "flag"], ["small", "large"]).splitlines() == [
        "size <= 2.5?",
        "  small (100% of 2)",
        "else",
        "  large (100% of 2)",
    ]
    assert gini(np.array([[2, 2], [4, 0]])).tolist() == [0.5, 0.0]
    with pytest.raises(UsageError, match="a depth of -1"):
        DecisionTree(x, np.array([0, 0, 1, 1]), depth=-1)


# What broke them -----------------------------------------------------------------------------------------------------


def test_neighbours_and_groups_far_from_zero_are_those_near_it() -> None:
    random = np.random.default_rng(0)
    points, questions = random.normal(size=(200, 2)), random.normal(size=(50, 2))
    labels = random.integers(0, 3, 200)
    far = 1e8
    ours = Neighbours(points + far, labels, count=5)
    theirs = KNeighborsClassifier(5, algorithm="kd_tree").fit(points + far, labels)
    np.testing.assert_array_equal(ours.nearest(questions + far), theirs.kneighbors(questions + far)[1])
    np.testing.assert_array_equal(k_means(points + far, 3).groups, k_means(points, 3).groups)


@pytest.mark.parametrize("rows", range(2, 20))
def test_a_constant_column_becomes_zeros_whatever_its_mean_rounds_to(rows: int) -> None:
    assert not standardized(np.full((rows, 1), 0.1)).any()


def test_a_rate_that_is_far_too_large_is_named_and_not_warned_about() -> None:
    x, y = groups(0, columns=2, count=2)
    for descend in (descend_least_squares, descend_logistic):
        with pytest.raises(UsageError, match="rate of 1e\\+200 the steps overshoot"):
            descend(x * 1e200, y, rate=1e200, steps=50)


def test_a_probability_is_right_to_the_last_digits_far_below_zero() -> None:
    scores = np.array([-700.0, -40.0, -20.0, 0.0, 20.0, 800.0])
    np.testing.assert_allclose(probability(scores), [np.exp(-700.0), *1 / (1 + np.exp(-scores[1:]))], rtol=1e-15)


@pytest.mark.parametrize("values", [[1e308, 1.7e308], [5e-324, 1e-323], [-np.inf, np.inf], "next"])
def test_a_tree_divides_any_two_numbers_that_differ(values: list[float] | str) -> None:
    one = np.nextafter(1, 2)
    x = np.array([one, np.nextafter(one, 2)] if isinstance(values, str) else values)[:, None]
    tree = DecisionTree(x, np.array([0, 1]))
    np.testing.assert_array_equal(tree.predict(x), [0, 1])


def test_k_means_refuses_no_tries_and_centres_that_do_not_fit() -> None:
    points = np.ones((5, 2))
    with pytest.raises(UsageError, match="0 tries: at least 1"):
        k_means(points, 3, tries=0)
    with pytest.raises(UsageError, match=r"from centres of shape \(2, 2\): .* shape \(3, 2\)"):
        k_means(points, 3, start=np.ones((2, 2)))
