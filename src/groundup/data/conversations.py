"""Batches of conversations for tuning: whole ones, of similar length together, or several packed in a row."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from groundup.core.errors import ConfigError, DataError
from groundup.core.seeds import random_for, seed_for
from groundup.data.batch import IGNORE_INDEX, Batch
from groundup.data.sampler import Position, rank_rows, shuffled

log = logging.getLogger("groundup.data.conversations")

#: How many batches are sorted by length together: enough to bring equal lengths together, few enough that the
#: order stays random.
BUCKET_BATCHES = 16


@runtime_checkable
class TrainedIds(Protocol):
    """Token ids with a mark for each that is trained; `tokenizer.chat.EncodedChat` is one."""

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def trained(self) -> Sequence[bool]: ...


@dataclass(frozen=True)
class _Chat:
    inputs: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]


class ConversationSource:
    """Shuffled batches of conversations with exact state.

    Every epoch visits each conversation exactly once, in an order that is a pure function of (seed, epoch). Batches
    go on over the end of an epoch, so each has the same number of rows. Rows are padded on the right, which needs no
    mask: attention is causal and padded targets are ignored. Rows of one batch have similar lengths.

    With `packed`, several conversations share a row of up to `max_length` tokens, kept apart by `segments` (-1 is
    padding) and `positions` that begin again at 0. Which ones share a row is settled once, by the seed; epochs
    shuffle the rows.

    Args:
        chats: encoded conversations; the loss is on the tokens marked as trained.
        batch_size: rows of one update over all ranks.
        micro_batch: rows in one forward pass.
        seed: of the run.
        max_length: T, the most input tokens of a row (a conversation of n ids has n - 1 inputs).
        pad_id: fills the end of shorter rows.
        packed: put several conversations in a row.
        too_long: what to do with a conversation that does not fit: leave it out (counted in `num_dropped`), or raise.
        pad_to_multiple: round the length of a batch up to a multiple of this, so that few shapes occur.
        rank, world_size: this process takes an equal, contiguous part of every global batch.

    Attributes:
        num_conversations: how many are used.
        num_dropped: how many were too long.
        num_rows: rows of one epoch.

    Raises:
        DataError: a conversation in which nothing or everything is trained (the chat template marks the wrong span),
            one that is too long (with `too_long="error"`), or none left.
    """

    def __init__(
        self,
        chats: Sequence[TrainedIds],
        *,
        batch_size: int,
        micro_batch: int,
        seed: int,
        max_length: int,
        pad_id: int,
        packed: bool = False,
        too_long: Literal["drop", "error"] = "drop",
        pad_to_multiple: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if max_length < 1 or micro_batch < 1 or pad_to_multiple < 1:
            raise ConfigError(
                f"max_length ({max_length}), micro_batch ({micro_batch}) and pad_to_multiple ({pad_to_multiple}) "
                "must be at least 1"
            )
        self.batch_size, self.micro_batch, self.seed = batch_size, micro_batch, seed
        self.max_length, self.pad_id, self.packed, self.pad_to_multiple = max_length, pad_id, packed, pad_to_multiple
        self.rows = rank_rows(batch_size, rank, world_size)
        self.chats = _prepare(chats, max_length, too_long)
        self.num_conversations = len(self.chats)
        self.num_dropped = len(chats) - len(self.chats)
        lengths = [len(chat.inputs) for chat in self.chats]
        if packed:
            self._items = pack(lengths, max_length, seed_for(seed, "conversations", "packing"))
        else:
            self._items = [[index] for index in range(len(self.chats))]
        self.num_rows = len(self._items)
        self._lengths = [sum(lengths[index] for index in item) for item in self._items]
        self._order: dict[int, list[int]] = {}
        self._position = Position(
            {
                "seed": seed,
                "batch_size": batch_size,
                "max_length": max_length,
                "packed": packed,
                "num_rows": self.num_rows,
                "content": _fingerprint(self.chats),
            }
        )

    @property
    def num_steps_per_epoch(self) -> int:
        """Updates that one epoch takes, rounded up."""
        return -(-self.num_rows // self.batch_size)

    def epoch_order(self, epoch: int) -> list[int]:
        """Return the rows of an epoch in the order of their visit: shuffled, with similar lengths in one batch."""
        if epoch not in self._order:
            order = shuffled(self.num_rows, seed_for(self.seed, "conversations", "order", epoch)).tolist()
            # The epoch's first rows complete the batch that the epoch before began.
            head = min(-epoch * self.num_rows % self.batch_size, self.num_rows)
            body, batch = order[head:], self.batch_size
            batches = []
            for start in range(0, len(body) // batch * batch, batch * BUCKET_BATCHES):
                pool = body[start : min(start + batch * BUCKET_BATCHES, len(body) // batch * batch)]
                pool.sort(key=lambda row: (self._lengths[row], row))
                batches += [pool[i : i + batch] for i in range(0, len(pool), batch)]
            random_for(self.seed, "conversations", "batches", epoch).shuffle(batches)
            tail = body[len(body) // batch * batch :]
            # One batch can touch two epochs (or more, when it is larger than an epoch): keep the latest few.
            self._order = {key: value for key, value in self._order.items() if key >= epoch - 1}
            self._order[epoch] = [*order[:head], *(row for rows in batches for row in rows), *tail]
        return self._order[epoch]

    def update(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of update `step` (from 0)."""
        chosen = []
        for index in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, place = divmod(index, self.num_rows)
            chosen.append(self.epoch_order(epoch)[place])
        chosen.sort(key=lambda row: self._lengths[row])
        mine = [chosen[row] for row in self.rows]
        self._position.next_step = step + 1
        return [self._batch(mine[start : start + self.micro_batch]) for start in range(0, len(mine), self.micro_batch)]

    def each_once(self) -> Iterator[Batch]:
        """Yield every row exactly once, by length, in micro-batches: all of the conversations, for evaluation."""
        rows = sorted(range(self.num_rows), key=lambda row: self._lengths[row])
        for start in range(0, len(rows), self.micro_batch):
            yield self._batch(rows[start : start + self.micro_batch])

    def _batch(self, rows: list[int]) -> Batch:
        longest = max(self._lengths[row] for row in rows)
        width = min(-(-longest // self.pad_to_multiple) * self.pad_to_multiple, self.max_length)
        inputs = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        targets = np.full((len(rows), width), IGNORE_INDEX, dtype=np.int64)
        segments = np.full((len(rows), width), -1, dtype=np.int64)
        positions = np.zeros((len(rows), width), dtype=np.int64)
        for row, item in enumerate(rows):
            start = 0
            for segment, index in enumerate(self._items[item]):
                chat = self.chats[index]
                end = start + len(chat.inputs)
                inputs[row, start:end], targets[row, start:end] = chat.inputs, chat.targets
                segments[row, start:end], positions[row, start:end] = segment, np.arange(end - start)
                start = end
        if not self.packed:
            return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))
        return Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            positions=torch.from_numpy(positions),
            segments=torch.from_numpy(segments),
        )

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


