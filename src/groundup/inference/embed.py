"""Texts to vectors, with a model that pools."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.model.transformer import Transformer
from groundup.tokenizer.base import Tokenizer


@torch.no_grad()
def embed_texts(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    on_progress: Callable[[int], None] | None = None,
) -> Float[Tensor, "N D"]:
    """One vector for each text, in the order of the texts.

    Texts of similar length share a batch; longer ones than the model reads are cut at its end, as
    sentence-transformers does.

    Args:
        model: with a `pooling`.
        tokenizer: the model's.
        texts: any number.
        batch_size: texts in one pass.
        on_progress: called with the number of texts finished since the last call.

    Raises:
        UsageError: for a model that does not pool, or a batch of none.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size ({batch_size}) must be at least 1")
    if model.config.pooling is None:
        raise UsageError(
            "this model gives one vector for each token, not for a text: use a sentence encoder, such as minilm"
        )
    longest = min(model.config.pooling.max_length or sys.maxsize, model.config.max_position_embeddings)
    encoded = [tokenizer.encode_with_special(text, max_length=longest) for text in texts]
    order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
    vectors = torch.empty(len(texts), model.config.hidden_size)
    device = next(model.parameters()).device
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = max(1, max(len(encoded[row]) for row in rows))
        ids = torch.full((len(rows), width), tokenizer.pad_id or 0)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for place, row in enumerate(rows):
            ids[place, : len(encoded[row])] = torch.tensor(encoded[row], dtype=ids.dtype)
            mask[place, : len(encoded[row])] = True
        ids, mask = ids.to(device), mask.to(device)
        vectors[rows] = model.pool(model(ids, mask=mask), mask).float().cpu()
        if on_progress is not None:
            on_progress(len(rows))
    return vectors
