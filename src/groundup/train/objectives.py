"""Losses over the vocabulary whose float32 logits never exist for the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.data.batch import IGNORE_INDEX, Batch
from groundup.train.contracts import LossSum

#: Logits in one piece. On a CPU 2M (8 MB) stay in the cache: at V 4096, D 256, 4096 rows and bfloat16 the loss with its
#: gradients took 58 ms against 154 ms for all rows at once (2 cores of an AMD EPYC). A GPU wants large products.
CHUNK_ELEMENTS = {"cpu": 2**21, "cuda": 2**27, "mps": 2**26}

#: A piece has at least so many rows: each reads the whole head, and makes a gradient of its size. At V 49,152, D 576 and
#: 512 rows in float32 the loss with its gradients took 1.62 s in pieces of 42 rows, 0.64 s in pieces of 256 (2 cores of an
#: Intel Xeon).
CHUNK_ROWS = 256

#: Rows whose loss is computed are filled up to a multiple of this with ignored ones.
ROWS_MULTIPLE = 64

_AccumulateGrad: Any = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]


@runtime_checkable
class LanguageModel(Protocol):
    """What `next_token_loss` needs of a model; `model.Transformer` is one."""

    def __call__(
        self, inputs: Tensor, *, positions: Tensor | None, segments: Tensor | None, mask: Tensor | None
    ) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


def next_token_loss(model: nn.Module, batch: Batch) -> LossSum:
    """Return the summed cross-entropy, in nats, of the trained targets of a batch.

    Args:
        model: a `LanguageModel`.
        batch: inputs and targets, both (B, T); targets of IGNORE_INDEX are left out, and so is their share of the
            head's work.
    """
    language_model = cast(LanguageModel, model)
    hidden = language_model(batch.inputs, positions=batch.positions, segments=batch.segments, mask=batch.mask).flatten(
        0, 1
    )
    targets = batch.targets.flatten()
    is_kept = targets != IGNORE_INDEX
    count = int(is_kept.sum())
    if count < len(targets):
        # The kept rows first, then as many ignored ones (their loss is zero) as make a round number: kernels are
        # prepared for each shape anew, and the number of trained tokens is different in every batch.
        rows = min(len(targets), -(-count // ROWS_MULTIPLE) * ROWS_MULTIPLE)
        kept = torch.argsort((~is_kept).int(), stable=True)[:rows]
        hidden, targets = hidden.index_select(0, kept), targets.index_select(0, kept)
    return LossSum(cross_entropy_sum(language_model.logits, hidden, targets), count)


def cross_entropy_sum(
    logits_of: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "N D"],
    targets: Int[Tensor, " N"],
    *,
    chunk_rows: int | None = None,
) -> Float[Tensor, ""]:
    """Return the summed cross-entropy of `logits_of(hidden)`, a piece of the rows at a time.

    The gradients are computed in the forward pass, piece by piece, so neither the logits nor their gradient ever exist
    for all rows, and nothing is computed twice (the idea of Liger's fused linear cross-entropy, arXiv:2410.10989).
    It works for every head, since its parameters are found in the graph of one row: tied, with a bias, a cap or LoRA.

    Args:
        logits_of: the head, (n, D) -> (n, V).
        hidden: N rows of the last hidden state.
        targets: N token ids.
        chunk_rows: rows of a piece; None chooses by the size of the vocabulary and the device.
    """
    if len(hidden) == 0:
        return hidden.sum()  # a zero whose graph still leads to the parameters
    first_row = logits_of(hidden[:1].detach())
    rows = chunk_rows or max(CHUNK_ROWS, CHUNK_ELEMENTS.get(hidden.device.type, 2**21) // first_row.shape[-1])
    if len(hidden) <= rows:
        return F.cross_entropy(logits_of(hidden), targets, reduction="sum")
    if torch.is_grad_enabled() and (hidden.requires_grad or first_row.requires_grad):
        head = _leaves(first_row)
        return cast(Tensor, _ChunkedCrossEntropy.apply(logits_of, rows, hidden, targets, *head))  # type: ignore[no-untyped-call]
    pieces = zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    return torch.stack([F.cross_entropy(logits_of(h), t, reduction="sum") for h, t in pieces]).sum()


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss and gradients together, for pieces of `rows` rows; the backward pass only scales what was stored."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_of: Callable[[Tensor], Tensor],
        rows: int,
        hidden: Tensor,
        targets: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        losses = []
        hidden_gradient = torch.empty_like(hidden)
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        pieces = zip(*(torch.split(tensor, rows) for tensor in (hidden, targets, hidden_gradient)), strict=True)
        for piece, piece_targets, out in pieces:
            leaf = piece.detach().requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(logits_of(leaf), piece_targets, reduction="sum")
            for_hidden, *for_parameters = torch.autograd.grad(loss, (leaf, *parameters))
            out.copy_(for_hidden)
            if gradients:
                torch._foreach_add_(gradients, for_parameters)
            losses.append(loss.detach())
        ctx.save_for_backward(hidden_gradient, *gradients)
        return torch.stack(losses).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, *gradients = [stored * upstream for stored in ctx.saved_tensors]
        return (None, None, hidden_gradient, None, *gradients)


def _leaves(result: Tensor) -> list[Tensor]:
    """The tensors with gradients that `result` was computed from, in the order of their first use."""
    found: dict[int, Tensor] = {}
    seen = set()
    pending = [result.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, _AccumulateGrad):
            found.setdefault(id(node.variable), node.variable)
        pending.extend(following for following, _ in node.next_functions)
    return list(found.values())
