"""How many bits a model needs for each byte of held-out text.

Bits per byte do not depend on the tokenizer, so a model, an n-gram and a compressor can be compared. What is counted
is the text of each document, given where it begins: its first token is predicted from the separator that stood before
every document in training; its end is not charged, to any method (`groundup.evaluate.baselines` does the same).
The tokenizer's own segmentation of a text is one of several that spell it, so the bits are an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from groundup.core.errors import DataError, UsageError
from groundup.inference.contracts import LanguageModel
from groundup.inference.generate import evaluation_mode
from groundup.tokenizer.base import Tokenizer

Ids = Sequence[int] | NDArray[Any]

# Logits of this many positions exist at a time: 2,048 x 32,000 in float32 are 262 MB.
LOGIT_ROWS = 2_048


@dataclass(frozen=True)
class DocumentBits:
    """What each document costs.

    Attributes:
        bits: float64, one per document.
        num_bytes: int64, the UTF-8 bytes of each document's text.
        num_tokens: int64, the predicted tokens of each document.
    """

    bits: NDArray[np.float64]
    num_bytes: NDArray[np.int64]
    num_tokens: NDArray[np.int64]

    @property
    def bits_per_byte(self) -> float:
        """All bits over all bytes (not the mean of the documents' ratios)."""
        return float(self.bits.sum() / self.num_bytes.sum())

    @property
    def bits_per_token(self) -> float:
        return float(self.bits.sum() / self.num_tokens.sum())

    @property
    def perplexity(self) -> float:
        """Of a token: 2 to the power of the bits per token."""
        return math.inf if self.bits_per_token > 1000 else float(2**self.bits_per_token)


@dataclass(frozen=True)
class Window:
    """One forward pass over a piece of a document (`begin` counts the document's tokens with the separator as 0).

    Attributes:
        document: its index.
        begin, end: the inputs, end exclusive; the target of input i is token i + 1.
        first_counted: the first input whose target is counted; those before give context only.
    """

    document: int
    begin: int
    end: int
    first_counted: int


def windows_of(document: int, num_tokens: int, context: int, stride: int) -> list[Window]:
    """Cut one document into windows so that each of its tokens is predicted exactly once.

    Args:
        document: index that the windows carry.
        num_tokens: tokens of the text (the separator before it is not one of them).
        context: inputs of a window, at most.
        stride: targets that each window after the first adds; the others repeat as context. So a token is predicted
            from at least `context - stride` + 1 tokens before it, or from all that there are.
    """
    windows = []
    counted = 0
    while counted < num_tokens:
        end = min(num_tokens, context if counted == 0 else counted + stride)
        windows.append(Window(document, max(0, end - context), end, counted))
        counted = end
    return windows


def document_bits(
    model: LanguageModel,
    documents: Sequence[Ids],
    num_bytes: Sequence[int] | NDArray[Any],
    *,
    separator_id: int,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int = 8_192,
    precision: str = "float32",
    on_progress: Callable[[int, int], None] | None = None,
) -> DocumentBits:
    """Measure the bits a model needs for each document.

    Args:
        model: it is run in evaluation mode without gradients.
        documents: the token ids of each text, without separators; an empty one costs nothing.
        num_bytes: the UTF-8 bytes of each text.
        separator_id: the token that stood between documents in training (bos or end of text).
        context: tokens the model sees at once; by default `max_position_embeddings`.
        stride: see `windows_of`; by default half of the context. Smaller is slower and gives lower bits.
        batch_tokens: about how many tokens one forward pass reads.
        precision: "float32", or "bfloat16" for matrix products under autocast.
        on_progress: called with the tokens done and the total.

    Returns:
        bits, bytes and tokens per document.

    Raises:
        UsageError: for a context, stride or precision that cannot be used.
        DataError: when the lists do not fit together, or the model gives a token no probability at all.
    """
    longest = int(model.config.max_position_embeddings)
    context = longest if context is None else context
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= context <= longest:
        raise UsageError(f"context ({context}) must lie between 1 and max_position_embeddings ({longest})")
    if not 1 <= stride <= context:
        raise UsageError(f"stride ({stride}) must lie between 1 and context ({context})")
    if precision not in ("float32", "bfloat16"):
        raise UsageError(f"precision {precision!r} is unknown: use float32 or bfloat16")
    lengths = check_documents(documents, num_bytes)
    tokens = [np.concatenate([[separator_id], np.asarray(ids, dtype=np.int64)]) for ids in documents]
    _check_ids(tokens, int(model.config.vocab_size))
    windows = [w for index, length in enumerate(lengths) for w in windows_of(index, length, context, stride)]
    # Windows of like length together: little padding. Longest first, so that a lack of memory shows at once.
    windows.sort(key=lambda window: (window.begin - window.end, window.document, window.begin))
    bits = np.zeros(len(documents))
    done, total = 0, sum(window.end - window.begin for window in windows)
    device = next(iter(model.parameters())).device
    while windows:
        rows = max(1, batch_tokens // (windows[0].end - windows[0].begin))
        batch, windows = windows[:rows], windows[rows:]
        with evaluation_mode(model), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            losses = _window_bits(model, batch, tokens, device)
        np.add.at(bits, [window.document for window in batch], losses)
        done += sum(window.end - window.begin for window in batch)
        if on_progress is not None:
            on_progress(done, total)
    if not np.isfinite(bits).all():
        bad = int(np.flatnonzero(~np.isfinite(bits))[0])
        raise DataError(
            f"the model gives document {bad} of {len(bits)} bits = {bits[bad]}: its weights are damaged or its "
            "training diverged"
        )
    return DocumentBits(bits, np.asarray(num_bytes, dtype=np.int64), np.asarray(lengths, dtype=np.int64))


def bits_per_byte(model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str], **options: Any) -> DocumentBits:
    """Measure a model on texts: `document_bits` with the tokenizer's ids, bytes and separator.

    Args:
        options: `context`, `stride`, `batch_tokens`, `precision`, `on_progress`, as in `document_bits`.
    """
    separator = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    if separator is None:
        raise UsageError("the tokenizer has neither a bos nor an end-of-text token to begin a document with")
    num_bytes = [len(text.encode("utf-8")) for text in texts]
    return document_bits(model, tokenizer.encode_batch(list(texts)), num_bytes, separator_id=separator, **options)


def check_documents(documents: Sequence[Ids], num_bytes: Sequence[int] | NDArray[Any]) -> list[int]:
    """Return the documents' lengths in tokens; raise DataError when they do not fit to the bytes."""
    if len(documents) != len(num_bytes):
        raise DataError(
            f"{len(documents)} documents and {len(num_bytes)} byte counts were given: need one per document"
        )
    if sum(num_bytes) <= 0:
        raise DataError(f"the {len(documents)} documents hold no bytes: there is nothing to measure")
    for index, (document, size) in enumerate(zip(documents, num_bytes, strict=True)):
        if (len(document) == 0) != (size == 0):
            raise DataError(f"document {index} has {len(document)} tokens and {size} bytes: one of them is wrong")
    return [len(document) for document in documents]


def _check_ids(tokens: list[NDArray[np.int64]], vocab_size: int) -> None:
    for index, ids in enumerate(tokens):
        worst = int(ids.min() if ids.min() < 0 else ids.max())
        if not 0 <= worst < vocab_size:
            raise DataError(
                f"document {index} (with its separator) holds the id {worst}, the model knows 0 to {vocab_size - 1}: "
                "does the tokenizer belong to this model?"
            )


def _window_bits(
    model: LanguageModel,
    batch: list[Window],
    tokens: list[NDArray[np.int64]],
    device: torch.device,
) -> NDArray[np.float64]:
    """The counted bits of each window, as one forward pass over all of them."""
    width = max(window.end - window.begin for window in batch)
    # Padding stands on the right, where causal attention lets nothing see it.
    inputs = torch.zeros(len(batch), width, dtype=torch.int64)
    targets = torch.zeros_like(inputs)
    counted = torch.zeros_like(inputs, dtype=torch.bool)
    for row, window in enumerate(batch):
        size = window.end - window.begin
        ids = torch.from_numpy(tokens[window.document][window.begin : window.end + 1])
        inputs[row, :size] = ids[:-1]
        targets[row, :size] = ids[1:]
        counted[row, window.first_counted - window.begin : size] = True
    hidden = model(inputs.to(device))
    losses = _counted_losses(model, hidden, targets.to(device), counted.to(device))
    rows = counted.nonzero()[:, 0].numpy()
    nats = np.bincount(rows, weights=losses.cpu().double().numpy(), minlength=len(batch))
    return np.asarray(nats, dtype=np.float64) / math.log(2)


def _counted_losses(
    model: LanguageModel, hidden: Float[Tensor, "B T D"], targets: Int[Tensor, "B T"], counted: Bool[Tensor, "B T"]
) -> Float[Tensor, " N"]:
    states, wanted = hidden[counted], targets[counted]
    losses = [
        F.cross_entropy(model.logits(part[None])[0].float(), goal, reduction="none")
        for part, goal in zip(torch.split(states, LOGIT_ROWS), torch.split(wanted, LOGIT_ROWS), strict=True)
    ]
    return torch.cat(losses)
