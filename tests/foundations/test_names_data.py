"""Words as ids and contexts beside the plainest loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import DataError, UsageError
from groundup.foundations.names.data import BOUNDARY, NameData

words = st.lists(st.text("abcé", min_size=1, max_size=7), min_size=10, max_size=40)


@settings(max_examples=60, deadline=None)
@given(words, st.integers(1, 9), st.integers(0, 100))
def test_contexts_are_those_of_a_loop(found: list[str], block_size: int, seed: int) -> None:
    data = NameData(found, seed)
    x, y = data.contexts(data.train, block_size)
    expected = []
    for word in data.train:
        context = [BOUNDARY] * block_size
        for id in data.encode(word)[1:]:
            expected.append((context, id))
            context = [*context[1:], id]
    assert [(row.tolist(), int(id)) for row, id in zip(x, y, strict=True)] == expected
    assert x.shape == (len(y), block_size) and x.dtype == y.dtype == np.int64


@settings(max_examples=60, deadline=None)
@given(words, st.integers(0, 100))
def test_the_split_keeps_every_word_once_and_ids_come_back(found: list[str], seed: int) -> None:
    data = NameData(found, seed)
    assert sorted([*data.train, *data.validation, *data.test]) == sorted(found)
    assert len(data.train) == len(found) * 8 // 10
    assert data.validation and data.test
    again = NameData(found, seed)
    assert (again.train, again.test) == (data.train, data.test)
    for word in found:
        ids = data.encode(word)
        assert ids[0] == ids[-1] == BOUNDARY and BOUNDARY not in ids[1:-1]
        assert data.decode(ids) == word
    assert data.vocabulary[BOUNDARY] == "" and data.vocabulary[1:] == sorted(set("".join(found)))


def test_another_seed_is_another_split() -> None:
    found = [f"{chr(97 + a)}{chr(97 + b)}" for a in range(10) for b in range(10)]
    assert NameData(found, 0).train != NameData(found, 1).train


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="9 words are too few"):
        NameData(["ab"] * 9 + ["  ", ""])
    data = NameData(["ab", "ba "] * 5)
    assert set(data.train) == {"ab", "ba"}
    with pytest.raises(DataError, match="'abx' has 'x'"):
        data.encode("abx")
    with pytest.raises(UsageError, match="a context of 0 characters"):
        data.contexts(["ab"], 0)
    x, y = data.contexts([], 3)
    assert x.shape == (0, 3) and y.shape == (0,)
