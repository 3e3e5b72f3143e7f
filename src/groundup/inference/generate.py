"""The two loops of inference, reference and cached, and the cached loop over a batch.

All are generators of steps; streaming, stop strings, chat and evaluation build on them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.inference.contracts import FinishReason, LanguageModel, Step
from groundup.inference.request import Request
from groundup.inference.sampling import Sampling


def generate_reference(
    model: LanguageModel,
    ids: Sequence[int],
    sampling: Sampling,
    *,
    stop_ids: Collection[int] = (),
    num_top: int = 0,
) -> Iterator[Step]:
    """Generate without a cache: every token is predicted by a whole forward pass over all tokens before it.

    This loop defines what generation means; `generate` yields the same steps at less cost.

    Args:
        model: any causal model; it is run in evaluation mode without gradients.
        ids: the prompt, 1 to `max_position_embeddings` ids.
        sampling: settings (no stop strings, which need text: see `stream_text`).
        stop_ids: tokens that end the generation; the one that does is yielded as the last step.
        num_top: how many of the likeliest tokens each step lists.

    Returns:
        an iterator of steps; the last one has a finish reason.

    Raises:
        UsageError: for a prompt the model cannot read, at the call and not at the first step.
    """
    request = _start(model, ids, sampling, stop_ids, num_top)

    def steps() -> Iterator[Step]:
        while request.finish_reason is None:
            yield request.advance(_last_logits(model, [request.ids])[0])

    return steps()


def generate(
    model: LanguageModel,
    ids: Sequence[int],
    sampling: Sampling,
    *,
    stop_ids: Collection[int] = (),
    num_top: int = 0,
    cache: Any = None,
    prefill_chunk: int | None = None,
) -> Iterator[Step]:
    """Generate with a key-value cache: the prompt once, then one token at a time.

    Args:
        model, ids, sampling, stop_ids, num_top: as in `generate_reference`, whose steps these are.
        cache: continue in this cache of batch size 1, which holds the first `cache.length` of `ids` (fewer than
            all); by default a new one. Between two steps it holds all of the tokens so far but the newest.
        prefill_chunk: read the prompt in pieces of at most this many tokens, which bounds the memory of the
            attention scores; by default in one.

    Raises:
        UsageError: as in `generate_reference`, and for a cache that already holds the whole prompt.
    """
    request = _start(model, ids, sampling, stop_ids, num_top)
    if prefill_chunk is not None and prefill_chunk < 1:
        raise UsageError(f"prefill_chunk ({prefill_chunk}) must be at least 1")
    if cache is None:
        cache = model.new_cache(1, min(len(ids) + sampling.max_new_tokens, request.max_length))
    elif cache.length >= len(ids):
        raise UsageError(
            f"the cache already holds {cache.length} tokens of a prompt of {len(ids)}: truncate it to at most "
            f"{len(ids) - 1}, since the last token must be read to predict the next"
        )

    def steps() -> Iterator[Step]:
        while request.finish_reason is None:
            unread = request.ids[cache.length :]
            size = prefill_chunk or len(unread)
            pieces = [unread[start : start + size] for start in range(0, len(unread), size)]
            for piece in pieces[:-1]:
                _read(model, [piece], cache=cache)
            yield request.advance(_last_logits(model, [pieces[-1]], cache=cache)[0])

    return steps()


@dataclass(frozen=True)
class Completion:
    """What one row of a batch generated: its steps and why it ended."""

    steps: tuple[Step, ...]
    finish_reason: FinishReason

    @property
    def tokens(self) -> list[int]:
        return [step.token for step in self.steps]


def generate_batch(
    model: LanguageModel,
    prompts: list[list[int]],
    sampling: Sampling,
    *,
    stop_ids: Collection[int] = (),
    pad_id: int,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """Generate for several prompts at once; each row's tokens equal `generate` on its prompt alone.

    Args:
        prompts: ids, of any lengths; shorter ones are padded on the left.
        sampling: for all rows. Every row draws from `sampling.seed` as it would alone, so equal prompts give equal
            samples; pass `seeds` for different ones.
        stop_ids: tokens that end a row; the others go on.
        pad_id: any id of the vocabulary; it is never attended to.
        seeds: one per row, in place of `sampling.seed`.

    Returns:
        the generated ids of each row (with the stop token, where one ended it).
    """
    completions = complete_batch(model, prompts, sampling, stop_ids=stop_ids, pad_id=pad_id, seeds=seeds)
    return [completion.tokens for completion in completions]


def complete_batch(
    model: LanguageModel,
    prompts: list[list[int]],
    sampling: Sampling,
    *,
    stop_ids: Collection[int] = (),
    pad_id: int,
    seeds: Sequence[int] | None = None,
    should_stop: Callable[[int, Step], bool] | None = None,
) -> list[Completion]:
    """As `generate_batch`, with log-probabilities and finish reasons.

    Args:
        should_stop: called with every step and its row, in order; True ends the row with the reason "stop_string",
            unless it ended by itself.
    """
    rows: list[list[Step]] = [[] for _ in prompts]
    reasons: list[FinishReason] = ["length"] * len(prompts)
    stopped: set[int] = set()
    for row, step in stream_batch(
        model, prompts, sampling, stop_ids=stop_ids, pad_id=pad_id, seeds=seeds, stopped=stopped
    ):
        rows[row].append(step)
        stop = should_stop is not None and should_stop(row, step)
        if step.finish_reason is not None:
            reasons[row] = step.finish_reason
        elif stop:
            reasons[row] = "stop_string"
            stopped.add(row)
    return [Completion(tuple(steps), reason) for steps, reason in zip(rows, reasons, strict=True)]


def stream_batch(
    model: LanguageModel,
    prompts: list[list[int]],
    sampling: Sampling,
    *,
    stop_ids: Collection[int] = (),
    pad_id: int,
    seeds: Sequence[int] | None = None,
    num_top: int = 0,
    stopped: set[int] | None = None,
) -> Iterator[tuple[int, Step]]:
    """Yield `(row, step)` for all rows of a batch, one token of every unfinished row after the other.

    Args:
        stopped: a set the caller may add rows to while iterating; they get no further steps.

    The other arguments are those of `generate_batch`.
    """
    if seeds is not None and len(seeds) != len(prompts):
        raise UsageError(f"seeds holds {len(seeds)} seeds for {len(prompts)} prompts: give one per prompt")
    row_seeds = [sampling.seed] * len(prompts) if seeds is None else list(seeds)
    requests = [
        _start(model, prompt, sampling.replace(seed=seed), stop_ids, num_top)
        for prompt, seed in zip(prompts, row_seeds, strict=True)
    ]
    if not requests:
        return iter(())
    return _batch_steps(model, requests, pad_id, set() if stopped is None else stopped)


def _batch_steps(
    model: LanguageModel, requests: list[Request], pad_id: int, stopped: set[int]
) -> Iterator[tuple[int, Step]]:
    """The cached loop over the rows that are not finished; `rows[i]` is the request in row i of the cache."""
    device = _device(model)
    rows = list(range(len(requests)))
    width = max(len(request.ids) for request in requests)
    lengths = torch.tensor([len(request.ids) for request in requests], device=device)  # (B,)
    # Column j of a row holds its token j - (width - length); what is left of it is padding.
    positions = torch.arange(width, device=device) - (width - lengths)[:, None]  # (B, T)
    mask = positions >= 0  # (B, S)
    positions = positions.clamp(min=0)
    new_ids = [[pad_id] * (width - len(request.ids)) + request.ids for request in requests]
    cache = model.new_cache(len(requests), width + requests[0].sampling.max_new_tokens)
    while True:
        logits = _last_logits(model, new_ids, cache=cache, mask=mask, positions=positions)
        for index, row in enumerate(rows):
            if requests[row].finish_reason is None and row not in stopped:
                yield row, requests[row].advance(logits[index])
        alive = [i for i, row in enumerate(rows) if requests[row].finish_reason is None and row not in stopped]
        if not alive:
            return
        # A copy of the cache for the rows that are left pays once half of them are finished. Until then a finished
        # row reads padding that nothing sees.
        if len(alive) <= len(rows) // 2:
            cache, mask, rows = cache.fork(alive), mask[alive], [rows[i] for i in alive]
            alive = list(range(len(rows)))
        reads = torch.zeros(len(rows), 1, dtype=torch.bool, device=device)  # (B, 1)
        reads[alive] = True
        mask = torch.cat([mask, reads], dim=1)
        unfinished = set(alive)
        new_ids = [[requests[row].ids[-1]] if i in unfinished else [pad_id] for i, row in enumerate(rows)]
        last = [[len(requests[row].ids) - 1 if i in unfinished else 0] for i, row in enumerate(rows)]
        positions = torch.tensor(last, device=device)  # (B, 1)


def _start(
    model: LanguageModel, ids: Sequence[int], sampling: Sampling, stop_ids: Collection[int], num_top: int
) -> Request:
    if sampling.stop:
        raise UsageError(
            f"the stop strings {list(sampling.stop)!r} need text and this loop sees ids only: "
            "use stream_text or complete_texts, or pass stop_ids"
        )
    return Request(model, ids, sampling, stop_ids, num_top)


def _device(model: LanguageModel) -> torch.device:
    return next(iter(model.parameters())).device


@contextmanager
def evaluation_mode(model: LanguageModel) -> Iterator[None]:
    """Inside, dropout is off and no gradients are kept; afterwards every module has the mode it had.

    It is entered around each forward pass, never across a `yield`: a suspended generator must not leave its caller
    without gradients.
    """
    # no_grad and not inference_mode: a table that a module fills during generation must still serve in training.
    with torch.no_grad():
        if not model.training:
            yield
            return
        before = [(module, module.training) for module in model.modules()]
        try:
            for module, _ in before:
                module.training = False
            yield
        finally:
            for module, training in before:
                module.training = training


def _read(model: LanguageModel, rows: list[list[int]], **options: Any) -> Float[Tensor, "B T D"]:
    with evaluation_mode(model):
        hidden: Tensor = model(torch.tensor(rows, device=_device(model)), **options)
        return hidden


def _last_logits(model: LanguageModel, rows: list[list[int]], **options: Any) -> Float[Tensor, "B V"]:
    with evaluation_mode(model):
        hidden = _read(model, rows, **options)
        return model.logits(hidden[:, -1:])[:, 0]
