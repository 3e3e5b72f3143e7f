"""Recurrent models of names: the loss of a padded batch, batches, drawing, training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.foundations.functions import log_softmax
from groundup.foundations.names.data import BOUNDARY, NameData
from groundup.foundations.names.recurrent import (
    RecurrentModel,
    batches,
    loss_by_position,
    mean_loss_of,
    padded,
    train_recurrent,
)
from groundup.foundations.names.training import MAX_LENGTH
from groundup.foundations.recurrent import CELLS

NAMES = Path(__file__).parents[2] / ".." / "shared" / "data" / "names" / "names.txt"
WORDS = ["anna", "bo", "emma", "ida", "noah", "lea", "otto", "ava", "mia", "leon", "nele", "tom", "bea", "nina", "lena"]


@settings(max_examples=15, deadline=None)
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=5),
    kind=st.sampled_from(sorted(CELLS)),
    seed=st.integers(0, 999),
)
def test_the_loss_of_a_batch_is_that_of_its_characters_alone(words: list[str], kind: str, seed: int) -> None:
    data = NameData(WORDS)
    model = RecurrentModel(kind, data.vocab_size, np.random.default_rng(seed), embedding_size=3, hidden_size=4)
    alone = []
    for word in words:
        ids = np.array([data.encode(word)])
        scores = log_softmax(model.logits(ids[:, :-1])).data[0]
        alone += [-scores[place, id] for place, id in enumerate(ids[0, 1:])]
    loss = model.loss(*padded([data.encode(word) for word in words])).item()
    np.testing.assert_allclose(loss, np.mean(alone), rtol=1e-12)
    np.testing.assert_allclose(mean_loss_of(model, data, words), loss, rtol=1e-12)
    places = loss_by_position(model, data, words, 9)
    counts = [sum(len(word) + 1 > place for word in words) for place in range(len(places))]
    assert len(places) == 1 + max(map(len, words))
    np.testing.assert_allclose(places @ counts / sum(counts), loss, rtol=1e-12)
    np.testing.assert_array_equal(loss_by_position(model, data, words, 2), places[:2])


def test_padding_has_no_gradient() -> None:
    data = NameData(WORDS)
    for kind in CELLS:
        model = RecurrentModel(kind, data.vocab_size, np.random.default_rng(0), embedding_size=3, hidden_size=4)
        short, long = (padded([data.encode("bo"), *more]) for more in ([], [data.encode("leon")]))
        gradients = []
        for ids, mask in (short, (long[0][:1], long[1][:1])):
            model.loss(ids, mask).backward()
            gradients.append([weight.grad for weight in model.parameters()])
            for weight in model.parameters():
                weight.grad = None
        for one, other in zip(*gradients, strict=True):
            assert one is not None and other is not None
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=80), size=st.integers(1, 7), seed=st.integers(0, 99))
def test_batches_hold_every_name_once(lengths: list[int], size: int, seed: int) -> None:
    names = [[BOUNDARY, *[1 + place] * length, BOUNDARY] for place, length in enumerate(lengths)]
    seen = []
    for ids, mask in batches(names, size, np.random.default_rng(seed)):
        assert 1 <= len(ids) <= size and mask.shape == (len(ids), ids.shape[1] - 1)
        seen += [row[: 1 + count].tolist() for row, count in zip(ids, mask.sum(axis=1), strict=True)]
    assert sorted(seen) == sorted(names)


@pytest.mark.parametrize("kind", sorted(CELLS))
def test_training_learns_and_what_is_drawn_follows_the_model(kind: str) -> None:
    data = NameData(["ab", "cd"] * 20)
    random = np.random.default_rng(0)
    model = RecurrentModel(kind, data.vocab_size, random, embedding_size=4, hidden_size=8)
    model.convert(np.float32)
    seen: list[tuple[int, int]] = []
    losses = train_recurrent(
        model, data, random, steps=60, batch_size=8, rate=0.05, progress=lambda *done: seen.append(done)
    )
    assert len(losses) == 60 and seen[-1] == (60, 60)
    # One choice of two in three characters.
    assert abs(mean_loss_of(model, data, ["ab", "cd"]) - np.log(2) / 3) < 0.08
    names = [data.decode(row) for row in model.sample(random, 300)]
    assert names.count("ab") + names.count("cd") > 270
    assert 90 < names.count("ab") < 210
    again = model.sample(np.random.default_rng(5), 4)
    assert np.array_equal(again, model.sample(np.random.default_rng(5), 4))


def test_a_model_that_never_ends_a_name_is_stopped() -> None:
    model = RecurrentModel("rnn", 3, np.random.default_rng(0), embedding_size=2, hidden_size=2)
    assert model.head.bias is not None
    model.head.bias.data = np.array([-1e3, 0.0, 0.0])
    assert model.sample(np.random.default_rng(0), 3).shape == (3, MAX_LENGTH)


def test_wrong_settings_are_refused() -> None:
    data = NameData(WORDS)
    with pytest.raises(UsageError, match=r"no cell 'lstn'.*lstm"):
        RecurrentModel("lstn", 3, np.random.default_rng(0))
    model = RecurrentModel("rnn", data.vocab_size, np.random.default_rng(0), embedding_size=2, hidden_size=2)
    with pytest.raises(UsageError, match="0 steps of batches of 128"):
        train_recurrent(model, data, np.random.default_rng(0), steps=0)


@pytest.mark.slow
@pytest.mark.skipif(not NAMES.exists(), reason="the list of names is not there")
def test_a_gru_is_below_the_published_figure() -> None:
    data = NameData(NAMES.read_text(encoding="utf-8").split())
    random = np.random.default_rng(0)
    model = RecurrentModel("gru", data.vocab_size, random)
    model.convert(np.float32)
    train_recurrent(model, data, random, steps=1500)
    assert mean_loss_of(model, data, data.validation) < 2.01
    assert mean_loss_of(model, data, data.test) < 2.01
