"""Batches of conversations: every one once an epoch, nothing lost in packing, exact resume, clear refusals."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import ConfigError, DataError
from groundup.data.batch import IGNORE_INDEX, Batch
from groundup.data.conversations import ConversationSource, pack

PAD = 0


@dataclass
class Chat:
    ids: list[int]
    trained: list[bool]


def chat(number: int, length: int) -> Chat:
    """A conversation whose ids tell which it is: 1000 * (number + 1) + place; the last third is trained."""
    first = max(1, length - max(1, length // 3))
    return Chat([1000 * (number + 1) + place for place in range(length)], [place >= first for place in range(length)])


def source(chats: list[Chat], **options: Any) -> ConversationSource:
    defaults = {"batch_size": 4, "micro_batch": 2, "seed": 1, "max_length": 40, "pad_id": PAD}
    return ConversationSource(chats, **defaults | options)


def conversations_in(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Take a batch apart: for every conversation its inputs and its targets."""
    found = []
    for row in range(len(batch.inputs)):
        inputs, targets = batch.inputs[row].tolist(), batch.targets[row].tolist()
        if batch.segments is None:
            length = sum(token != PAD for token in inputs)
            assert inputs[length:] == [PAD] * (len(inputs) - length)
            assert targets[length:] == [IGNORE_INDEX] * (len(inputs) - length)
            found.append((inputs[:length], targets[:length]))
            continue
        assert batch.positions is not None
        segments, positions = batch.segments[row].tolist(), batch.positions[row].tolist()
        assert [s for s in segments if s >= 0] == sorted(s for s in segments if s >= 0)
        for segment in range(max(segments) + 1):
            places = [place for place, s in enumerate(segments) if s == segment]
            assert [positions[place] for place in places] == list(range(len(places)))
            found.append(([inputs[p] for p in places], [targets[p] for p in places]))
        padding = [place for place, s in enumerate(segments) if s == -1]
        assert all(inputs[p] == PAD and targets[p] == IGNORE_INDEX for p in padding)
        assert padding == list(range(len(segments) - len(padding), len(segments)))
    return found


def expected(item: Chat) -> tuple[list[int], list[int]]:
    targets = [i if t else IGNORE_INDEX for i, t in zip(item.ids[1:], item.trained[1:], strict=True)]
    return item.ids[:-1], targets


