"""The state of one request: what was read, what may still come, and its own randomness. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from groundup.core.errors import ModelError, UsageError
from groundup.inference.contracts import FinishReason, Floats, LanguageModel, Step
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
        self._seen = np.zeros(self.vocab_size, np.bool_)
        self._seen[self.ids] = True

    def advance(self, logits: Floats) -> Step:
        """Choose the next token, append it to `ids` and say whether it is the last.

        Args:
            logits: (V,), after the last of `ids`; only read, and only now.

        Raises:
            ModelError: when the logits are not numbers (a diverged or damaged model).
        """
        token = choose_token(logits, self.sampling, self._seen, self._generator)
        log_normalizer = log_sum_exp(logits)
        logprob = float(logits[token]) - log_normalizer
        if not math.isfinite(logprob):
            bad = int((~np.isfinite(logits)).sum())
            raise ModelError(
                f"{bad} of {len(logits)} logits after {len(self.ids)} tokens are not finite: the model's weights are "
                "damaged or its training diverged"
            )
        self.ids.append(token)
        self.num_new += 1
        self._seen[token] = True
        self.finish_reason = self._finish_reason(token)
        return Step(token, logprob, self.finish_reason, self._top(logits, log_normalizer))

    def _finish_reason(self, token: int) -> FinishReason | None:
        if token in self.stop_ids:
            return "stop_token"
        if self.num_new >= self.sampling.max_new_tokens:
            return "length"
        # The next token would be predicted from all of `ids`, which must fit.
        if len(self.ids) > self.max_length:
            return "context"
        return None

    def _top(self, logits: Floats, log_normalizer: float) -> tuple[tuple[int, float], ...]:
        if self.num_top == 0:
            return ()
        best = np.argsort(-logits, kind="stable")[: self.num_top]
        return tuple((int(token), float(logits[token]) - log_normalizer) for token in best)


def log_sum_exp(logits: Floats) -> float:
    """The natural logarithm of the sum of e to each logit: what the logarithm of a probability is counted from.

    Not a number where a logit is not one, or where all are infinite.
    """
    with np.errstate(invalid="ignore"):
        largest = logits.max()
        total = np.exp(logits - largest).sum(dtype=np.float64)
    return float(largest) + math.log(total) if total > 0 else math.nan


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
