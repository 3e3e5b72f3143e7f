"""Which tokens come when: windows of a token stream for training, and every token once for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from groundup.core.errors import ConfigError, DataError
from groundup.core.files import sha256_json
from groundup.core.seeds import seed_for
from groundup.data.batch import IGNORE_INDEX, Batch
from groundup.data.shards import TokenShards


def shuffled(count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return a random order of `0 .. count - 1`, the same on every platform and with every numpy.

    Only the raw stream of PCG64 is promised to stay the same across versions of numpy, so it is sorted here
    instead of calling a shuffle.
    """
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable").astype(np.int64)


def rank_rows(batch_size: int, rank: int, world_size: int) -> range:
    """Return the rows of a global batch that belong to `rank`: equal, contiguous parts.

    Raises:
        ConfigError: when the batch cannot be divided equally (ranks with unequal work wait for each other for ever).
    """
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank ({rank}) must be between 0 and world_size - 1 ({world_size - 1})")
    if batch_size < 1 or batch_size % world_size:
        smaller, larger = batch_size // world_size * world_size, -(-batch_size // world_size) * world_size
        nearest = " or ".join(str(size) for size in sorted({smaller, max(larger, world_size)}) if size > 0)
        raise ConfigError(f"batch_size ({batch_size}) must be a multiple of world_size ({world_size}): use {nearest}")
    share = batch_size // world_size
    return range(rank * share, (rank + 1) * share)


class Position:
    """The state of a stateful source: what was consumed, and a description of the data it belongs to."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self.next_step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"next_step": self.next_step, **self.description}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a state; DataError when it belongs to other data, another seed or another batch size."""
        for name, value in self.description.items():
            if state.get(name) != value:
                raise DataError(
                    f"the saved data position has {name} = {state.get(name)!r}, this run has {value!r}: the order of "
                    "the data would differ, so go on with the same value or begin a new run"
                )
        self.next_step = int(state["next_step"])