lengths_of = st.lists(st.integers(2, 41), min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(
    lengths=lengths_of,
    batch_size=st.integers(1, 9),
    micro_batch=st.integers(1, 4),
    packed=st.booleans(),
    seed=st.integers(0, 9),
    multiple=st.sampled_from([1, 8]),
)
def test_an_epoch_holds_every_conversation_once_and_whole(
    lengths: list[int], batch_size: int, micro_batch: int, packed: bool, seed: int, multiple: int
) -> None:
    chats = [chat(number, length) for number, length in enumerate(lengths)]
    made = source(
        chats, batch_size=batch_size, micro_batch=micro_batch, packed=packed, seed=seed, pad_to_multiple=multiple
    )
    # As many updates as end exactly with an epoch.
    steps = made.num_rows
    found: list[tuple[list[int], list[int]]] = []
    for step in range(steps):
        batches = made.update(step)
        assert sum(len(batch.inputs) for batch in batches) == batch_size
        for batch in batches:
            assert len(batch.inputs) <= micro_batch and batch.inputs.shape[1] <= 40
            assert batch.inputs.shape[1] % multiple == 0 or batch.inputs.shape[1] == 40
            found += conversations_in(batch)
    counts = Counter(json.dumps(item) for item in found)
    assert counts == Counter({json.dumps(expected(item)): batch_size for item in chats})


@settings(deadline=None, max_examples=30)
@given(lengths=lengths_of, batch_size=st.integers(1, 9), seed=st.integers(0, 9))
def test_each_single_epoch_is_a_permutation(lengths: list[int], batch_size: int, seed: int) -> None:
    made = source([chat(n, length) for n, length in enumerate(lengths)], batch_size=batch_size, seed=seed)
    for epoch in (0, 1, 5):
        assert sorted(made.epoch_order(epoch)) == list(range(len(lengths)))


@settings(deadline=None, max_examples=30)
@given(lengths=lengths_of, stop=st.integers(0, 20), packed=st.booleans(), batch_size=st.integers(1, 9))
def test_resume_gives_the_same_batches(lengths: list[int], stop: int, packed: bool, batch_size: int) -> None:
    chats = [chat(number, length) for number, length in enumerate(lengths)]
    whole, first, second = (source(chats, packed=packed, batch_size=batch_size) for _ in range(3))
    wanted = [[b.inputs.tolist() for b in whole.update(step)] for step in range(stop + 8)]
    for step in range(stop):
        first.update(step)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.next_step == stop
    assert [[b.inputs.tolist() for b in second.update(s)] for s in range(stop, stop + 8)] == wanted[stop:]


@settings(deadline=None, max_examples=30)
@given(
    lengths=lengths_of,
    world_size=st.integers(1, 3),
    share=st.integers(1, 4),
    packed=st.booleans(),
    micro=st.integers(1, 3),
)
def test_ranks_partition_every_batch(lengths: list[int], world_size: int, share: int, packed: bool, micro: int) -> None:
    chats = [chat(number, length) for number, length in enumerate(lengths)]
    size = world_size * share
    alone = source(chats, batch_size=size, packed=packed, micro_batch=micro)
    ranks = [
        source(chats, batch_size=size, packed=packed, micro_batch=micro, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for step in (0, 1, 5):
        parts = [rank.update(step) for rank in ranks]
        together = [item for part in parts for batch in part for item in conversations_in(batch)]
        assert together == [item for batch in alone.update(step) for item in conversations_in(batch)]
        assert len({len(part) for part in parts}) == 1
        assert sum(b.num_targets() for part in parts for b in part) == sum(b.num_targets() for b in alone.update(step))


@settings(deadline=None, max_examples=80)
@given(lengths=st.lists(st.integers(1, 30), min_size=0, max_size=60), seed=st.integers(0, 5))
def test_packing_loses_nothing_and_is_dense(lengths: list[int], seed: int) -> None:
    rows = pack(lengths, 30, seed)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= 30 for row in rows)
    # Two rows that fit together would have been one.
    fills = sorted(sum(lengths[index] for index in row) for row in rows)
    assert len(fills) < 2 or fills[0] + fills[1] > 30


def test_an_item_that_does_not_fit_is_named() -> None:
    with pytest.raises(DataError, match="an item of 31 tokens does not fit into a row of 30"):
        pack([3, 31], 30, 0)


def test_buckets_cut_padding_and_packing_cuts_it_further() -> None:
    chats = [chat(number, 2 + (number * 37) % 39) for number in range(512)]

    def waste(**options: Any) -> float:
        made = source(chats, batch_size=8, micro_batch=8, **options)
        batches = [batch for step in range(made.num_steps_per_epoch) for batch in made.update(step)]
        return sum((b.inputs == PAD).sum().item() for b in batches) / sum(b.inputs.numel() for b in batches)

    # Rows of random lengths from 2 to 40 in batches of 8 would be padded by about 45 %.
    assert waste() < 0.1
    assert waste(packed=True) < 0.05


def test_epochs_and_seeds_shuffle() -> None:
    chats = [chat(number, 10) for number in range(64)]
    orders = [tuple(source(chats, seed=seed).epoch_order(epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    packs = {tuple(map(tuple, source(chats, packed=True, seed=seed)._items)) for seed in (1, 2)}
    assert len(packs) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_evaluation_sees_each_conversation_once(packed: bool) -> None:
    chats = [chat(number, 2 + (number * 11) % 39) for number in range(23)]
    found = [item for batch in source(chats, packed=packed).each_once() for item in conversations_in(batch)]
    assert sorted(found) == sorted(expected(item) for item in chats)


def test_the_tokenizers_conversations_fit() -> None:
    chat_module = pytest.importorskip("groundup.tokenizer.chat", reason="the tokenizer's chat part is not here yet")
    made = source([chat_module.EncodedChat(ids=[5, 6, 7], trained=[False, True, True])])
    batch = made.update(0)[0]
    assert batch.inputs[0].tolist() == [5, 6] and batch.targets[0].tolist() == [6, 7]


def test_wrong_masks_are_refused() -> None:
    good = chat(0, 6)
    with pytest.raises(DataError, match=r"conversation 1 has no trained token among its 3.*\{% generation %\}"):
        source([good, Chat([1, 2, 3], [False] * 3)])
    # The first id is never a target, so a mark on it alone trains nothing.
    with pytest.raises(DataError, match="conversation 0 has no trained token among its 3"):
        source([Chat([1, 2, 3], [True, False, False])])
    with pytest.raises(DataError, match="conversation 1 has all of its 3 tokens trained"):
        source([good, Chat([1, 2, 3], [True] * 3)])
    with pytest.raises(DataError, match="conversation 0 has 3 ids and 2 marks"):
        source([Chat([1, 2, 3], [False, True])])
    with pytest.raises(DataError, match="conversation 0 has no trained token among its 0"):
        source([Chat([], [])])


def test_too_long_ones_are_dropped_and_counted_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    chats = [chat(0, 41), chat(1, 42), chat(2, 5), chat(3, 90)]
    with caplog.at_level(logging.WARNING, "groundup"):
        made = source(chats)
    assert (made.num_conversations, made.num_dropped) == (2, 2)
    assert "left out 2 of 4 conversations longer than 40 tokens" in caplog.text
    with pytest.raises(DataError, match=r"conversation 1 has 41 input tokens, more than max_length \(40\)"):
        source(chats, too_long="error")
    with pytest.raises(DataError, match=r"all 2 are longer than max_length \(40; the longest has 89\)"):
        source([chats[1], chats[3]])
    with pytest.raises(DataError, match=r"no conversation to train on$"):
        source([])


def test_foreign_states_and_sizes_are_refused() -> None:
    chats = [chat(number, 10) for number in range(9)]
    state = source(chats).state_dict()
    with pytest.raises(DataError, match="seed = 1, this run has 2"):
        source(chats, seed=2).load_state_dict(state)
    with pytest.raises(DataError, match="num_rows = 9, this run has 8"):
        source(chats[:8]).load_state_dict(state)
    changed = [*chats[:8], Chat(chats[8].ids, [not t for t in chats[8].trained])]
    with pytest.raises(DataError, match="content = "):
        source(changed).load_state_dict(state)
    with pytest.raises(ConfigError, match=r"batch_size \(4\) must be a multiple of world_size \(3\): use 3 or 6"):
        source(chats, world_size=3)
    with pytest.raises(ConfigError, match=r"max_length \(0\)"):
        source(chats, max_length=0)