def pack(lengths: Sequence[int], capacity: int, seed: int) -> list[list[int]]:
    """Distribute items over rows of `capacity` tokens, longest first, each into the fullest row that has room.

    This is best-fit decreasing, which needs at most 11/9 of the fewest rows possible plus a constant (Johnson 1974).
    Items of equal length are taken in an order chosen by the seed.

    Returns:
        for each row the indices of its items; every index occurs exactly once.
    """
    tie = shuffled(len(lengths), seed).tolist()
    rank = {index: place for place, index in enumerate(tie)}
    rows: list[list[int]] = []
    # Rows by the room they have left: a lookup over at most `capacity` sizes instead of over all rows.
    by_room: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], rank[i])):
        need = lengths[index]
        if need > capacity:
            raise DataError(f"an item of {need} tokens does not fit into a row of {capacity}")
        room = min((size for size, rows_with in by_room.items() if size >= need and rows_with), default=None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, capacity
        else:
            row = by_room[room].pop()
        rows[row].append(index)
        by_room.setdefault(room - need, []).append(row)
    return rows


def _prepare(chats: Sequence[TrainedIds], max_length: int, too_long: str) -> list[_Chat]:
    kept, longest, dropped = [], 0, 0
    for index, chat in enumerate(chats):
        if len(chat.ids) != len(chat.trained):
            raise DataError(f"conversation {index} has {len(chat.ids)} ids and {len(chat.trained)} marks")
        # The first id has nothing before it, so it is never a target.
        if not any(chat.trained[1:]):
            raise DataError(
                f"conversation {index} has no trained token among its {len(chat.ids)}: it needs an assistant turn, and "
                "the chat template must put it between {% generation %} and {% endgeneration %}"
            )
        if all(chat.trained):
            raise DataError(
                f"conversation {index} has all of its {len(chat.ids)} tokens trained, the user's too: the chat template "
                "must put only the assistant's turns between {% generation %} and {% endgeneration %}"
            )
        if len(chat.ids) - 1 > max_length:
            dropped += 1
            longest = max(longest, len(chat.ids) - 1)
            if too_long == "error":
                raise DataError(
                    f"conversation {index} has {len(chat.ids) - 1} input tokens, more than max_length ({max_length}): "
                    "shorten it, raise max_length, or leave such conversations out with too_long='drop'"
                )
            continue
        ids = np.array(chat.ids, dtype=np.int64)
        targets = np.where(np.array(chat.trained[1:]), ids[1:], IGNORE_INDEX)
        kept.append(_Chat(ids[:-1], targets))
    if dropped:
        log.warning("left out %d of %d conversations longer than %d tokens", dropped, len(chats), max_length)
    if not kept:
        why = f": all {dropped} are longer than max_length ({max_length}; the longest has {longest})" if dropped else ""
        raise DataError(f"there is no conversation to train on{why}")
    return kept


def _fingerprint(chats: Sequence[_Chat]) -> str:
    digest = sha256()
    for chat in chats:
        digest.update(len(chat.inputs).to_bytes(8, "little") + chat.inputs.tobytes() + chat.targets.tobytes())
    return digest.hexdigest()[:16]
