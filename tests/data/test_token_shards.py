"""Token shards: round trips, damage, full disks, other processes."""

from __future__ import annotations

import errno
import multiprocessing
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core import files
from groundup.core.errors import DataError
from groundup.data.shards import TokenShards, token_dtype, write_shards

Make = Callable[..., TokenShards]


@settings(deadline=None, max_examples=40)
@given(
    texts=st.lists(st.text(max_size=60), min_size=1, max_size=30),
    shard_tokens=st.sampled_from([1, 7, 50, 1 << 20]),
    data=st.data(),
)
def test_round_trip(make_shards: Make, texts: list[str], shard_tokens: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), texts, shard_tokens=shard_tokens)
        shards.verify()
        expected = np.array([i for text in texts for i in [*text.encode(), shards.eos_id]])
        assert shards.num_tokens == len(expected)
        assert np.array_equal(shards.tokens, expected)
        assert [bytes(shards.read(a, b - 1).tolist()).decode() for a, b in shards.document_spans] == texts
        assert all(shards.read(b - 1, b)[0] == shards.eos_id for _, b in shards.document_spans)
        assert shards.document_bytes == [len(text.encode()) for text in texts]
        start = data.draw(st.integers(0, shards.num_tokens))
        stop = data.draw(st.integers(start, shards.num_tokens))
        assert np.array_equal(shards.read(start, stop), expected[start:stop])
        assert not shards.tokens.flags.writeable
        # No document crosses from one file into the next.
        borders = set(shards.starts.tolist())
        assert borders <= {0, *(b for _, b in shards.document_spans)}
        del shards


def test_sixteen_bits_hold_exactly_65536_ids(
    tmp_path: Path, new_tokenizer: Callable[[int], Any], make_documents: Callable[..., Any]
) -> None:
    assert token_dtype(65_536) == np.dtype("<u2") and token_dtype(65_537) == np.dtype("<u4")
    for size in (65_536, 65_537):
        tokenizer = new_tokenizer(size)
        write_shards(make_documents(["ab"]), tokenizer, tmp_path / str(size))
        shards = TokenShards(tmp_path / str(size))
        assert shards.tokens.tolist() == [97, 98, size - 4]
        assert (tmp_path / str(size) / "tokens-00000.bin").stat().st_size == 3 * (2 if size == 65_536 else 4)