class TokenWindows:
    """Random windows of a token stream, the source of batches for pretraining.

    The stream is a circle (its end, an eos, is followed by its beginning). Each epoch cuts it into
    `num_tokens // context` windows, beginning at a fresh random place, and visits them in a fresh random order:
    in one epoch every token is an input exactly once and a target exactly once, except `num_tokens % context`
    tokens that lie elsewhere in every epoch. Batches go on over the end of an epoch without a gap.

    The order is a pure function of (seed, epoch), so `update(step)` needs no history, and the state is a few
    numbers.

    Args:
        shards: the stream.
        context: T, tokens of one window.
        batch_size: windows of one update over all ranks.
        micro_batch: windows in one forward pass.
        seed: of the run.
        rank, world_size: this process takes an equal, contiguous part of every global batch.
        separate_documents: also give `segments` and `positions`, so that no token sees another document.

    Raises:
        DataError: when the stream is not longer than one window.
        ConfigError: when a size is not positive or `batch_size` is no multiple of `world_size`.
    """

    def __init__(
        self,
        shards: TokenShards,
        *,
        context: int,
        batch_size: int,
        micro_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        separate_documents: bool = False,
    ) -> None:
        if context < 1 or micro_batch < 1:
            raise ConfigError(f"context ({context}) and micro_batch ({micro_batch}) must be at least 1")
        if shards.num_tokens <= context:
            raise DataError(
                f"{shards.folder} holds {shards.num_tokens:,} tokens, a window of {context:,} needs more: "
                "give more text or choose a smaller context"
            )
        self.shards, self.context, self.batch_size, self.micro_batch = shards, context, batch_size, micro_batch
        self.seed, self.separate_documents = seed, separate_documents
        self.rows = rank_rows(batch_size, rank, world_size)
        self.num_windows = shards.num_tokens // context
        self._order: tuple[int, npt.NDArray[np.int64], int] | None = None
        self._position = Position(
            {
                "seed": seed,
                "context": context,
                "batch_size": batch_size,
                "num_tokens": shards.num_tokens,
                "content": sha256_json(shards.index["shards"])[:16],
                "separate_documents": separate_documents,
            }
        )

    @property
    def num_steps_per_epoch(self) -> int:
        """Updates that one epoch takes, rounded up."""
        return -(-self.num_windows // self.batch_size)

    @property
    def tokens_per_update(self) -> int:
        """Targets of one update over all ranks."""
        return self.batch_size * self.context

    def epoch_order(self, epoch: int) -> tuple[npt.NDArray[np.int64], int]:
        """Return the order of the windows in an epoch, and the token where its first window begins."""
        if self._order is None or self._order[0] != epoch:
            order = shuffled(self.num_windows, seed_for(self.seed, "windows", "order", epoch))
            offset = seed_for(self.seed, "windows", "offset", epoch) % self.shards.num_tokens
            self._order = (epoch, order, offset)
        return self._order[1], self._order[2]

    def window(self, index: int) -> Int[Tensor, " T1"]:
        """Return window `index`, counted from the first of the run: `context + 1` tokens."""
        epoch, place = divmod(index, self.num_windows)
        order, offset = self.epoch_order(epoch)
        start = (offset + int(order[place]) * self.context) % self.shards.num_tokens
        stop = start + self.context + 1
        tokens = self.shards.read(start, min(stop, self.shards.num_tokens))
        if stop > self.shards.num_tokens:
            tokens = np.concatenate([tokens, self.shards.read(0, stop - self.shards.num_tokens)])
        return torch.from_numpy(tokens.astype(np.int64))

    def update(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of update `step` (from 0)."""
        first = step * self.batch_size
        windows = [self.window(first + row) for row in self.rows]
        self._position.next_step = step + 1
        return [
            self._batch(torch.stack(windows[start : start + self.micro_batch]))
            for start in range(0, len(windows), self.micro_batch)
        ]

    def _batch(self, tokens: Int[Tensor, "B T1"]) -> Batch:
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        if not self.separate_documents:
            return Batch(inputs=inputs, targets=targets)
        segments, positions = document_segments(inputs, self.shards.eos_id)
        return Batch(inputs=inputs, targets=targets, positions=positions, segments=segments)

    def state_dict(self) -> dict[str, Any]:
        """Return the position as JSON types: the next step, and what the order depends on."""
        return self._position.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a position; DataError (with both values) when it belongs to other data or another order."""
        self._position.load(state)

    @property
    def next_step(self) -> int:
        """The update that comes next: one after the last that was given out or loaded."""
        return self._position.next_step


def document_segments(inputs: Int[Tensor, "B T"], eos_id: int) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Number the documents in rows of tokens; an eos belongs to the document it ends.

    Returns:
        segments (0, 1, ... from the left) and positions (from 0 in every document; the first document of a row
        counts from the row's beginning), each (B, T).
    """
    starts = torch.zeros_like(inputs, dtype=torch.bool)
    starts[:, 1:] = inputs[:, :-1] == eos_id
    places = torch.arange(inputs.shape[1]).expand_as(inputs)
    begin = torch.where(starts, places, 0).cummax(dim=1).values
    return starts.cumsum(dim=1), places - begin


def evaluation_batches(
    shards: TokenShards, context: int, batch_size: int, *, stride: int | None = None
) -> Iterator[Batch]:
    """Yield batches in which every token of the stream is a target exactly once, in order.

    The first token is predicted from an eos, which stands for the end of an earlier document. A window counts only
    the targets that no earlier window counted; the last window reaches back so that it is full too (a stream shorter
    than the context is padded on the right).

    Args:
        shards: the stream of N tokens.
        context: T, tokens of one window.
        batch_size: rows of a batch; the last batch may have fewer.
        stride: new targets of each window, at most `context` (the default: windows do not overlap). A smaller
            stride gives every target at least `context - stride` tokens to see, at `context / stride` times the
            work.
    """
    stride = context if stride is None else stride
    if not 1 <= stride <= context:
        raise ConfigError(f"stride ({stride}) must be between 1 and context ({context})")
    if batch_size < 1:
        raise ConfigError(f"batch_size ({batch_size}) must be at least 1")
    total = shards.num_tokens
    rows: list[tuple[Tensor, Tensor]] = []
    counted = 0
    while counted < total:
        # Targets first .. last - 1 stand in this window, of which those from `counted` on are new.
        last = min(total, context if counted == 0 else counted + stride)
        first = max(0, last - context)
        targets = np.full(context, IGNORE_INDEX, dtype=np.int64)
        targets[counted - first : last - first] = shards.read(counted, last)
        inputs = np.full(context, shards.eos_id, dtype=np.int64)
        if first == 0:
            inputs[1 : last - first] = shards.read(0, last - 1)
        else:
            inputs[: last - first] = shards.read(first - 1, last - 1)
        rows.append((torch.from_numpy(inputs), torch.from_numpy(targets)))
        counted = last
        if len(rows) == batch_size or counted == total:
            yield Batch(inputs=torch.stack([r[0] for r in rows]), targets=torch.stack([r[1] for r in rows]))
            rows = []


class Mixture:
    """Several sources of windows side by side: each update holds the windows of all of them.

    Micro-batches of the sources are joined as long as the micro-batch allows, so that mixing costs no extra passes.

    Args:
        sources: of the same context; the share of each is its `batch_size` over the sum.
        micro_batch: windows in one forward pass.
    """

    def __init__(self, sources: Sequence[TokenWindows], *, micro_batch: int) -> None:
        contexts = {source.context for source in sources}
        if len(contexts) != 1:
            raise ConfigError(f"the sources of a mixture must have one context, these have {sorted(contexts)}")
        self.sources, self.micro_batch = tuple(sources), micro_batch

    def update(self, step: int) -> list[Batch]:
        """Return the micro-batches of update `step`, in the order of the sources."""
        parts = [batch for source in self.sources for batch in source.update(step)]
        inputs = torch.cat([part.inputs for part in parts])
        targets = torch.cat([part.targets for part in parts])
        return [
            Batch(inputs=i, targets=t)
            for i, t in zip(torch.split(inputs, self.micro_batch), torch.split(targets, self.micro_batch), strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"sources": [source.state_dict() for source in self.sources]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["sources"]) != len(self.sources):
            raise DataError(
                f"the checkpoint mixes {len(state['sources'])} sources, this run {len(self.sources)}: "
                "it belongs to another run"
            )
        for source, saved in zip(self.sources, state["sources"], strict=True):
            source.load_state_dict(saved)
