"""The chunked cross-entropy against torch's, with gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from trainer_tiny import TinyModel, TinySource

from groundup.data.batch import IGNORE_INDEX, Batch
from groundup.train import objectives
from groundup.train.objectives import ROWS_MULTIPLE, cross_entropy_sum, next_token_loss


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 9),
    vocabulary=st.integers(2, 33),
    chunk=st.integers(1, 45),
    seed=st.integers(0, 2**31),
    bias=st.booleans(),
)
def test_loss_and_gradients_equal_the_plain_ones(
    rows: int, width: int, vocabulary: int, chunk: int, seed: int, bias: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, vocabulary, bias=bias).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    inputs = (hidden, *head.parameters())
    plain = F.cross_entropy(head(hidden), targets, reduction="sum")
    chunked = cross_entropy_sum(head, hidden, targets, chunk_rows=chunk)
    assert relative_error(chunked, plain) < 1e-12
    for a, b in zip(
        torch.autograd.grad(0.37 * chunked, inputs), torch.autograd.grad(0.37 * plain, inputs), strict=True
    ):
        assert (a - b).abs().max() <= 1e-9 * b.abs().max() + 1e-14


def test_any_head_works_capped_tied_and_low_rank() -> None:
    torch.manual_seed(0)
    embed, down, up = (nn.Parameter(torch.randn(*shape, dtype=torch.float64)) for shape in ((20, 6), (2, 6), (20, 2)))
    frozen = torch.randn(20, 6, dtype=torch.float64)

    def head(hidden: Tensor) -> Tensor:
        return 5 * torch.tanh((F.linear(hidden, embed + frozen) + hidden @ down.T @ up.T) / 5)

    targets = torch.randint(20, (17,))
    results = []
    for chunk in (3, 100):
        hidden = F.embedding(targets.flip(0), embed)  # tied: the embedding gets gradients from both of its uses
        loss = cross_entropy_sum(head, hidden, targets, chunk_rows=chunk)
        results.append([loss, *torch.autograd.grad(loss, (embed, down, up))])
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-12


def test_a_frozen_head_and_a_frozen_body() -> None:
    torch.manual_seed(1)
    head = nn.Linear(4, 9)
    hidden = torch.randn(8, 4, requires_grad=True)
    targets = torch.randint(9, (8,))
    head.requires_grad_(False)
    chunked = torch.autograd.grad(cross_entropy_sum(head, hidden, targets, chunk_rows=3), hidden)[0]
    plain = torch.autograd.grad(F.cross_entropy(head(hidden), targets, reduction="sum"), hidden)[0]
    assert relative_error(chunked, plain) < 1e-5
    head.requires_grad_(True)
    fixed = hidden.detach()
    chunked = torch.autograd.grad(cross_entropy_sum(head, fixed, targets, chunk_rows=3), head.weight)[0]
    plain = torch.autograd.grad(F.cross_entropy(head(fixed), targets, reduction="sum"), head.weight)[0]
    assert relative_error(chunked, plain) < 1e-5


def test_under_bfloat16_autocast_it_is_as_exact_as_the_plain_path() -> None:
    torch.manual_seed(2)
    weight = nn.Parameter(torch.randn(300, 32) * 0.2)
    hidden = torch.randn(64, 32, requires_grad=True)
    targets = torch.randint(300, (64,))

    def head(rows: Tensor) -> Tensor:
        return F.linear(rows, weight).float()

    exact = torch.autograd.grad(F.cross_entropy(head(hidden), targets, reduction="sum"), (hidden, weight))
    errors = []
    for chunk in (10, 1000):
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy_sum(head, hidden, targets, chunk_rows=chunk)
        gradients = torch.autograd.grad(loss, (hidden, weight))
        assert loss.dtype == torch.float32 and all(g.dtype == torch.float32 for g in gradients)
        errors.append([relative_error(a, b) for a, b in zip(gradients, exact, strict=True)])
    assert max(errors[1]) < 0.02  # the plain path's own rounding
    assert all(chunked < 2 * plain for chunked, plain in zip(*errors, strict=True))


def test_ignored_targets_neither_count_nor_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyModel()
    batch = TinySource(masked=0.7).batch(0)
    seen = []
    original = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: seen.append(len(hidden)) or original(hidden))
    loss = next_token_loss(model, batch)
    kept = int((batch.targets != IGNORE_INDEX).sum())
    assert loss.count == batch.num_targets() == kept < batch.targets.numel()
    # Filled up to a round number of rows, so that few shapes occur; none of them is charged.
    assert max(seen) == min(-(-kept // ROWS_MULTIPLE) * ROWS_MULTIPLE, batch.targets.numel())
    plain = F.cross_entropy(
        original(model(batch.inputs)).flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    assert relative_error(loss.total, plain) < 1e-6


def test_a_batch_without_targets_gives_zero_with_a_graph() -> None:
    model = TinyModel()
    batch = TinySource().batch(0)
    loss = next_token_loss(model, Batch(batch.inputs, torch.full_like(batch.targets, IGNORE_INDEX)))
    assert loss.count == 0 and loss.total.item() == 0
    loss.total.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_the_size_chooses_the_path_and_evaluation_is_chunked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyModel()
    batch = TinySource(masked=0.0).batch(0)
    plain = next_token_loss(model, batch)
    assert "Chunked" not in type(plain.total.grad_fn).__name__
    monkeypatch.setattr(objectives, "CHUNK_ROWS", 1)
    monkeypatch.setitem(objectives.CHUNK_ELEMENTS, "cpu", 50 * 10)
    chunked = next_token_loss(model, batch)
    assert "Chunked" in type(chunked.total.grad_fn).__name__
    rows = []
    original = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: rows.append(len(hidden)) or original(hidden))
    with torch.no_grad():
        evaluated = next_token_loss(model, batch)
    assert max(rows) == 10 and sum(rows) == 1 + batch.targets.numel()
    assert relative_error(chunked.total, plain.total) < 1e-6
    assert relative_error(evaluated.total, plain.total) < 1e-6