def test_bytes_are_little_endian(tmp_path: Path, new_tokenizer: Callable[[int], Any], make_documents: Any) -> None:
    write_shards(make_documents(["a"]), new_tokenizer(0x1234 + 4), tmp_path)
    assert (tmp_path / "tokens-00000.bin").read_bytes() == b"\x61\x00\x34\x12"


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_every_flipped_bit_is_found_in_the_right_file(make_shards: Make, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(folder, ["one text", "another", "a third one"], shard_tokens=10)
        path = data.draw(st.sampled_from(sorted(folder.glob("*.bin"))))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        shards = TokenShards(folder)
        with pytest.raises(DataError, match=f"{path.name} is damaged: its sha256 is"):
            shards.verify()


def test_truncation_and_absence_show_on_opening(tmp_path: Path, make_shards: Make) -> None:
    make_shards(tmp_path, ["one text", "another", "a third one"], shard_tokens=5)
    path = tmp_path / "tokens-00001.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    with pytest.raises(
        DataError, match=rf"tokens-00001\.bin is damaged: it has {len(whole) - 2} bytes.*says {len(whole)}"
    ):
        TokenShards(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"tokens-00001\.bin is missing"):
        TokenShards(tmp_path)
    (tmp_path / "index.json").unlink()
    with pytest.raises(DataError, match=r"holds no finished shards \(index\.json is missing\)"):
        TokenShards(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(DataError, match=r"index\.json cannot be read"):
        TokenShards(tmp_path)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(DataError, match="is not the index of token shards"):
        TokenShards(tmp_path)


def test_a_full_disk_is_named_and_leaves_nothing_readable(
    tmp_path: Path, make_shards: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(tmp_path, ["old text"])
    calls = 0

    def full(_descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DataError, match=r"no space left on the disk while writing .*tokens-0000\d\.bin"):
        make_shards(tmp_path, ["new text"] * 9, shard_tokens=10)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(DataError, match="holds no finished shards"):
        TokenShards(tmp_path)
    assert make_shards(tmp_path, ["new"]).num_documents == 1
    assert len(list(tmp_path.glob("tokens-*.bin"))) == 1, "shards of an earlier writing are gone"


def test_a_source_that_breaks_off_leaves_nothing_readable(
    tmp_path: Path, byte_tokenizer: Any, make_documents: Callable[..., Any], make_shards: Make
) -> None:
    make_shards(tmp_path, ["old"])

    def broken() -> Any:
        yield from make_documents(["some text" * 20] * 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(broken(), byte_tokenizer, tmp_path, shard_tokens=1)
    assert not (tmp_path / "index.json").exists() and not list(tmp_path.glob(".*"))
    (tmp_path / ".tokens-00000.bin.1.part").write_bytes(b"left by a killed process")
    make_shards(tmp_path, ["new"]).verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents.bin", "index.json", "tokens-00000.bin"]


def test_what_cannot_be_written_is_refused(
    tmp_path: Path, new_tokenizer: Callable[..., Any], make_documents: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match="no documents to write into"):
        write_shards([], new_tokenizer(), tmp_path)
    tokenizer = new_tokenizer()
    tokenizer.eos_id = None
    with pytest.raises(DataError, match="has no eos id"):
        write_shards(make_documents(["a"]), tokenizer, tmp_path)
    small = new_tokenizer(70)
    with pytest.raises(DataError, match="id 122 for document 'd1', outside its vocabulary of 70"):
        write_shards(make_documents(["A", "z"]), small, tmp_path)
    with pytest.raises(DataError, match=r"shard_tokens \(0\)"):
        write_shards(make_documents(["a"]), new_tokenizer(), tmp_path, shard_tokens=0)


def test_another_tokenizer_is_refused(tmp_path: Path, make_shards: Make, new_tokenizer: Callable[..., Any]) -> None:
    shards = make_shards(tmp_path, ["a"])
    shards.check_tokenizer(new_tokenizer())
    other = new_tokenizer(300)
    with pytest.raises(DataError, match=f"fingerprint {shards.tokenizer_fingerprint[:12]}.*{other.fingerprint()[:12]}"):
        shards.check_tokenizer(other)


def test_reading_outside_is_refused(tmp_path: Path, make_shards: Make) -> None:
    shards = make_shards(tmp_path, ["abc"])
    for start, stop in ((-1, 2), (0, 5), (3, 2)):
        with pytest.raises(DataError, match=f"tokens {start} to {stop} are not in the stream of 4 tokens"):
            shards.read(start, stop)


def test_progress_counts_every_byte(tmp_path: Path, byte_tokenizer: Any, make_documents: Callable[..., Any]) -> None:
    texts = ["é" * 400_000, "a" * 900_000, "b"]
    seen: list[int] = []
    write_shards(make_documents(texts), byte_tokenizer, tmp_path, on_progress=seen.append)
    assert sum(seen) == sum(len(text.encode()) for text in texts) and len(seen) == 2


def test_other_processes_read_the_same(tmp_path: Path, make_shards: Make) -> None:
    shards = make_shards(tmp_path, ["one", "two", "three"] * 20, shard_tokens=30)
    expected = int(shards.tokens.astype(np.int64).sum())
    copy = pickle.loads(pickle.dumps(shards))
    assert int(copy.tokens.astype(np.int64).sum()) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        # By name: with importlib mode a test module cannot be imported in the child.
        assert pool.apply(TokenShards.verify, (shards,)) is None
        assert np.array_equal(pool.apply(TokenShards.read, (shards, 3, 90)), shards.read(3, 90))
