"""The state of one request: what was read, what may still come, and its own randomness."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import ModelError, UsageError
from groundup.inference.contracts import FinishReason, LanguageModel, Step
from groundup.inference.sampling import Sampling, choose_token, sampling_generator


class Request:
    """Turns the logits at the end of `ids` into the next step; knows nothing of caches and batches.

    Every loop (reference, cached, batched) drives the same class, so they differ in how logits are computed only.

    Args:
        model: its vocabulary and its longest input are read from `model.config`.
        prompt: ids; at least one, at most `max_position_embeddings`.
        sampling: settings; stop strings need text and belong to `groundup.inference.text`.
        stop_ids: tokens that end the generation.
        num_top: how many of the likeliest tokens each step lists.

    Raises:
        UsageError: for a prompt that is empty, too long or holds an unknown id.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: Sequence[int],
        sampling: Sampling,
        stop_ids: Collection[int] = (),
        num_top: int = 0,
    ) -> None:
        self.vocab_size = int(model.config.vocab_size)
        self.max_length = int(model.config.max_position_embeddings)
        check_prompt(prompt, self.vocab_size, self.max_length)
        self.ids = list(prompt)
        self.num_new = 0
        self.sampling = sampling
        self.stop_ids = frozenset(stop_ids)
        self.num_top = min(num_top, self.vocab_size)
        self.finish_reason: FinishReason | None = None
        self._generator = sampling_generator(sampling.seed)
        self._seen = torch.zeros(self.vocab_size, dtype=torch.bool)
        self._seen[self.ids] = True

    def advance(self, logits: Float[Tensor, " V"]) -> Step:
        """Choose the next token, append it to `ids` and say whether it is the last.

        Raises:
            ModelError: when the logits are not numbers (a diverged or damaged model).
        """
        logits = logits.detach().float().cpu()
        token = choose_token(logits, self.sampling, self._seen, self._generator)
        logprob = log_probability(logits, token)
        if not math.isfinite(logprob):
            bad = int((~logits.isfinite()).sum())
            raise ModelError(
                f"{bad} of {len(logits)} logits after {len(self.ids)} tokens are not finite: the model's weights are "
                "damaged or its training diverged"
            )
        self.ids.append(token)
        self.num_new += 1
        self._seen[token] = True
        self.finish_reason = self._finish_reason(token)
        return Step(token, logprob, self.finish_reason, self._top(logits))

    def _finish_reason(self, token: int) -> FinishReason | None:
        if token in self.stop_ids:
            return "stop_token"
        if self.num_new >= self.sampling.max_new_tokens:
            return "length"
        # The next token would be predicted from all of `ids`, which must fit.
        if len(self.ids) > self.max_length:
            return "context"
        return None

    def _top(self, logits: Float[Tensor, " V"]) -> tuple[tuple[int, float], ...]:
        if self.num_top == 0:
            return ()
        best = logits.log_softmax(dim=-1).topk(self.num_top)
        return tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def log_probability(logits: Float[Tensor, " V"], token: int) -> float:
    """The natural logarithm of a token's probability.

    In numpy, on one thread: torch would wake its threads for a row of 50,000 numbers, which costs more than it saves
    while the threads of the compiled step still wait for their next call.
    """
    values = logits.numpy()
    with np.errstate(invalid="ignore"):  # infinite logits: the result is no number, and the caller says so
        largest = values.max()
        total = np.exp(values - largest).sum(dtype=np.float64)
    return float(values[token] - largest) - math.log(total) if total > 0 else math.nan


def check_prompt(prompt: Sequence[int], vocab_size: int, max_length: int) -> None:
    """Raise UsageError for a prompt that the model cannot read."""
    if not prompt:
        raise UsageError("the prompt is empty: start from the model's bos token, or from its end-of-text token")
    if len(prompt) > max_length:
        raise UsageError(
            f"the prompt has {len(prompt)} tokens and the model reads at most {max_length} "
            "(max_position_embeddings): shorten the prompt"
        )
    worst = max(prompt) if min(prompt) >= 0 else min(prompt)
    if not 0 <= worst < vocab_size:
        raise UsageError(
            f"the prompt holds the id {worst}, the model knows 0 to {vocab_size - 1}: "
            "does the tokenizer belong to this model?"
        )
