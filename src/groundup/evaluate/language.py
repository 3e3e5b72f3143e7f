"""How many bits a model needs for each byte of held-out text.

Bits per byte do not depend on the tokenizer, so a model, an n-gram and a compressor can be compared. What is counted
is the text of each document, given where it begins: its first token is predicted from the separator that stood before
every document in training; its end is not charged, to any method (`groundup.evaluate.baselines` does the same).
The tokenizer's own segmentation of a text is one of several that spell it, so the bits are an upper bound.
"""

from __future__ import annotations

import itertools
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
from groundup.inference.tensors import TensorModel, evaluation_mode
from groundup.tokenizer.base import Tokenizer, document_start_id

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
class Stream:
    """Documents that are read one after the other, with the separator before each.

    Attributes:
        tokens: int64, begins with a separator.
        owners: int64, for each input the index of the document that its target, the next token, belongs to; -1 where
            the target is a separator, which nobody is charged for.
    """

    tokens: NDArray[np.int64]
    owners: NDArray[np.int64]

    @property
    def num_targets(self) -> int:
        return len(self.owners)


@dataclass(frozen=True)
class Window:
    """One forward pass over a piece of a stream.

    Attributes:
        stream: its index.
        begin, end: the inputs, end exclusive; the target of input i is token i + 1.
        first_counted: the first input whose target is counted; those before give context only.
    """

    stream: int
    begin: int
    end: int
    first_counted: int


def windows_of(stream: int, num_targets: int, context: int, stride: int) -> list[Window]:
    """Cut one stream into windows so that each of its targets is predicted exactly once.

    Args:
        stream: index that the windows carry.
        num_targets: tokens of the stream after its first separator.
        context: inputs of a window, at most.
        stride: targets that each window after the first adds; the others repeat as context. So a token is predicted
            from at least `context - stride` + 1 tokens before it, or from all that there are.
    """
    windows = []
    counted = 0
    while counted < num_targets:
        end = min(num_targets, context if counted == 0 else counted + stride)
        windows.append(Window(stream, max(0, end - context), end, counted))
        counted = end
    return windows


def streams_of(documents: Sequence[Ids], separator_id: int, groups: Sequence[str] | None = None) -> list[Stream]:
    """Lay documents out for reading: each alone, or neighbours of the same group one after the other.

    Args:
        documents: token ids without separators; empty ones are left out.
        separator_id: stands before each document.
        groups: a label for each document, or None to read each alone.
    """
    labels = range(len(documents)) if groups is None else groups
    filled = [index for index, ids in enumerate(documents) if len(ids)]
    streams = []
    for _, members in itertools.groupby(filled, key=lambda index: labels[index]):
        tokens: list[int] = []
        owners: list[int] = []
        for index in members:
            tokens += [separator_id, *documents[index]]
            owners += [-1] + [index] * len(documents[index])
        # The first separator is nobody's target.
        streams.append(Stream(np.array(tokens, dtype=np.int64), np.array(owners[1:], dtype=np.int64)))
    return streams


def document_bits(
    model: TensorModel,
    documents: Sequence[Ids],
    num_bytes: Sequence[int] | NDArray[Any],
    *,
    separator_id: int,
    groups: Sequence[str] | None = None,
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
        separator_id: the token that stood before documents in training (`document_start_id`).
        groups: a label for each document: neighbours with the same label are read one after the other, as training
            reads them, so that a document's beginning is predicted from the end of the one before. None: each alone.
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
    if groups is not None and len(groups) != len(documents):
        raise DataError(f"{len(documents)} documents and {len(groups)} groups were given: need one per document")
    streams = streams_of(documents, separator_id, groups)
    _check_ids(streams, int(model.config.vocab_size))
    windows = [
        w for index, stream in enumerate(streams) for w in windows_of(index, stream.num_targets, context, stride)
    ]
    # Windows of like length together: little padding. Longest first, so that a lack of memory shows at once.
    windows.sort(key=lambda window: (window.begin - window.end, window.stream, window.begin))
    bits = np.zeros(len(documents))
    done, total = 0, sum(window.end - window.begin for window in windows)
    device = next(iter(model.parameters())).device
    while windows:
        rows = max(1, batch_tokens // (windows[0].end - windows[0].begin))
        batch, windows = windows[:rows], windows[rows:]
        with evaluation_mode(model), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            owners, losses = _window_bits(model, batch, streams, device)
        np.add.at(bits, owners, losses)
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


def bits_per_byte(model: TensorModel, tokenizer: Tokenizer, texts: Sequence[str], **options: Any) -> DocumentBits:
    """Measure a model on texts: `document_bits` with the tokenizer's ids, bytes and `document_start_id`.

    Args:
        options: `groups`, `context`, `stride`, `batch_tokens`, `precision`, `on_progress`, as in `document_bits`.
    """
    separator = document_start_id(tokenizer)
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


def _check_ids(streams: list[Stream], vocab_size: int) -> None:
    for stream in streams:
        low, high = int(stream.tokens.min()), int(stream.tokens.max())
        if low < 0 or high >= vocab_size:
            bad = low if low < 0 else high
            place = int(np.flatnonzero(stream.tokens == bad)[0])
            owner = int(stream.owners[max(0, place - 1)])
            raise DataError(
                f"document {max(owner, 0)} (with its separator) holds the id {bad}, the model knows 0 to "
                f"{vocab_size - 1}: does the tokenizer belong to this model?"
            )


def _window_bits(
    model: TensorModel, batch: list[Window], streams: list[Stream], device: torch.device
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The counted targets of some windows as one forward pass: each one's document, and its bits."""
    width = max(window.end - window.begin for window in batch)
    # Padding stands on the right, where causal attention lets nothing see it.
    inputs = torch.zeros(len(batch), width, dtype=torch.int64)
    targets = torch.zeros_like(inputs)
    owners = torch.full_like(inputs, -1)
    for row, window in enumerate(batch):
        size, stream = window.end - window.begin, streams[window.stream]
        ids = torch.from_numpy(stream.tokens[window.begin : window.end + 1])
        inputs[row, :size] = ids[:-1]
        targets[row, :size] = ids[1:]
        counted = slice(window.first_counted, window.end)
        owners[row, window.first_counted - window.begin : size] = torch.from_numpy(stream.owners[counted])
    charged = owners >= 0
    hidden = model(inputs.to(device))
    losses = _counted_losses(model, hidden, targets.to(device), charged.to(device))
    return owners[charged].numpy(), losses.cpu().double().numpy() / math.log(2)


def _counted_losses(
    model: TensorModel, hidden: Float[Tensor, "B T D"], targets: Int[Tensor, "B T"], counted: Bool[Tensor, "B T"]
) -> Float[Tensor, " N"]:
    states, wanted = hidden[counted], targets[counted]
    losses = [
        F.cross_entropy(model.logits(part[None])[0].float(), goal, reduction="none")
        for part, goal in zip(torch.split(states, LOGIT_ROWS), torch.split(wanted, LOGIT_ROWS), strict=True)
    ]
    return torch.cat(losses)
