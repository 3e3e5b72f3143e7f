"""The two loops of inference, reference and cached, and the cached loop over a batch.

All are generators of steps; streaming, stop strings, chat and evaluation build on them. Nothing here imports torch before
a model made of modules asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from groundup.core.errors import UsageError
from groundup.inference.contracts import Decoder, FinishReason, LanguageModel, Step
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
    request, decoder = _start(model, ids, sampling, stop_ids, num_top), as_decoder(model)

    def steps() -> Iterator[Step]:
        while request.finish_reason is None:
            yield request.advance(decoder.next_logits(np.array([request.ids]))[0])

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
    decoder = as_decoder(model)
    if cache is None:
        cache = decoder.new_cache(1, min(len(ids) + sampling.max_new_tokens, request.max_length))
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
                decoder.read(np.array([piece]), cache=cache)
            yield request.advance(decoder.next_logits(np.array([pieces[-1]]), cache=cache)[0])

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
    return _batch_steps(as_decoder(model), requests, pad_id, set() if stopped is None else stopped)


def _batch_steps(
    decoder: Decoder, requests: list[Request], pad_id: int, stopped: set[int]
) -> Iterator[tuple[int, Step]]:
    """The cached loop over the rows that are not finished; `rows[i]` is the request in row i of the cache."""
    rows = list(range(len(requests)))
    width = max(len(request.ids) for request in requests)
    lengths = np.array([len(request.ids) for request in requests])  # (B,)
    # Column j of a row holds its token j - (width - length); what is left of it is padding.
    positions = np.arange(width) - (width - lengths)[:, None]  # (B, T)
    mask = positions >= 0  # (B, S)
    positions = np.maximum(positions, 0)
    new_ids = np.array([[pad_id] * (width - len(request.ids)) + request.ids for request in requests])
    cache = decoder.new_cache(len(requests), width + requests[0].sampling.max_new_tokens)
    while True:
        logits = decoder.next_logits(new_ids, cache=cache, mask=mask, positions=positions)
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
        reads = np.zeros((len(rows), 1), np.bool_)
        reads[alive] = True
        mask = np.concatenate([mask, reads], axis=1)
        unfinished = set(alive)
        new_ids = np.array([[requests[row].ids[-1]] if i in unfinished else [pad_id] for i, row in enumerate(rows)])
        positions = np.array([[len(requests[row].ids) - 1 if i in unfinished else 0] for i, row in enumerate(rows)])


def _start(
    model: LanguageModel, ids: Sequence[int], sampling: Sampling, stop_ids: Collection[int], num_top: int
) -> Request:
    if sampling.stop:
        raise UsageError(
            f"the stop strings {list(sampling.stop)!r} need text and this loop sees ids only: "
            "use stream_text or complete_texts, or pass stop_ids"
        )
    return Request(model, ids, sampling, stop_ids, num_top)


def as_decoder(model: LanguageModel) -> Decoder:
    """What the loops drive: a decoder as it is, modules through `groundup.inference.tensors.TensorDecoder`."""
    if isinstance(model, Decoder):
        return model
    from groundup.inference.tensors import TensorDecoder, TensorModel

    assert isinstance(model, TensorModel)
    return TensorDecoder(model)
