"""What generation needs of a model, and what it yields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import ChatTemplate

FinishReason = Literal["stop_token", "stop_string", "length", "context"]
"""Why a generation ended: the model's stop token, a stop string of the request, `max_new_tokens` reached, or the
model can read no more tokens (`max_position_embeddings`)."""


@runtime_checkable
class LanguageModel(Protocol):
    """A causal model with the one forward of the house (`groundup.model.transformer.Transformer` is one)."""

    training: bool

    @property
    def config(self) -> Any:
        """Holds `vocab_size` and `max_position_embeddings`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`(inputs, *, positions, segments, mask, memory, cache) -> hidden`."""

    def logits(self, hidden: Tensor) -> Tensor: ...

    def new_cache(self, batch_size: int, max_length: int | None = None) -> Any: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A language model with what it needs to read and write text.

    Attributes:
        model: computes; as modules or as the compiled step.
        tokenizer: the model's.
        chat_template: how conversations are written, None for a model that was not tuned for them.
        generation: content of generation_config.json.
        folder: where it was read.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    generation: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class Step:
    """One generated token.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability under the model's own distribution, before temperature, penalty
            and filters; so it compares between settings.
        finish_reason: set on the last step only. The stop token itself is the last step of "stop_token".
        top: the likeliest ids with their log-probabilities, likeliest first (as many as were asked for).
    """

    token: int
    logprob: float
    finish_reason: FinishReason | None = None
    top: tuple[tuple[int, float], ...] = ()
