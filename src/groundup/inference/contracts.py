"""What generation needs of a model, and what it yields. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import ChatTemplate

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

FinishReason = Literal["stop_token", "stop_string", "length", "context"]
"""Why a generation ended: the model's stop token, a stop string of the request, `max_new_tokens` reached, or the
model can read no more tokens (`max_position_embeddings`)."""


@runtime_checkable
class LanguageModel(Protocol):
    """A causal model that generation takes: a `Decoder`, or modules (`inference.tensors.TensorModel`)."""

    @property
    def config(self) -> Any:
        """Holds `vocab_size` and `max_position_embeddings`."""

    def new_cache(self, batch_size: int, max_length: int | None = None) -> Any:
        """An empty cache for `batch_size` rows of up to `max_length` tokens (the model's longest by default)."""


@runtime_checkable
class Decoder(LanguageModel, Protocol):
    """A causal model behind numpy: ids in, the scores of the next token out.

    Both methods take the same arguments:

        ids: (B, T), the new tokens.
        mask: (B, S), False where a token is padding, over those in the cache and then the new ones; None where
            nothing is padding.
        positions: (B, T), of each new token in its text; given where the mask is.
        cache: what `new_cache` returned; the new tokens are added to it.
    """

    def read(
        self, ids: Ids, *, mask: Mask | None = None, positions: Ids | None = None, cache: Any | None = None
    ) -> None:
        """Take tokens into the cache: a piece of a prompt."""

    def next_logits(
        self, ids: Ids, *, mask: Mask | None = None, positions: Ids | None = None, cache: Any | None = None
    ) -> Floats:
        """The same, and the scores of every token after the last column: float32, (B, V), the caller's own."""


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


@runtime_checkable
class Opened(Protocol):
    """A language model opened with its companions: a `Speaker`, or what `load_model` returns."""

    @property
    def model(self) -> LanguageModel: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def chat_template(self) -> ChatTemplate | None: ...

    @property
    def generation(self) -> dict[str, Any]: ...

    @property
    def folder(self) -> Path: ...


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
