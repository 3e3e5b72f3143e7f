"""What a model has to beat: n-grams as baselines, compressors against their own promises."""

from __future__ import annotations

import gzip
import itertools
import lzma
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.core.errors import DataError
from groundup.evaluate import baselines
from groundup.evaluate.baselines import (
    all_baselines,
    byte_ngram,
    consecutive_pieces,
    gzip_text,
    token_ngram,
    uniform_bytes,
    xz_primed,
    xz_size,
    xz_text,
)


def test_uniform_is_eight_bits_per_byte_also_for_long_characters() -> None:
    baseline = uniform_bytes(["abc", "", "äß€"])
    assert (baseline.bits_per_byte, baseline.num_bytes) == (8.0, 10)
    assert baseline.documents is not None and baseline.documents.num_bytes.tolist() == [3, 0, 7]


def test_compressors_give_sizes_that_can_be_decompressed() -> None:
    texts = ["the cat sat on the mat. " * 30, "a dog. "]
    joined = "".join(texts).encode()
    assert gzip_text(texts).bits == 8 * len(gzip.compress(joined, 9, mtime=0))
    assert xz_text(texts).bits == 8 * xz_size(joined)
    assert xz_text(texts).num_bytes == len(joined) and xz_text(texts).documents is None
    # The settings of xz_size are those of a real xz file.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 20}]
    assert xz_size(joined) == len(lzma.compress(joined, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=filters))


def test_priming_reaches_back_over_the_whole_training_text() -> None:
    source = random.Random(4)
    noise = ["".join(source.choices("abcdefghijklmnop", k=50_000)) for _ in range(24)]
    # The held-out text stands at the very beginning of 1.2 MB, further back than a dictionary of 1 MiB.
    held_out = noise[0][:20_000]
    assert xz_primed(noise, [held_out]).bits_per_byte < 0.05 < 4 < xz_text([held_out]).bits_per_byte
    unrelated = "".join(source.choices("qrstuvwxyz", k=20_000))
    assert xz_primed(noise, [unrelated]).bits == pytest.approx(xz_text([unrelated]).bits, rel=0.1)


def test_pieces_add_up_to_the_whole_and_follow_the_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    source = random.Random(6)
    text = lambda: "".join(source.choices("abcdefgh", k=400))  # noqa: E731
    train = [text() for _ in range(5)]
    # The third piece repeats the first, so that it adds almost nothing; the order within a piece does not matter.
    texts = [text(), text(), text(), ""]
    texts += texts[:2]
    groups = ["a", "a", "b", "b", "a", "a"]
    for found in (gzip_text(texts, groups), xz_text(texts, groups), xz_primed(train, texts, groups)):
        assert found.pieces is not None and found.pieces.of_document.tolist() == [0, 0, 1, 1, 2, 2]
        assert found.pieces.bits.sum() == found.bits
        assert (found.pieces.bits[:2] > 800).all() and found.pieces.bits[2] < 800
    prefix, joined = "".join(train).encode(), "".join(texts).encode()
    primed = xz_primed(train, texts, groups)
    assert primed.bits == 8 * (xz_size(prefix + joined) - xz_size(prefix)) == xz_primed(train, texts).bits
    # One group, or text of which too little could be compressed again: no pieces, the same number.
    assert gzip_text(texts, ["a"] * 6).pieces is None and xz_primed(train, texts).pieces is None
    monkeypatch.setattr(baselines, "MAX_PIECEWISE_BYTES", 2 * len(prefix + joined) + 1)
    halves = xz_primed(train, texts, groups)
    assert halves.pieces is not None and len(halves.pieces.bits) == 2 and halves.bits == primed.bits
    monkeypatch.setattr(baselines, "MAX_PIECEWISE_BYTES", len(prefix))
    assert xz_primed(train, texts, groups).pieces is None


@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(1, 10))
def test_pieces_are_consecutive_and_never_cut_a_run(groups: list[str], limit: int) -> None:
    pieces = consecutive_pieces(groups, limit).tolist()
    runs = sum(a != b for a, b in itertools.pairwise(groups)) + bool(groups)
    assert sorted(set(pieces)) == list(range(min(runs, limit)))
    for (a, b), (p, q) in zip(itertools.pairwise(groups), itertools.pairwise(pieces), strict=True):
        assert q - p in (0, 1) and (a != b or p == q)


def test_a_long_training_text_primes_with_its_last_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MAX_PRIMING_BYTES", 1_000)
    train = ["x" * 5_000, "the words of the held-out text, to be seen"]
    assert xz_primed(train, ["the words of the held-out text, to be seen"]).bits_per_byte < 8


def test_all_baselines_in_order_with_progress() -> None:
    source = random.Random(1)
    words = ["alpha", "beta", "gamma", "delta", "omega"]
    text = lambda: " ".join(source.choices(words, weights=[9, 5, 3, 2, 1], k=60))  # noqa: E731
    train, held_out = [text() for _ in range(60)], [text() for _ in range(8)]
    seen: list[tuple[int, int, str]] = []
    found = all_baselines(
        train,
        held_out,
        lambda texts: [[b - 32 for b in t.encode()] for t in texts],
        100,
        on_progress=lambda *news: seen.append(news),
    )
    assert [baseline.name for baseline in found] == [
        "uniform over bytes",
        "unigram of bytes",
        "unigram of tokens",
        "trigram of bytes",
        "trigram of tokens",
        "gzip",
        "xz",
        "xz primed with the training text",
    ]
    assert [news[0] for news in seen] == list(range(1, 9)) and seen[-1][1:] == (8, found[-1].name)
    values = {baseline.name: baseline.bits_per_byte for baseline in found}
    assert values["trigram of bytes"] < values["unigram of bytes"] < 8
    assert len({baseline.num_bytes for baseline in found}) == 1
    # Here a token is a byte (with another uniform floor), so both kinds nearly agree.
    assert values["trigram of bytes"] == pytest.approx(values["trigram of tokens"], rel=0.02)
    for baseline in found[:5]:
        assert baseline.documents is not None and len(baseline.documents.bits) == 8
        assert baseline.bits == pytest.approx(baseline.documents.bits.sum())


def test_baselines_refuse_what_they_cannot_measure() -> None:
    with pytest.raises(DataError, match="0 characters of training text and 3 of held-out"):
        all_baselines([""], ["abc"], lambda texts: [[] for _ in texts], 10)
    with pytest.raises(DataError, match="0 of held-out"):
        all_baselines(["abc"], [], lambda texts: [[] for _ in texts], 10)
    with pytest.raises(DataError, match="2 documents and 1 byte counts"):
        token_ngram([[1]], [[1], [2]], [1], 5, 1)
    with pytest.raises(DataError, match="nothing to compress"):
        gzip_text([""])


def test_real_text() -> None:
    import pydoc_data.topics

    texts = [text for text in pydoc_data.topics.topics.values() if len(text) > 300]
    held_out, train = texts[::10], [text for i, text in enumerate(texts) if i % 10]
    trigram, unigram = byte_ngram(train, held_out, 3), byte_ngram(train, held_out, 1)
    assert 1.5 < trigram.bits_per_byte < 3.5 < 4 < unigram.bits_per_byte < 5.5
    assert xz_primed(train, held_out).bits_per_byte < xz_text(held_out).bits_per_byte
