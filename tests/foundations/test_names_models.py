"""The models of names: the bigram twice, networks beside torch, training, sampling, statistics; the published losses."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from groundup.core.errors import UsageError
from groundup.foundations.backward import softmax_forward
from groundup.foundations.functions import cross_entropy
from groundup.foundations.names.bigram import BigramNetwork, bigram_table, count_bigram, train_bigram_network
from groundup.foundations.names.data import NameData
from groundup.foundations.names.hierarchy import HierarchicalModel
from groundup.foundations.names.mlp import ContextMLP
from groundup.foundations.names.statistics import layer_statistics, study
from groundup.foundations.names.training import (
    MAX_LENGTH,
    draw_words,
    mean_loss,
    sample,
    share_of_rate,
    train,
)
from groundup.foundations.optimizers import SGD, AdamW
from groundup.foundations.tensor import Tensor

NAMES = Path(__file__).resolve().parents[2] / "../shared/data/names/names.txt"
seeds = st.integers(0, 10_000)


def made_up(seed: int, count: int = 200) -> list[str]:
    """Words with a habit: an a is followed by b, a b by a or c."""
    random = np.random.default_rng(seed)
    words = []
    for _ in range(count):
        word = "a"
        while len(word) < 2 + random.integers(6):
            word += "b" if word[-1] == "a" else str(random.choice(["a", "c"]))
        words.append(word)
    return words


# Bigrams ------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.5, 1.0]))
def test_the_table_holds_the_shares_of_the_pairs(seed: int, k: float) -> None:
    data = NameData(made_up(seed, 40))
    counts = np.full((data.vocab_size, data.vocab_size), k)
    for word in data.train:
        ids = data.encode(word)
        for a, b in itertools.pairwise(ids):
            counts[a, b] += 1
    np.testing.assert_allclose(
        bigram_table(count_bigram(data, k)), counts / counts.sum(axis=1, keepdims=True), rtol=1e-12
    )


@pytest.mark.parametrize("k", [0.5, 1.0])
def test_the_network_of_one_layer_arrives_at_the_table(k: float) -> None:
    data = NameData(made_up(3))
    network = BigramNetwork(data.vocab_size, np.random.default_rng(0))
    seen: list[tuple[int, int]] = []
    losses = train_bigram_network(
        network, data, k=k, steps=800, progress=lambda done, total: seen.append((done, total))
    )
    table = bigram_table(count_bigram(data, k))
    np.testing.assert_allclose(softmax_forward(network.weight.data), table, atol=1e-3)
    # No table has a lower loss over the pairs than their shares: the network comes down to it, from above.
    x, y = data.contexts(data.train, 1)
    counts = np.bincount(x[:, 0] * data.vocab_size + y, minlength=table.size).reshape(table.shape) + k
    least = -(counts * np.log(table)).sum() / counts.sum()
    assert least <= losses[-1] < least + 1e-5 < losses[0]
    assert seen[-1] == (800, 800)


def test_the_loss_over_pairs_is_that_over_examples() -> None:
    data = NameData(made_up(4))
    network = BigramNetwork(data.vocab_size, np.random.default_rng(1))
    before = network.weight.data
    x, y = data.contexts(data.train, 1)
    loss = cross_entropy(network(x), y)
    loss.backward()
    assert train_bigram_network(network, data, k=0, steps=1)[0] == pytest.approx(loss.item(), rel=1e-12)
    one_hot = Tensor(np.eye(data.vocab_size)[x[:, 0]])
    np.testing.assert_allclose(network(x).data, (one_hot @ network.weight).data, rtol=1e-12)
    assert network.weight.grad is not None and before.shape == network.weight.shape


# Networks beside torch ----------------------------------------------------------------------------------------------


def torch_weights(model: ContextMLP | HierarchicalModel) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(p.data, requires_grad=True) for name, p in model.named_parameters()}


def same_gradients(
    model: ContextMLP | HierarchicalModel, weights: dict[str, torch.Tensor], logits: torch.Tensor, x: np.ndarray
) -> None:
    y = np.random.default_rng(5).integers(0, logits.shape[-1], len(x))
    ours = cross_entropy(model(x), y)
    np.testing.assert_allclose(model(x).data, logits.detach().numpy(), rtol=1e-9, atol=1e-11)
    ours.backward()
    F.cross_entropy(logits, torch.tensor(y)).backward()
    for name, parameter in model.named_parameters():
        theirs = weights[name].grad
        assert parameter.grad is not None and theirs is not None
        assert np.abs(parameter.grad - theirs.numpy()).max() <= 1e-9 * max(theirs.abs().max().item(), 1e-3), name


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 3), st.booleans())
def test_the_perceptron_is_that_of_torch(seed: int, layers: int, is_normed: bool) -> None:
    random = np.random.default_rng(seed)
    model = ContextMLP(
        7, random, block_size=3, embedding_size=4, hidden_size=5, num_hidden_layers=layers, is_normed=is_normed
    )
    weights, x = torch_weights(model), random.integers(0, 7, (6, 3))
    h = F.embedding(torch.tensor(x), weights["embed.weight"]).reshape(6, -1)
    size = 4 if is_normed else 3
    for index in range(layers):
        h = h @ weights[f"hidden.layers.{index * size}.weight"]
        if is_normed:
            norm = f"hidden.layers.{index * size + 1}"
            h = F.batch_norm(h, None, None, weights[f"{norm}.weight"], weights[f"{norm}.bias"], training=True)
        else:
            h = h + weights[f"hidden.layers.{index * size}.bias"]
        h = h.tanh()
    same_gradients(model, weights, h @ weights["head.weight"] + weights["head.bias"], x)


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([2, 4, 8]))
def test_the_hierarchy_is_a_chain_of_strided_convolutions(seed: int, block_size: int) -> None:
    random = np.random.default_rng(seed)
    model = HierarchicalModel(7, random, block_size=block_size, embedding_size=3, hidden_size=5)
    weights, x = torch_weights(model), random.integers(0, 7, (6, block_size))
    h = F.embedding(torch.tensor(x), weights["embed.weight"]).transpose(1, 2)  # (N, E, places)
    for index in range(block_size.bit_length() - 1):
        kernel = weights[f"layers.{index}.layers.0.weight"]  # (2 E, H): the older neighbour's rows first
        kernel = kernel.T.reshape(kernel.shape[1], 2, -1).transpose(1, 2)
        norm = f"layers.{index}.layers.1"
        h = F.conv1d(h, kernel, stride=2)
        h = F.batch_norm(h, None, None, weights[f"{norm}.weight"], weights[f"{norm}.bias"], training=True).tanh()
    same_gradients(model, weights, h[:, :, 0] @ weights["head.weight"] + weights["head.bias"], x)


def test_a_context_that_is_no_power_of_two_is_refused() -> None:
    for size in (0, 1, 6):
        with pytest.raises(UsageError, match=f"not {size}"):
            HierarchicalModel(5, np.random.default_rng(0), block_size=size)


# Training and sampling ----------------------------------------------------------------------------------------------


def small(data: NameData, seed: int = 0, **options: bool) -> ContextMLP:
    return ContextMLP(data.vocab_size, np.random.default_rng(seed), hidden_size=16, embedding_size=4, **options)


def test_training_lowers_the_loss_and_repeats() -> None:
    data = NameData(made_up(0))
    x, y = data.contexts(data.train, 3)
    found = []
    for _ in range(2):
        model = small(data, is_normed=True)
        model.convert(np.float32)
        seen: list[tuple[int, int]] = []
        optimizer = AdamW(model.parameters(), 0.02)
        losses = train(
            model, x, y, np.random.default_rng(1), optimizer, steps=150, batch_size=64,
            progress=lambda done, total, seen=seen: seen.append((done, total)),
        )  # fmt: skip
        assert seen == [(step, 150) for step in range(1, 151)]
        assert all(parameter.dtype == np.float32 for parameter in model.parameters())
        found.append(losses)
    assert np.array_equal(*found), "the same seeds, the same losses"
    assert losses[0] == pytest.approx(np.log(data.vocab_size), abs=0.3)
    # A b is followed by a, c or the end, an a by b or the end: far below a guess.
    assert mean_loss(model, *data.contexts(data.validation, 3)) < 0.75 * losses[0]


def test_every_context_is_used_once_before_any_is_used_again() -> None:
    data = NameData(made_up(1, 40))
    x, y = data.contexts(data.train, 3)
    model = small(data)
    read: list[np.ndarray] = []
    call = model.embed.__class__.__call__

    class Spy(type(model.embed)):
        def __call__(self, ids: np.ndarray) -> Tensor:
            read.append(np.asarray(ids))
            return call(self, ids)

    model.embed.__class__ = Spy
    steps = -(-len(y) // 16)
    train(model, x, y, np.random.default_rng(0), SGD(model.parameters(), 0.1), steps=steps, batch_size=16)
    used = np.concatenate(read)[: len(y)]
    assert sorted(map(tuple, used.tolist())) == sorted(map(tuple, x.tolist()))


def test_the_rate_rises_and_falls() -> None:
    shares = [share_of_rate(step, 200) for step in range(200)]
    assert max(shares) == shares[9] == 1 and shares[0] == 0.1 and 0 < shares[-1] < 0.01
    assert share_of_rate(0, 1) == 1
    data = NameData(made_up(1, 40))
    with pytest.raises(UsageError, match="0 steps"):
        train(small(data), *data.contexts(data.train, 3), np.random.default_rng(0),
              SGD(small(data).parameters(), 1), steps=0)  # fmt: skip
    with pytest.raises(UsageError, match="no context"):
        train(small(data), *data.contexts([], 3), np.random.default_rng(0),
              SGD(small(data).parameters(), 1), steps=1)  # fmt: skip


def test_the_mean_loss_leaves_the_mode_and_does_not_depend_on_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    data = NameData(made_up(2))
    model = small(data, is_normed=True)
    x, y = data.contexts(data.train, 3)
    train(model, x, y, np.random.default_rng(0), SGD(model.parameters(), 0.1), steps=5)
    whole = mean_loss(model, x, y)
    assert model.training and model.hidden.layers[1].training
    monkeypatch.setattr("groundup.foundations.names.training._EVALUATED_AT_ONCE", 7)
    assert mean_loss(model, x, y) == pytest.approx(whole, rel=1e-12)
    model.train(False)
    assert cross_entropy(model(x), y).item() == pytest.approx(whole, rel=1e-12)


def test_words_are_drawn_with_the_probabilities_given() -> None:
    data = NameData(["ab"] * 20)
    table = np.array([[0.0, 0.3, 0.7], [0.5, 0.5, 0.0], [0.9, 0.1, 0.0]])
    words = draw_words(lambda x: table[x[:, -1]], data, np.random.default_rng(0), 6000, block_size=2)
    assert np.mean([word[0] == "b" for word in words]) == pytest.approx(0.7, abs=0.03)
    assert np.mean([word == "b" for word in words]) == pytest.approx(0.63, abs=0.03)
    assert not any("ab" in word for word in words)
    endless = np.array([[0, 1, 0], [0, 1, 0], [0, 1, 0]])
    words = draw_words(lambda x: endless[x[:, 0]], data, np.random.default_rng(0), 2, block_size=1)
    assert words == ["a" * MAX_LENGTH] * 2


def test_samples_of_a_model_repeat_and_are_of_its_characters() -> None:
    data = NameData(made_up(5))
    model = small(data, is_normed=True)
    words = sample(model, data, np.random.default_rng(7), 9)
    assert words == sample(model, data, np.random.default_rng(7), 9) and len(words) == 9
    assert set("".join(words)) <= set("abc") and model.training


# Statistics ---------------------------------------------------------------------------------------------------------


def test_an_observation_is_the_derivative_by_what_passed() -> None:
    data = NameData(made_up(6))
    model = ContextMLP(data.vocab_size, np.random.default_rng(0), hidden_size=4, num_hidden_layers=2)
    x, y = data.contexts(data.train[:5], 3)
    first, second = layer_statistics(model, x, y)
    assert all(parameter.grad is None for parameter in model.parameters())
    # Through what comes behind the last hidden layer, with the values as a leaf.
    leaf = Tensor(second.values, requires_grad=True)
    cross_entropy(model.head(leaf), y).backward()
    np.testing.assert_allclose(second.gradient, leaf.grad, rtol=1e-12)
    hidden = Tensor(first.values, requires_grad=True)
    cross_entropy(model.head(model.hidden.layers[3](hidden).tanh()), y).backward()
    np.testing.assert_allclose(first.gradient, hidden.grad, rtol=1e-12)
    assert not any(observation.is_open for observation in model.observations)


def test_good_beginnings_and_bad_ones_are_told_apart() -> None:
    data = NameData(made_up(7))
    x, y = data.contexts(data.train, 3)

    def layers(**options: float) -> list[tuple[float, float, float]]:
        model = ContextMLP(data.vocab_size, np.random.default_rng(0), hidden_size=60, num_hidden_layers=4, **options)
        found = layer_statistics(model, x, y)
        return [(one.deviation, one.saturation, one.gradient_deviation) for one in found]

    good, large, small_, normed = layers(), layers(gain=6), layers(gain=0.3), layers(gain=6, is_normed=True)
    assert all(0.5 < deviation < 0.85 and saturation < 0.25 for deviation, saturation, _ in good)
    assert all(saturation > 0.5 for _, saturation, _ in large)
    assert small_[-1][0] < 0.05 * small_[0][0]
    assert all(0.55 < deviation < 0.7 and saturation < 0.1 for deviation, saturation, _ in normed)
    assert 0.3 < good[0][2] / good[-1][2] < 3
    assert small_[0][2] < 0.1 * small_[-1][2], "what is multiplied by small matrices fades on its way back"


def test_a_study_counts_what_each_update_moved() -> None:
    data = NameData(made_up(8))
    x, y = data.contexts(data.train, 3)
    model = ContextMLP(data.vocab_size, np.random.default_rng(0), hidden_size=8, num_hidden_layers=2)
    found = study(
        model, x, y, np.random.default_rng(1), SGD(model.parameters(), 0.1), steps=6, batch_size=len(y), watched=10**6
    )
    assert found.names == ["embed", "layer 1", "layer 2", "head"] and found.ratios.shape == (6, 4)
    assert len(found.before) == len(found.after) == 2 and found.losses[-1] < found.losses[0]
    assert found.before[0].values.shape == (len(y), 8)
    # The first update by hand: one warm step at the full rate.
    again = ContextMLP(data.vocab_size, np.random.default_rng(0), hidden_size=8, num_hidden_layers=2)
    cross_entropy(again(x), y).backward()
    expected = [0.1 * p.grad.std() / p.data.std() for p in again.parameters() if p.ndim == 2 and p.grad is not None]
    np.testing.assert_allclose(found.ratios[0], expected, rtol=1e-9)
    with pytest.raises(UsageError, match="1 contexts"):
        study(model, x, y, np.random.default_rng(1), SGD(model.parameters(), 0.1), steps=1, watched=1)


# The published figures ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def names() -> list[str]:
    if not NAMES.is_file():
        pytest.skip(f"{NAMES} is not there")
    return NAMES.read_text(encoding="utf-8").split()


def test_the_bigram_of_the_names_has_the_published_loss(names: list[str]) -> None:
    data = NameData(names)

    def loss(k: float, words: list[str]) -> float:
        documents = [data.encode(word)[1:] for word in words]
        bits = count_bigram(data, k).document_bits(documents)
        return float(bits.sum() * np.log(2) / sum(map(len, documents)))

    assert loss(1, data.validation) < 2.456 and loss(1, data.test) < 2.451
    # As published: all names are counted, and the same are measured, without smoothing.
    data.train = names
    assert loss(0, names) == pytest.approx(2.4541, abs=1e-4)
