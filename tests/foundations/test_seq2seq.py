"""Sequence to sequence beside torch: loss, every gradient, greedy writing; the tasks; what attention is for."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from groundup.core.errors import DataError, UsageError
from groundup.foundations.recurrent import GRUCell
from groundup.foundations.seq2seq import END, Alphabet, Seq2Seq, share_exact, train_seq2seq
from groundup.foundations.seq2seq_tasks import DATE_CHARACTERS, LETTERS, date, reversal
from groundup.foundations.tensor import Tensor, no_grad

WORDS = st.lists(st.text("abc", max_size=5), min_size=1, max_size=4)


def torch_cell(cell: GRUCell, leaves: dict[str, torch.Tensor], name: str) -> torch.nn.GRUCell:
    """torch's cell over our weights, whose gradients land in `leaves`."""
    module = torch.nn.GRUCell(cell.size, cell.hidden_size).double()
    parts = {"ih": "from_input", "hh": "from_state"}
    with torch.no_grad():
        for theirs, ours in parts.items():
            getattr(module, f"weight_{theirs}").copy_(leaves[f"{name}.{ours}.weight"].T)
            getattr(module, f"bias_{theirs}").copy_(leaves[f"{name}.{ours}.bias"])
    return module


def torch_scores(model: Seq2Seq, read: list[str], before: np.ndarray) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same computation in torch, one row at a time and without padding: scores of the symbol after each of `before`."""
    leaves = {name: torch.tensor(weight.data.copy(), requires_grad=True) for name, weight in model.named_parameters()}
    encoder, decoder = (torch_cell(getattr(model, name), leaves, name) for name in ("encoder", "decoder"))
    rows = []
    for text, symbols_before in zip(read, before, strict=True):
        symbols = [*("abc".index(character) + 1 for character in text), END]
        h = torch.zeros(1, encoder.hidden_size, dtype=torch.float64)
        memory = []
        for symbol in symbols:
            h = encoder(leaves["embed_read.weight"][symbol][None], h)
            memory.append(h[0])
        states = torch.stack(memory)  # (S, H)
        context, steps = h, []
        for symbol in symbols_before:
            if model.attention is not None:
                meeting = h @ leaves["attention.from_state.weight"] + states @ leaves["attention.from_memory.weight"]
                context = (torch.tanh(meeting) @ leaves["attention.direction"]).softmax(0)[None] @ states
            h = decoder(torch.cat([leaves["embed_written.weight"][symbol][None], context], 1), h)
            steps.append(torch.cat([h, context], 1) @ leaves["head.weight"] + leaves["head.bias"])
        rows.append(torch.cat(steps))
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        for theirs, ours in {"ih": "from_input", "hh": "from_state"}.items():
            leaves[f"{name}.{ours}.weight"] = getattr(module, f"weight_{theirs}")
            leaves[f"{name}.{ours}.bias"] = getattr(module, f"bias_{theirs}")
    return torch.stack(rows), leaves


@pytest.mark.parametrize("has_attention", [True, False])
@settings(max_examples=10, deadline=None)
@given(read=WORDS, seed=st.integers(0, 1000))
def test_loss_and_gradients_equal_torch(has_attention: bool, read: list[str], seed: int) -> None:
    random = np.random.default_rng(seed)
    model = Seq2Seq(4, random, embedding_size=3, hidden_size=5, has_attention=has_attention)
    alphabet = Alphabet("abc")
    texts = ["".join("abc"[place] for place in random.integers(3, size=random.integers(0, 5))) for _ in read]
    written = alphabet.encode(texts)
    before = np.concatenate([np.full((len(read), 1), END), written[:, :-1]], axis=1)
    scores, leaves = torch_scores(model, read, before)
    targets = torch.tensor(written)
    for row, text in enumerate(texts):
        targets[row, len(text) + 1 :] = -100
    theirs = F.cross_entropy(scores.reshape(-1, 4), targets.reshape(-1))
    theirs.backward()
    ours = model.loss(alphabet.encode(read), written)
    ours.backward()
    np.testing.assert_allclose(ours.item(), theirs.item(), rtol=1e-9)
    for name, weight in model.named_parameters():
        other = leaves[name].grad
        assert other is not None and weight.grad is not None
        turned = other.T if "from_" in name and name.endswith("weight") and "attention" not in name else other
        np.testing.assert_allclose(weight.grad, turned.numpy(), rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("has_attention", [True, False])
@settings(max_examples=10, deadline=None)
@given(read=WORDS, seed=st.integers(0, 1000))
def test_what_is_written_is_the_likeliest_and_no_matter_of_the_batch(
    has_attention: bool, read: list[str], seed: int
) -> None:
    model = Seq2Seq(4, np.random.default_rng(seed), embedding_size=3, hidden_size=5, has_attention=has_attention)
    alphabet = Alphabet("abc")
    written, shares = model.write(alphabet.encode(read), longest=6)
    assert written.shape[1] <= 6 and shares.shape == (*written.shape, max(map(len, read)) + 1)
    before = np.concatenate([np.full((len(read), 1), END), written[:, :-1]], axis=1)
    with torch.no_grad():
        scores, _ = torch_scores(model, read, before)
    for row, text in enumerate(alphabet.decode(written)):
        count = min(len(text) + 1, written.shape[1])
        assert scores[row, :count].argmax(1).tolist() == written[row, :count].tolist()
        alone, looks = model.write(alphabet.encode([read[row]]), longest=6)
        assert alphabet.decode(alone) == [text]
        np.testing.assert_allclose(looks[0], shares[row, : alone.shape[1], : len(read[row]) + 1], atol=1e-12)
        if has_attention:
            np.testing.assert_allclose(shares[row].sum(axis=1), 1, rtol=1e-12)
            assert (shares[row, :, len(read[row]) + 1 :] == 0).all(), "padding is not looked at"
        else:
            assert not shares.any()


def test_writing_keeps_no_graph() -> None:
    model = Seq2Seq(4, np.random.default_rng(0), embedding_size=3, hidden_size=5)
    with no_grad():
        encoded = model.encode(np.array([[1, 2, 0]]))
    assert not encoded.memory.parents
    _, (state,), _ = model.step(np.array([END]), (Tensor(encoded.last.data),), encoded)
    assert state.requires_grad


@settings(deadline=None)
@given(st.lists(st.text(LETTERS, max_size=8), min_size=1, max_size=5))
def test_texts_come_back_from_their_ids(texts: list[str]) -> None:
    alphabet = Alphabet(LETTERS)
    ids = alphabet.encode(texts)
    assert ids.shape == (len(texts), max(map(len, texts)) + 1)
    assert alphabet.decode(ids) == texts


def test_what_no_alphabet_can_be_is_refused() -> None:
    with pytest.raises(UsageError, match="not 'aa'"):
        Alphabet("aa")
    with pytest.raises(UsageError, match="at least one"):
        Alphabet("")
    with pytest.raises(DataError, match=r"'aé' has 'é', which is none of the characters 'abc'"):
        Alphabet("abc").encode(["a", "aé"])
    with pytest.raises(DataError, match="no text"):
        Alphabet("abc").encode([])
    with pytest.raises(UsageError, match="words of 3 to 2 letters"):
        reversal(3, 2)


def test_the_tasks_are_right_and_reach_all_their_forms() -> None:
    random = np.random.default_rng(0)
    words = [reversal(2, 4)(random) for _ in range(100)]
    assert {len(word) for word, _ in words} == {2, 3, 4} and all(turned == word[::-1] for word, turned in words)
    pairs = [date(random) for _ in range(500)]
    seen = set()
    for read, written in pairs:
        day = datetime.date.fromisoformat(written)
        assert 1900 <= day.year <= 2099 and set(read) <= set(DATE_CHARACTERS)
        month = day.strftime("%B").lower()
        forms = {
            "long": f"{day.day} {month} {day.year}",
            "american": f"{month} {day.day}, {day.year}",
            "short": f"{day.day} {month[:3]} {day.year}",
            "points": f"{day.day}.{day.month}.{day.year}",
            "weekday": f"{day.strftime('%A').lower()}, {day.day} {month} {day.year}",
        }
        kinds = {name for name, form in forms.items() if form == read}
        assert kinds, (read, written)
        seen |= kinds
    assert len(seen) == 5


def test_a_short_training_learns_to_turn_words_round() -> None:
    alphabet = Alphabet("abcd")

    def make(random: np.random.Generator) -> tuple[str, str]:
        word = "".join("abcd"[place] for place in random.integers(4, size=random.integers(1, 4)))
        return word, word[::-1]

    random = np.random.default_rng(0)
    model = Seq2Seq(len(alphabet), random, embedding_size=16, hidden_size=32)
    model.convert(np.float32)
    seen: list[tuple[int, int]] = []
    losses = train_seq2seq(
        model, alphabet, make, random, steps=150, batch_size=32, rate=1e-2, progress=lambda *done: seen.append(done)
    )
    assert seen[-1] == (150, 150) and len(losses) == 150
    assert all(weight.dtype == np.float32 for weight in model.parameters())
    assert share_exact(model, alphabet, [make(random) for _ in range(200)]) > 0.9


@pytest.mark.slow
def test_attention_carries_what_one_state_does_not() -> None:
    alphabet, exact = Alphabet(LETTERS), {}
    for has_attention in (True, False):
        random = np.random.default_rng(0)
        model = Seq2Seq(len(alphabet), random, has_attention=has_attention)
        model.convert(np.float32)
        train_seq2seq(model, alphabet, reversal(2, 12), random, steps=600)
        exact[has_attention] = share_exact(model, alphabet, [reversal(10, 10)(random) for _ in range(200)])
    assert exact[True] > 0.9
    assert exact[False] < 0.5
